//! Which exits are restarted, and who restarts with whom (contract, rule 8; the words are OTP's).

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::common::staff::{LONG, SECOND, Staff, clerk};
use crate::common::{Log, PATIENCE, bus, check_books, end, eventually, queue};
use postroom::LifecycleKind::{Ended, Restarted, Started, Stopped};
use postroom::{
    Context, Outcome, RawMessage, RawSubscriber, Restart, Retry, Strategy, SubscribeError,
    SubscriptionState, Supervisor,
};
use serde_json::json;

/// A subscriber exits by `task`, and the next message shows whether it runs again.
async fn exit(restart: Restart, task: &str, again: bool) {
    let staff = Staff::new().await;
    let clerk = clerk!(staff, "a").restart(restart);
    let clerk = clerk.start().await.unwrap();
    staff.ask("a", task).await;
    staff.ask("a", "works").await;
    staff.pass(20 * SECOND).await;
    if again {
        assert_eq!(staff.events_of("a"), [Started, Restarted]);
        assert_eq!(clerk.snapshot().restarts, 1);
    } else {
        assert_eq!(staff.events_of("a"), [Started, Ended]);
        assert_eq!((staff.made("a"), clerk.snapshot().restarts), (1, 0));
        assert_eq!(clerk.state(), SubscriptionState::Ended);
        assert_eq!(clerk.snapshot().queued, 1, "it keeps its messages");
        clerk.resume().await;
        staff.pass(Duration::ZERO).await;
    }
    assert_eq!(staff.take_log().last().unwrap(), "a2 works");
    staff.end().await;
}

/// A subscriber is stopped by `stop`, with a message in hand, and does not run again.
async fn shutdown_exit(restart: Restart, stop: impl AsyncFnOnce(&Staff, Supervisor)) {
    let staff = Staff::new().await;
    let supervisor = staff.bus.supervisor("office").start().await.unwrap();
    let clerk = clerk!(staff, "a").restart(restart).under(&supervisor);
    clerk.start().await.unwrap();
    staff.order("a", "wait").await;
    staff.door.open();
    stop(&staff, supervisor).await;
    assert_eq!(
        staff.take_log(),
        ["a1 made", "a1 waits", "a1 waited", "a1 gone"]
    );
    check_books(&staff.bus);
    staff.pass(LONG).await;
    assert_eq!(staff.made("a"), 1);
    let events = staff.events_of("a");
    assert!(!events.contains(&Restarted) && !events.contains(&Ended));
    staff.end().await;
}

/// Every cell of a restart type.
macro_rules! cells {
    ($($name:ident: $restart:ident, $normal:literal, $abnormal:literal;)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test]
            async fn normal_exit() {
                exit(Restart::$restart, "stop", $normal).await;
            }

            #[tokio::test]
            async fn panic() {
                exit(Restart::$restart, "panic", $abnormal).await;
            }

            #[tokio::test]
            async fn timeout() {
                exit(Restart::$restart, "hang", $abnormal).await;
            }

            #[tokio::test]
            async fn stop_of_the_subscription() {
                let staff = Staff::new().await;
                let clerk = clerk!(staff, "a").restart(Restart::$restart);
                let clerk = clerk.start().await.unwrap();
                staff.order("a", "wait").await;
                staff.door.open();
                let report = clerk.stop(PATIENCE).await;
                assert!(report.in_time && report.abandoned.is_empty());
                staff.pass(LONG).await;
                assert_eq!(staff.events_of("a"), [Started, Stopped]);
                assert_eq!(staff.made("a"), 1);
                staff.end().await;
            }

            #[tokio::test]
            async fn stop_of_the_supervisor() {
                shutdown_exit(Restart::$restart, async |staff, supervisor| {
                    assert!(supervisor.stop(PATIENCE).await.is_empty());
                    staff.pass(Duration::ZERO).await;
                    assert_eq!(staff.events_of("a"), [Started, Stopped]);
                    assert_eq!(staff.events_of("office"), [Started, Stopped]);
                })
                .await;
            }

            #[tokio::test]
            async fn stop_of_the_bus() {
                shutdown_exit(Restart::$restart, async |staff, _| staff.end().await).await;
            }
        }
    )*};
}

