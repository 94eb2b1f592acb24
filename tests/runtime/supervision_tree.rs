//! Supervisors under supervisors, stopping in order, and drops that panic (contract, rule 8).

use std::time::Duration;

use crate::common::staff::{LONG, SECOND, Staff, clerk};
use crate::common::{PATIENCE, check_books, queue};
use postroom::LifecycleKind::{Escalated, Restarted, Resumed, Started, Stopped, Suspended};
use postroom::{
    Escalation, Finished, Inbound, Interceptor, LocalBoxFuture, Next, Outcome, Refusal, Retry,
    Strategy, SubscriptionState, Supervisor,
};
use serde_json::json;

/// Two supervisors, one under the other, that hand failures on; below them `a`, which may not fail, and `b`.
async fn tree(staff: &Staff) -> (Supervisor, Supervisor) {
    let outer = staff.bus.supervisor("outer").escalate();
    let outer = outer.intensity(0, LONG).start().await.unwrap();
    let inner = staff.bus.supervisor("inner").escalate().under(&outer);
    let inner = inner.intensity(1, LONG).start().await.unwrap();
    let clerk = clerk!(staff, "a").intensity(0, LONG).under(&inner);
    clerk.mailbox(2).start().await.unwrap();
    clerk!(staff, "b").under(&inner).start().await.unwrap();
    clerk!(staff, "c").under(&outer).start().await.unwrap();
    staff.pass(Duration::ZERO).await;
    staff.take_log();
    staff.take_events();
    (outer, inner)
}

fn events(list: &[(&str, postroom::LifecycleKind)]) -> Vec<(String, postroom::LifecycleKind)> {
    let owned = list.iter().map(|(of, kind)| ((*of).to_owned(), *kind));
    owned.collect()
}

#[tokio::test]
async fn an_escalation_restarts_the_whole_supervisor() {
    let staff = Staff::new().await;
    tree(&staff).await;
    staff.order("a", "panic").await;
    let expected = ["a1 gone", "b1 gone", "a2 made", "b2 made"];
    assert_eq!(staff.take_log(), expected);
    let expected = [
        ("inner", Escalated),
        ("inner", Restarted),
        ("a", Restarted),
        ("b", Restarted),
    ];
    assert_eq!(staff.take_events(), events(&expected));
    for name in ["a", "b", "c"] {
        staff.order(name, "works").await;
    }
    assert_eq!(staff.take_log(), ["a2 works", "b2 works", "c1 works"]);
    staff.end().await;
}

#[tokio::test]
async fn an_escalation_to_the_root_suspends_all_below_and_is_resumed() {
    let staff = Staff::new().await;
    let (outer, _) = tree(&staff).await;
    staff.order("a", "panic").await;
    staff.take_events();
    staff.order("a", "panic").await;
    let expected = [
        ("inner", Escalated),
        ("outer", Escalated),
        ("outer", Suspended),
        ("inner", Suspended),
        ("c", Suspended),
        ("a", Suspended),
        ("b", Suspended),
    ];
    assert_eq!(staff.take_events(), events(&expected));
    staff.pass(LONG).await;
    staff.take_log();
    staff.ask("a", "works").await;
    staff.ask("a", "works").await;
    let refused = staff
        .bus
        .publish_raw("a", json!("works"))
        .await
        .unwrap_err();
    let queue = "a".to_owned();
    assert_eq!(*refused.kind(), Refusal::Suspended { queue });
    staff.ask("c", "works").await;
    outer.resume().await;
    outer.resume().await;
    staff.pass(Duration::ZERO).await;
    for name in ["a", "b", "c"] {
        assert_eq!(staff.events_of(name), [Resumed], "{name}");
    }
    let log = staff.take_log();
    let works = log.iter().filter(|entry| entry.ends_with("works"));
    assert_eq!(works.count(), 3, "{log:?}");
    // The failures are forgotten.
    staff.order("a", "panic").await;
    assert_eq!(
        staff.bus.snapshot().queue("a").unwrap().state,
        SubscriptionState::Running
    );
    staff.end().await;
}