cells! {
    permanent: Permanent, true, true;
    transient: Transient, false, true;
    temporary: Temporary, false, false;
}

#[tokio::test]
async fn a_worker_that_ends_leaves_the_others_of_its_subscriber_alone() {
    let staff = Staff::new().await;
    let clerk = clerk!(staff, "a").workers(2).restart(Restart::Transient);
    let clerk = clerk.start().await.unwrap();
    staff.order("a", "stop").await;
    assert_eq!(staff.events_of("a"), [Started], "one is left");
    staff.order("a", "panic").await;
    assert_eq!(staff.events_of("a"), [Started, Restarted]);
    staff.order("a", "stop").await;
    assert_eq!(staff.events_of("a"), [Started, Restarted, Ended]);
    assert_eq!(clerk.snapshot().restarts, 1);
    staff.end().await;
}

#[tokio::test]
async fn one_worker_fails_and_the_others_run_on() {
    let staff = Staff::new().await;
    let clerk = clerk!(staff, "a").workers(3).no_timeout();
    clerk.start().await.unwrap();
    staff.order("a", "wait").await;
    staff.order("a", "wait").await;
    staff.take_log();
    staff.order("a", "panic").await;
    staff.order("a", "works").await;
    let log = staff.take_log();
    assert_eq!(log.len(), 3, "{log:?}");
    assert_eq!(log[1..], ["a4 made", "a4 works"], "{log:?}");
    staff.door.open();
    staff.end().await;
}

async fn three(staff: &Staff, strategy: Strategy, second: Restart) -> Supervisor {
    let office = staff.bus.supervisor("office").strategy(strategy);
    let office = office.start().await.unwrap();
    clerk!(staff, "a").under(&office).start().await.unwrap();
    let clerk = clerk!(staff, "b").restart(second).under(&office);
    clerk.start().await.unwrap();
    clerk!(staff, "c").under(&office).start().await.unwrap();
    staff.pass(Duration::ZERO).await;
    assert_eq!(staff.take_log(), ["a1 made", "b1 made", "c1 made"]);
    staff.take_events();
    office
}

fn restarts(staff: &Staff) -> [u64; 3] {
    ["a", "b", "c"].map(|name| queue(&staff.bus, name).restarts)
}

#[tokio::test]
async fn one_for_one_restarts_the_one_that_failed() {
    let staff = Staff::new().await;
    three(&staff, Strategy::OneForOne, Restart::Permanent).await;
    staff.order("b", "panic").await;
    assert_eq!(staff.take_log(), ["b1 gone", "b2 made"]);
    assert_eq!(restarts(&staff), [0, 1, 0]);
    staff.end().await;
}

#[tokio::test]
async fn one_for_all_stops_in_reverse_order_and_starts_in_order() {
    let staff = Staff::new().await;
    three(&staff, Strategy::OneForAll, Restart::Permanent).await;
    staff.order("b", "panic").await;
    let expected = [
        "b1 gone", "c1 gone", "a1 gone", "a2 made", "b2 made", "c2 made",
    ];
    assert_eq!(staff.take_log(), expected);
    assert_eq!(restarts(&staff), [1, 1, 1]);
    let subjects: Vec<_> = staff.take_events();
    let expected = ["b", "a", "c"].map(|name| (name.to_owned(), Restarted));
    assert_eq!(subjects, expected, "the one that failed is told first");
    for name in ["a", "b", "c"] {
        staff.order(name, "works").await;
    }
    assert_eq!(staff.take_log(), ["a2 works", "b2 works", "c2 works"]);
    staff.end().await;
}

/// Two siblings, of which the first makes its handler only while the door is open.
async fn slow_and_b(staff: &Staff, patience: Duration) {
    let office = staff.bus.supervisor("office").strategy(Strategy::OneForAll);
    let office = office.start().await.unwrap();
    let makes = staff.clone();
    let factory = async move || {
        makes.door.pass().await;
        Ok::<_, String>(makes.make("slow"))
    };
    staff.door.let_through(1);
    let slow = staff.bus.try_subscriber("slow", factory).pattern("slow");
    let slow = slow.own_thread().stop_timeout(patience).under(&office);
    slow.start().await.unwrap();
    staff.pass(Duration::ZERO).await;
    clerk!(staff, "b").under(&office).start().await.unwrap();
    staff.pass(Duration::ZERO).await;
    assert_eq!(staff.take_log(), ["slow1 made", "b1 made"]);
    staff.order("b", "panic").await;
    assert_eq!(staff.take_log(), ["b1 gone", "slow1 gone"]);
}

#[tokio::test]
async fn a_sibling_starts_when_the_one_before_it_has_made_its_handler() {
    let staff = Staff::new().await;
    slow_and_b(&staff, 3 * SECOND).await;
    staff.pass(3 * SECOND - Duration::from_millis(1)).await;
    assert_eq!(staff.take_log(), [""; 0]);
    staff.door.open();
    staff.pass(Duration::ZERO).await;
    assert_eq!(staff.take_log(), ["slow2 made", "b2 made"]);
    staff.end().await;
}

#[tokio::test]
async fn a_sibling_that_does_not_begin_in_time_holds_up_nobody() {
    let staff = Staff::new().await;
    slow_and_b(&staff, 3 * SECOND).await;
    staff.pass(3 * SECOND).await;
    assert_eq!(staff.take_log(), ["b2 made"]);
    staff.order("b", "works").await;
    assert_eq!(staff.take_log(), ["b2 works"]);
    staff.door.open();
    staff.pass(Duration::ZERO).await;
    assert_eq!(staff.take_log(), ["slow2 made"]);
    staff.end().await;
}

#[tokio::test]
async fn a_sibling_does_not_start_before_the_one_before_it_can() {
    let staff = Staff::new().await;
    let office = staff.bus.supervisor("office").strategy(Strategy::OneForAll);
    let office = office.start().await.unwrap();
    let (makes, tries) = (staff.clone(), Arc::new(AtomicU32::new(0)));
    let factory = async move || match tries.fetch_add(1, Ordering::Relaxed) {
        1 | 2 => {
            makes.log.push("a cannot".to_owned());
            Err("not yet".to_owned())
        }
        _ => Ok(makes.make("a")),
    };
    let a = staff.bus.try_subscriber("a", factory).pattern("a");
    a.own_thread().under(&office).start().await.unwrap();
    staff.pass(Duration::ZERO).await;
    clerk!(staff, "b").under(&office).start().await.unwrap();
    staff.pass(Duration::ZERO).await;
    assert_eq!(staff.take_log(), ["a1 made", "b1 made"]);
    staff.order("b", "panic").await;
    staff.pass(LONG).await;
    staff.pass(LONG).await;
    let expected = [
        "b1 gone", "a1 gone", "a cannot", "a cannot", "a2 made", "b2 made",
    ];
    assert_eq!(staff.take_log(), expected);
    staff.end().await;
}

#[tokio::test]
async fn rest_for_one_restarts_those_started_after_it() {
    let staff = Staff::new().await;
    three(&staff, Strategy::RestForOne, Restart::Permanent).await;
    staff.order("b", "panic").await;
    let expected = ["b1 gone", "c1 gone", "b2 made", "c2 made"];
    assert_eq!(staff.take_log(), expected);
    staff.order("a", "works").await;
    assert_eq!(staff.take_log(), ["a1 works"], "it keeps its state");
    assert_eq!(restarts(&staff), [0, 1, 1]);
    staff.end().await;
}

#[tokio::test]
async fn a_temporary_sibling_is_stopped_and_not_started_again() {
    let staff = Staff::new().await;
    three(&staff, Strategy::OneForAll, Restart::Temporary).await;
    staff.order("a", "panic").await;
    let expected = ["a1 gone", "c1 gone", "b1 gone", "a2 made", "c2 made"];
    assert_eq!(staff.take_log(), expected);
    assert_eq!(staff.events_of("b"), [Ended]);
    staff.end().await;
}

#[tokio::test]
async fn the_failure_of_a_temporary_child_concerns_nobody_else() {
    let staff = Staff::new().await;
    three(&staff, Strategy::OneForAll, Restart::Temporary).await;
    staff.order("b", "panic").await;
    assert_eq!(staff.take_log(), ["b1 gone"]);
    assert_eq!(restarts(&staff), [0, 0, 0]);
    staff.end().await;
}