#[tokio::test]
async fn one_subscription_of_a_supervisor_that_was_given_up_is_resumed_alone() {
    let staff = Staff::new().await;
    let office = staff.bus.supervisor("office").escalate();
    let office = office.intensity(0, LONG).start().await.unwrap();
    let clerk = clerk!(staff, "a").intensity(0, LONG).under(&office);
    let clerk = clerk.start().await.unwrap();
    let other = clerk!(staff, "b").under(&office).start().await.unwrap();
    staff.order("a", "panic").await;
    assert_eq!(other.state(), SubscriptionState::Suspended);
    other.resume().await;
    staff.order("b", "works").await;
    assert_eq!(other.snapshot().acked, 1);
    clerk.resume().await;
    staff.order("a", "panic").await;
    assert_eq!(clerk.state(), SubscriptionState::Suspended, "alone");
    assert_eq!(other.state(), SubscriptionState::Running);
    clerk.resume().await;
    staff.order("a", "works").await;
    assert_eq!(clerk.snapshot().acked, 1);
    staff.end().await;
}

#[tokio::test]
async fn an_escalation_to_the_root_stops_the_bus_that_asked_for_it() {
    let staff = Staff::of(|builder| builder.on_escalation(Escalation::StopBus)).await;
    tree(&staff).await;
    staff.order("a", "panic").await;
    assert_eq!(staff.bus.failure(), None);
    staff.order("a", "panic").await;
    assert!(staff.bus.failure().unwrap().contains("on purpose"));
    let refused = staff
        .bus
        .publish_raw("c", json!("works"))
        .await
        .unwrap_err();
    assert_eq!(*refused.kind(), Refusal::Closed);
    staff.end().await;
}

#[tokio::test]
async fn a_supervisor_stops_one_after_another_in_reverse_order() {
    let staff = Staff::new().await;
    let (outer, _) = tree(&staff).await;
    // The last one is busy: those before it still work.
    staff.order("c", "wait").await;
    let stop = tokio::spawn({
        let outer = outer.clone();
        async move { outer.stop(PATIENCE).await }
    });
    staff.order("a", "works").await;
    staff.order("b", "works").await;
    assert_eq!(staff.take_log(), ["c1 waits", "a1 works", "b1 works"]);
    staff.door.open();
    assert!(stop.await.unwrap().is_empty());
    staff.pass(LONG).await;
    let expected = ["c1 waited", "c1 gone", "b1 gone", "a1 gone"];
    assert_eq!(staff.take_log(), expected);
    let expected = ["c", "b", "a", "inner", "outer"].map(|name| (name, Stopped));
    assert_eq!(staff.take_events(), events(&expected));
    staff.end().await;
}

#[tokio::test]
async fn a_stop_is_over_at_its_deadline_and_names_what_was_cut_off() {
    let staff = Staff::new().await;
    let (outer, inner) = tree(&staff).await;
    let stubborn = clerk!(staff, "d").no_timeout().under(&inner);
    stubborn.stop_timeout(LONG).start().await.unwrap();
    staff.order("d", "hang").await;
    let stop = tokio::spawn(async move { outer.stop(3 * SECOND).await });
    crate::common::eventually("it stops", || staff.events_of("c").contains(&Stopped)).await;
    staff.pass(3 * SECOND).await;
    assert_eq!(stop.await.unwrap(), ["d"]);
    staff.pass(LONG).await;
    assert_eq!(staff.made("d"), 1, "nothing starts again");
    let books = queue(&staff.bus, "d");
    assert_eq!((books.in_flight, books.queued), (0, 1), "it went back");
    check_books(&staff.bus);
}

#[tokio::test]
async fn a_shutdown_cuts_off_and_names_the_grandchildren() {
    let staff = Staff::new().await;
    let (_, inner) = tree(&staff).await;
    let stubborn = clerk!(staff, "d").no_timeout().under(&inner);
    stubborn.start().await.unwrap();
    staff.order("d", "hang").await;
    let report = staff.bus.shutdown(Duration::from_millis(200)).await;
    assert_eq!(report.timed_out, ["d"]);
    assert_eq!(report.abandoned.len(), 1);
    assert!(report.elapsed < Duration::from_millis(1200), "{report:?}");
    check_books(&staff.bus);
}

#[tokio::test]
async fn a_stop_without_time_names_only_what_was_in_the_middle() {
    let staff = Staff::new().await;
    let (outer, inner) = tree(&staff).await;
    let makes = staff.clone();
    let factory = async move || {
        makes.door.pass().await;
        Ok::<_, String>(makes.make("d"))
    };
    let slow = staff.bus.try_subscriber("d", factory).pattern("d");
    slow.under(&inner).start().await.unwrap();
    staff.order("b", "hang").await;
    staff.order("c", "works").await;
    assert_eq!(outer.stop(Duration::ZERO).await, ["d", "b"]);
    staff.pass(Duration::ZERO).await;
    let mut gone = staff.take_log().split_off(2);
    gone.sort();
    assert_eq!(gone, ["a1 gone", "b1 gone", "c1 gone"]);
    assert_eq!(queue(&staff.bus, "b").queued, 1, "it went back");
    check_books(&staff.bus);
}

#[tokio::test]
async fn a_supervisor_restarts_as_a_sibling() {
    let staff = Staff::new().await;
    let outer = staff.bus.supervisor("outer").strategy(Strategy::OneForAll);
    let outer = outer.start().await.unwrap();
    clerk!(staff, "a").under(&outer).start().await.unwrap();
    let inner = staff.bus.supervisor("inner").under(&outer);
    let inner = inner.start().await.unwrap();
    clerk!(staff, "b").under(&inner).start().await.unwrap();
    let clerk = clerk!(staff, "c").under(&inner);
    let clerk = clerk.intensity(0, LONG).start().await.unwrap();
    clerk!(staff, "d").under(&outer).start().await.unwrap();
    staff.order("c", "panic").await;
    assert_eq!(clerk.state(), SubscriptionState::Suspended);
    staff.order("b", "panic").await;
    assert_eq!(staff.made("b"), 2, "it restarts alone");
    staff.take_log();
    staff.take_events();
    staff.order("d", "panic").await;
    let log = staff.take_log();
    assert_eq!(log[..3], ["d1 gone", "b2 gone", "a1 gone"]);
    let mut made = log[3..].to_vec();
    made.sort();
    assert_eq!(made, ["a2 made", "b3 made", "c2 made", "d2 made"]);
    let expected = [
        ("d", Restarted),
        ("a", Restarted),
        ("inner", Restarted),
        ("b", Restarted),
        ("c", Resumed),
    ];
    assert_eq!(staff.take_events(), events(&expected));
    for name in ["a", "b", "c", "d"] {
        staff.order(name, "works").await;
    }
    let expected = ["a2 works", "b3 works", "c2 works", "d2 works"];
    assert_eq!(staff.take_log(), expected);
    staff.end().await;
}

/// Panics before the handling of `trip`, after that of `trip after`, and when it is told how `stumble` ended.
struct Trips;

impl Trips {
    fn on(task: &str, delivery: Inbound<'_>) {
        let trips = delivery.message().decode::<String>();
        assert!(trips.is_ok_and(|trips| trips != task), "on purpose");
    }
}

impl Interceptor for Trips {
    fn handle<'a>(&'a self, delivery: Inbound<'a>, next: Next<'a>) -> LocalBoxFuture<'a, Outcome> {
        if delivery.queue() == "operator" {
            return next.run();
        }
        Self::on("trip", delivery);
        Box::pin(async move {
            let outcome = next.run().await;
            Self::on("trip after", delivery);
            outcome
        })
    }

    fn finished(&self, attempt: Finished<'_>) {
        if attempt.delivery().queue() != "operator" {
            Self::on("stumble", attempt.delivery());
        }
    }
}

#[tokio::test]
async fn an_interceptor_that_panics_around_a_handler_is_a_failure_of_its_subscriber() {
    let staff = Staff::of(|builder| builder.intercept(Trips)).await;
    let office = staff.bus.supervisor("office").strategy(Strategy::OneForAll);
    let office = office.start().await.unwrap();
    let clerk = clerk!(staff, "a").intensity(1, LONG).under(&office);
    let clerk = clerk.start().await.unwrap();
    clerk!(staff, "b").under(&office).start().await.unwrap();
    staff.pass(Duration::ZERO).await;
    staff.take_log();
    staff.order("a", "trip").await;
    let expected = ["a1 gone", "b1 gone", "a2 made", "b2 made"];
    assert_eq!(staff.take_log(), expected, "with its siblings");
    staff.order("a", "trip after").await;
    assert_eq!(staff.take_log(), ["a2 trip after", "a2 gone"]);
    assert_eq!(clerk.state(), SubscriptionState::Suspended, "it counts");
    clerk.resume().await;
    staff.order("a", "stumble").await;
    staff.order("a", "works").await;
    let expected = ["a3 made", "a3 stumble", "a3 works"];
    assert_eq!(staff.take_log(), expected, "that changes nothing");
    let books = clerk.snapshot();
    assert_eq!((books.acked, books.dead_lettered), (2, 2));
    staff.end().await;
}