#[tokio::test]
async fn a_siblings_failure_lets_the_message_in_hand_finish() {
    let staff = Staff::new().await;
    three(&staff, Strategy::OneForAll, Restart::Permanent).await;
    staff.order("a", "wait").await;
    staff.ask("a", "works").await;
    staff.order("c", "panic").await;
    let expected = ["a1 waits", "c1 gone", "b1 gone"];
    assert_eq!(staff.take_log(), expected, "the others wait for it");
    staff.door.open();
    staff.pass(Duration::ZERO).await;
    let log = staff.take_log();
    assert_eq!(log[..3], ["a1 waited", "a1 gone", "a2 made"]);
    // It may be at work again before the next one is made.
    for entry in ["b2 made", "c2 made", "a2 works"] {
        assert!(log[3..].contains(&entry.to_owned()), "{log:?}");
    }
    assert_eq!(queue(&staff.bus, "a").acked, 2);
    staff.end().await;
}

#[tokio::test]
async fn a_sibling_that_does_not_stop_in_time_is_cut_off_uncounted() {
    let staff = Staff::new().await;
    let office = staff.bus.supervisor("office").strategy(Strategy::OneForAll);
    let office = office.start().await.unwrap();
    let clerk = clerk!(staff, "a").no_timeout().stop_timeout(3 * SECOND);
    clerk.under(&office).start().await.unwrap();
    clerk!(staff, "b").under(&office).start().await.unwrap();
    staff.order("a", "hang").await;
    staff.order("b", "panic").await;
    staff.take_log();
    staff.pass(3 * SECOND - Duration::from_millis(1)).await;
    assert_eq!(staff.take_log(), [""; 0]);
    staff.pass(Duration::from_millis(1)).await;
    // It may be at work again before the next one is made.
    let log = staff.take_log();
    assert_eq!(log[..2], ["a1 gone", "a2 made"]);
    for entry in ["b2 made", "a2 hangs at attempt 1"] {
        assert!(log[2..].contains(&entry.to_owned()), "{log:?}");
    }
    let books = queue(&staff.bus, "a");
    assert_eq!((books.in_flight, books.dead_lettered), (1, 0));
    office.stop(Duration::ZERO).await;
    check_books(&staff.bus);
}

#[tokio::test]
async fn two_that_fail_together_are_one_restart_of_all() {
    let staff = Staff::new().await;
    three(&staff, Strategy::OneForAll, Restart::Permanent).await;
    for name in ["a", "c"] {
        staff.order(name, "wait and panic").await;
    }
    // Whichever is told first, the other one has already begun to fail: it can not be stopped before that.
    staff.door.open();
    staff.pass(LONG).await;
    assert_eq!(["a", "b", "c"].map(|name| staff.made(name)), [2, 2, 2]);
    assert_eq!(restarts(&staff), [1, 1, 1]);
    assert_eq!(queue(&staff.bus, "a").dead_lettered, 1);
    assert_eq!(queue(&staff.bus, "c").dead_lettered, 1);
    staff.take_log();
    for name in ["a", "b", "c"] {
        staff.order(name, "works").await;
    }
    assert_eq!(staff.take_log(), ["a2 works", "b2 works", "c2 works"]);
    staff.end().await;
}

#[tokio::test]
async fn a_failure_in_the_middle_of_a_restart_is_taken_into_it() {
    let staff = Staff::new().await;
    three(&staff, Strategy::RestForOne, Restart::Permanent).await;
    // The first restart is at once, the second waits for its backoff.
    staff.order("b", "panic").await;
    staff.order("b", "panic").await;
    staff.take_log();
    staff.order("a", "panic").await;
    assert_eq!(
        staff.take_log(),
        ["a1 gone"],
        "what depends on it must not start before it, and that waits"
    );
    staff.pass(LONG).await;
    let expected = ["a2 made", "b3 made", "c3 made"];
    assert_eq!(staff.take_log(), expected, "each once, in order");
    staff.end().await;
}

#[tokio::test]
async fn nothing_starts_again_under_a_supervisor_that_is_stopped_in_a_restart() {
    let staff = Staff::new().await;
    let office = three(&staff, Strategy::OneForAll, Restart::Permanent).await;
    staff.order("b", "panic").await;
    staff.order("b", "panic").await;
    staff.take_log();
    assert!(office.stop(PATIENCE).await.is_empty());
    staff.pass(LONG).await;
    assert_eq!(staff.take_log(), [""; 0]);
    let refused = clerk!(staff, "d").under(&office).start().await;
    assert_eq!(refused.unwrap_err(), SubscribeError::Closed);
    let refused = staff.bus.supervisor("e").under(&office).start().await;
    assert_eq!(refused.unwrap_err(), SubscribeError::Closed);
    assert!(staff.bus.snapshot().queue("d").is_none());
    staff.end().await;
}

#[tokio::test]
async fn a_poison_message_counts_once_with_one_for_all() {
    let staff = Staff::new().await;
    let office = staff.bus.supervisor("office").strategy(Strategy::OneForAll);
    let office = office.start().await.unwrap();
    let clerk = clerk!(staff, "a").retry(Retry::fixed(SECOND).attempts(6));
    let clerk = clerk.intensity(1, LONG).under(&office);
    clerk.start().await.unwrap();
    clerk!(staff, "b").under(&office).start().await.unwrap();
    staff.ask("a", "panic").await;
    staff.pass(20 * SECOND).await;
    assert_eq!(queue(&staff.bus, "a").dead_lettered, 1);
    assert_eq!((staff.made("a"), staff.made("b")), (7, 7));
    staff.order("a", "works").await;
    assert_eq!(staff.take_log().last().unwrap(), "a7 works");
    staff.end().await;
}

#[tokio::test]
async fn a_panic_disturbs_nobody_else_on_its_thread() {
    let staff = Staff::new().await;
    clerk!(staff, "a").start().await.unwrap();
    clerk!(staff, "b").start().await.unwrap();
    staff.order("b", "wait").await;
    staff.order("a", "panic").await;
    staff.door.open();
    staff.order("b", "works").await;
    let log = staff.take_log();
    assert_eq!(log[log.len() - 2..], ["b1 waited", "b1 works"]);
    assert_eq!(staff.made("b"), 1);
    staff.end().await;
}

/// Counts its handlers. At each message it blocks its thread until it is let go, or panics.
struct Part {
    let_go: Option<Arc<Mutex<mpsc::Receiver<()>>>>,
}

impl RawSubscriber for Part {
    async fn handle(&mut self, _: RawMessage<'_>, _: &mut Context<'_>) -> Outcome {
        let let_go = self.let_go.as_ref().expect("on purpose");
        // The sender gone lets go.
        let _ = let_go.lock().unwrap().recv();
        Ok(())
    }
}

#[tokio::test]
async fn a_worker_whose_thread_was_blocked_past_its_stop_works_after_the_restart() {
    let bus = bus().await;
    let office = bus.supervisor("office").strategy(Strategy::OneForAll);
    let office = office.start().await.unwrap();
    let made = Log::new();
    let (hold, blocked) = mpsc::channel();
    let blocked = Arc::new(Mutex::new(blocked));
    for name in ["blocks", "panics"] {
        let made = made.clone();
        let let_go = (name == "blocks").then(|| Arc::clone(&blocked));
        let part = bus.subscriber(name, move || {
            made.push(name);
            Part {
                let_go: let_go.clone(),
            }
        });
        let part = part.pattern(name).retry(Retry::none()).own_thread();
        let part = part.stop_timeout(Duration::from_millis(10));
        part.under(&office).start().await.unwrap();
    }
    let times = |name| made.all().iter().filter(|other| **other == name).count();
    bus.publish_raw("blocks", json!(1)).await.unwrap();
    eventually("blocked", || queue(&bus, "blocks").in_flight == 1).await;
    bus.publish_raw("panics", json!(1)).await.unwrap();
    // It starts behind the one that blocks: that one has been given up, and told to start again.
    eventually("restarted", || times("panics") == 2).await;
    drop(hold);
    eventually("came round", || times("blocks") == 2).await;
    bus.publish_raw("blocks", json!(2)).await.unwrap();
    eventually("it works", || queue(&bus, "blocks").acked == 2).await;
    end(&bus).await;
}