#[tokio::test]
async fn an_interceptor_that_panics_on_one_message_again_and_again_counts_once() {
    let staff = Staff::of(|builder| builder.intercept(Trips)).await;
    let clerk = clerk!(staff, "a").retry(Retry::fixed(SECOND).attempts(5));
    let clerk = clerk.intensity(1, LONG).start().await.unwrap();
    staff.ask("a", "trip").await;
    staff.pass(20 * SECOND).await;
    assert_eq!(clerk.state(), SubscriptionState::Running);
    let books = clerk.snapshot();
    assert_eq!((books.dead_lettered, books.restarts), (1, 5));
    staff.order("a", "works").await;
    assert_eq!(staff.take_log().last().unwrap(), "a6 works");
    staff.end().await;
}

#[tokio::test]
async fn a_handler_that_panics_in_its_drop_when_it_is_stopped_is_survived() {
    let staff = Staff::new().await;
    let makes = staff.clone();
    let sharp = staff.bus.subscriber("a", move || makes.sharp("a"));
    let sharp = sharp.pattern("a").start().await.unwrap();
    clerk!(staff, "b").start().await.unwrap();
    staff.order("a", "works").await;
    assert!(sharp.stop(PATIENCE).await.in_time);
    staff.order("b", "works").await;
    assert_eq!(staff.take_log().last().unwrap(), "b1 works");
    staff.end().await;
}

#[tokio::test]
async fn a_handler_that_panics_in_its_drop_when_it_is_replaced_is_survived() {
    let staff = Staff::new().await;
    let makes = staff.clone();
    let sharp = staff.bus.subscriber("a", move || makes.sharp("a"));
    let sharp = sharp.pattern("a").retry(Retry::none()).timeout(SECOND);
    let sharp = sharp.start().await.unwrap();
    // A normal exit, a timeout, and a panic.
    for task in ["stop", "hang", "panic"] {
        staff.ask("a", task).await;
        staff.pass(100 * SECOND).await;
    }
    staff.order("a", "works").await;
    assert_eq!(staff.take_log().last().unwrap(), "a4 works");
    assert_eq!(
        (sharp.snapshot().acked, sharp.snapshot().dead_lettered),
        (2, 2)
    );
    staff.end().await;
}

/// A value in a handler's future that panics when the future is dropped.
struct Mine;

impl Drop for Mine {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "on purpose, in a dropped future");
    }
}

#[tokio::test]
async fn a_future_that_panics_when_it_is_dropped_at_its_timeout_is_one_failed_attempt() {
    let staff = Staff::new().await;
    let function = async |task: &crate::common::staff::Task, cx: &mut postroom::Context<'_>| {
        if task.0 == 1 && cx.attempt() == 1 {
            let _mine = Mine;
            std::future::pending::<()>().await;
        }
        Ok(())
    };
    let clerk = staff
        .bus
        .subscribe_fn::<crate::common::staff::Task, _>("a", function);
    let clerk = clerk
        .timeout(SECOND)
        .retry(Retry::fixed(SECOND).attempts(2));
    let clerk = clerk.start().await.unwrap();
    staff
        .bus
        .publish(crate::common::staff::Task(1))
        .await
        .unwrap();
    staff
        .bus
        .publish(crate::common::staff::Task(2))
        .await
        .unwrap();
    staff.pass(100 * SECOND).await;
    let books = clerk.snapshot();
    assert_eq!(
        (books.acked, books.dead_lettered, books.restarts),
        (2, 0, 1)
    );
    assert_eq!(staff.events_of("a"), [Started, Restarted]);
    staff.end().await;
}

#[tokio::test]
async fn a_future_that_panics_when_it_is_cut_off_gives_its_message_back() {
    let staff = Staff::new().await;
    let office = staff.bus.supervisor("office").start().await.unwrap();
    let function = async |_: &crate::common::staff::Task, _: &mut postroom::Context<'_>| {
        let _mine = Mine;
        std::future::pending::<()>().await;
        Ok(())
    };
    let clerk = staff
        .bus
        .subscribe_fn::<crate::common::staff::Task, _>("a", function);
    let clerk = clerk.no_timeout().under(&office).start().await.unwrap();
    clerk!(staff, "b").start().await.unwrap();
    staff
        .bus
        .publish(crate::common::staff::Task(1))
        .await
        .unwrap();
    staff.pass(Duration::ZERO).await;
    assert_eq!(office.stop(Duration::ZERO).await, ["a"]);
    staff.order("b", "works").await;
    assert_eq!(staff.take_log().last().unwrap(), "b1 works");
    let books = clerk.snapshot();
    assert_eq!((books.in_flight, books.queued), (0, 1));
    check_books(&staff.bus);
}
