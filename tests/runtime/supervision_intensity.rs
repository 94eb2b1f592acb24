//! How often, when, and what follows (contract, rule 8): intensity, backoff, factories, suspension, the end.

use std::time::Duration;

use crate::common::staff::{LONG, SECOND, Staff, clerk};
use crate::common::{PATIENCE, poll_once, queue, soon};
use postroom::LifecycleKind::{Restarted, Resumed, Started, Suspended};
use postroom::{Overflow, Problem, Refusal, Restart, Retry, SubscriptionState};
use serde_json::json;

#[tokio::test]
async fn exactly_the_allowed_restarts_and_one_more_suspends() {
    let staff = Staff::new().await;
    let clerk = clerk!(staff, "a").intensity(3, LONG);
    let clerk = clerk.start().await.unwrap();
    for _ in 0..3 {
        staff.ask("a", "panic").await;
        staff.pass(20 * SECOND).await;
    }
    assert_eq!(clerk.state(), SubscriptionState::Running);
    assert_eq!(staff.made("a"), 4);
    staff.ask("a", "panic").await;
    staff.pass(20 * SECOND).await;
    assert_eq!(clerk.state(), SubscriptionState::Suspended);
    assert_eq!((staff.made("a"), clerk.snapshot().restarts), (4, 3));
    let events = staff.events_of("a");
    assert_eq!(
        events,
        [Started, Restarted, Restarted, Restarted, Suspended]
    );
    staff.end().await;
}

#[tokio::test]
async fn failures_outside_of_the_period_do_not_count() {
    let staff = Staff::new().await;
    let clerk = clerk!(staff, "a").intensity(1, 100 * SECOND);
    let clerk = clerk.start().await.unwrap();
    for _ in 0..5 {
        staff.order("a", "panic").await;
        staff.pass(101 * SECOND).await;
    }
    assert_eq!(clerk.state(), SubscriptionState::Running);
    staff.order("a", "panic").await;
    staff.pass(90 * SECOND).await;
    staff.order("a", "panic").await;
    assert_eq!(clerk.state(), SubscriptionState::Suspended);
    staff.end().await;
}

#[tokio::test]
async fn waits_between_restarts_grow_to_a_cap_and_begin_anew_after_quiet() {
    let staff = Staff::new().await;
    let clerk = clerk!(staff, "a").intensity(100, LONG);
    let clerk = clerk.restart_backoff(10 * SECOND..40 * SECOND);
    clerk.start().await.unwrap();
    staff.pass(Duration::ZERO).await;
    // The longest wait; chance takes up to a fifth of it off.
    for (made, longest) in [(2, 0), (3, 10), (4, 20), (5, 40), (6, 40)] {
        staff.order("a", "panic").await;
        let shortest = longest * 4 / 5;
        if longest > 0 {
            staff
                .pass(shortest * SECOND - Duration::from_millis(1))
                .await;
            assert_eq!(staff.made("a"), made - 1, "not before {shortest} s");
        }
        staff
            .pass((longest - shortest) * SECOND + Duration::from_millis(1))
            .await;
        assert_eq!(staff.made("a"), made, "after {longest} s");
    }
    staff.pass(LONG + SECOND).await;
    staff.order("a", "panic").await;
    assert_eq!(staff.made("a"), 7, "at once again");
    staff.end().await;
}

#[tokio::test]
async fn failures_to_start_count() {
    let staff = Staff::new().await;
    let makes = staff.clone();
    let factory = async move || {
        let _ = makes.make("a");
        Err::<crate::common::staff::Clerk, _>("not today")
    };
    let clerk = staff.bus.try_subscriber("a", factory).pattern("a");
    let clerk = clerk.intensity(2, LONG).start().await.unwrap();
    staff.pass(100 * SECOND).await;
    assert_eq!(staff.made("a"), 3);
    assert_eq!(clerk.state(), SubscriptionState::Suspended);
    let events = staff.events_of("a");
    assert_eq!(events, [Started, Restarted, Restarted, Suspended]);
    staff.end().await;
}

#[tokio::test]
async fn a_factory_that_panics_is_a_failure_to_start() {
    let staff = Staff::new().await;
    let makes = staff.clone();
    let factory = move || {
        let clerk = makes.make("a");
        assert!(makes.made("a") > 2, "on purpose, in the factory");
        clerk
    };
    let clerk = staff.bus.subscriber("a", factory).pattern("a");
    let clerk = clerk.intensity(2, LONG).start().await.unwrap();
    staff.ask("a", "works").await;
    staff.pass(100 * SECOND).await;
    assert_eq!(staff.take_log().last().unwrap(), "a3 works");
    assert_eq!(clerk.snapshot().restarts, 2);
    staff.end().await;
}

#[tokio::test]
async fn a_slow_factory_holds_up_only_its_own_messages() {
    let staff = Staff::new().await;
    let makes = staff.clone();
    let factory = async move || {
        makes.door.pass().await;
        Ok::<_, String>(makes.make("a"))
    };
    let slow = staff.bus.try_subscriber("a", factory).pattern("a");
    let slow = slow.start().await.unwrap();
    clerk!(staff, "b").start().await.unwrap();
    staff.ask("a", "works").await;
    staff.bus.publish_raw("b", json!("works")).await.unwrap();
    crate::common::eventually("the other one works", || queue(&staff.bus, "b").acked == 1).await;
    assert_eq!(slow.snapshot().queued, 1);
    staff.door.open();
    crate::common::eventually("it works", || slow.snapshot().acked == 1).await;
    assert_eq!(slow.snapshot().restarts, 0);
    staff.end().await;
}

#[tokio::test]
async fn a_slow_factory_is_cut_off_by_a_stop() {
    let staff = Staff::new().await;
    let makes = staff.clone();
    let factory = async move || {
        makes.door.pass().await;
        Ok::<_, String>(makes.make("a"))
    };
    let slow = staff.bus.try_subscriber("a", factory).pattern("a");
    let slow = slow.start().await.unwrap();
    assert!(!slow.stop(Duration::ZERO).await.in_time);
    staff.door.open();
    staff.pass(LONG).await;
    assert_eq!(staff.made("a"), 0);
    staff.end().await;
}

/// A subscription with a bound of 2, suspended and full.
async fn suspended_and_full(staff: &Staff) -> postroom::Subscription {
    let clerk = clerk!(staff, "a").intensity(0, LONG).mailbox(2);
    let clerk = clerk.overflow(Overflow::Wait).start().await.unwrap();
    staff.order("a", "panic").await;
    assert_eq!(clerk.state(), SubscriptionState::Suspended);
    staff.ask("a", "works first").await;
    staff.ask("a", "works second").await;
    clerk
}

#[tokio::test]
async fn a_suspended_subscription_accepts_to_its_bound_and_then_refuses_at_once() {
    let staff = Staff::new().await;
    let clerk = suspended_and_full(&staff).await;
    let refused = staff
        .bus
        .publish_raw("a", json!("works"))
        .await
        .unwrap_err();
    let queue = "a".to_owned();
    assert_eq!(*refused.kind(), Refusal::Suspended { queue });
    assert_eq!(clerk.snapshot().queued, 2);
    clerk.resume().await;
    staff.pass(Duration::ZERO).await;
    let log = staff.take_log();
    assert_eq!(log[log.len() - 2..], ["a2 works first", "a2 works second"]);
    assert_eq!(staff.events_of("a"), [Started, Suspended, Resumed]);
    staff.end().await;
}

#[tokio::test]
async fn a_publisher_that_waits_is_refused_when_the_queue_is_suspended() {
    let staff = Staff::new().await;
    let clerk = clerk!(staff, "a").intensity(0, LONG).mailbox(1);
    let clerk = clerk.no_timeout().retry(Retry::fixed(LONG).attempts(2));
    let clerk = clerk.start().await.unwrap();
    staff.order("a", "wait and panic once").await;
    let mut waiting = Box::pin(async { staff.bus.publish_raw("a", json!("works")).await });
    assert!(poll_once(&mut waiting).is_pending());
    staff.door.open();
    let refused = soon("the refusal", waiting).await.unwrap_err();
    let queue = "a".to_owned();
    assert_eq!(*refused.kind(), Refusal::Suspended { queue });
    clerk.resume().await;
    staff.pass(2 * LONG).await;
    assert_eq!(staff.take_log().last().unwrap(), "a2 attempt 2");
    staff.end().await;
}

#[tokio::test]
async fn resuming_forgets_the_failures() {
    let staff = Staff::new().await;
    let clerk = clerk!(staff, "a").intensity(1, LONG);
    let clerk = clerk.start().await.unwrap();
    for round in 0..3 {
        staff.order("a", "panic").await;
        staff.pass(20 * SECOND).await;
        assert_eq!(clerk.state(), SubscriptionState::Running, "round {round}");
        staff.order("a", "panic").await;
        assert_eq!(clerk.state(), SubscriptionState::Suspended, "round {round}");
        clerk.resume().await;
        staff.pass(Duration::ZERO).await;
    }
    assert_eq!(clerk.snapshot().restarts, 3);
    staff.end().await;
}

#[tokio::test]
async fn resuming_one_that_runs_changes_nothing() {
    let staff = Staff::new().await;
    let clerk = clerk!(staff, "a").start().await.unwrap();
    staff.order("a", "wait").await;
    clerk.resume().await;
    staff.door.open();
    staff.pass(Duration::ZERO).await;
    assert_eq!(staff.take_log(), ["a1 made", "a1 waits", "a1 waited"]);
    assert_eq!(staff.events_of("a"), [Started]);
    staff.end().await;
}

#[tokio::test]
async fn resuming_lets_other_workers_finish_what_they_have_in_hand() {
    let staff = Staff::new().await;
    let clerk = clerk!(staff, "a").intensity(0, LONG).workers(2);
    let clerk = clerk.start().await.unwrap();
    staff.order("a", "wait").await;
    staff.order("a", "panic").await;
    assert_eq!(clerk.state(), SubscriptionState::Suspended);
    let resumed = tokio::spawn({
        let clerk = clerk.clone();
        async move { clerk.resume().await }
    });
    crate::common::eventually("it resumes", || staff.events_of("a").contains(&Resumed)).await;
    staff.door.open();
    soon("the resumption", resumed).await.unwrap();
    staff.pass(Duration::ZERO).await;
    let log = staff.take_log();
    let waits = log.iter().filter(|entry| entry.ends_with("waits"));
    assert_eq!(waits.count(), 1, "not handled twice: {log:?}");
    staff.order("a", "works").await;
    assert_eq!(clerk.snapshot().acked, 2);
    staff.end().await;
}

/// A member of the group `a` with a factory of its own, so that the log tells who it was.
async fn member(staff: &Staff, name: &'static str) -> postroom::Subscription {
    let member = staff.bus.subscriber("a", staff.factory(name)).pattern("a");
    let member = member.retry(Retry::none()).intensity(0, LONG);
    member.restart(Restart::Transient).start().await.unwrap()
}

#[tokio::test]
async fn a_suspended_member_that_leaves_its_group_lets_the_others_go_on() {
    let staff = Staff::new().await;
    let first = member(&staff, "first").await;
    let second = member(&staff, "second").await;
    staff.pass(Duration::ZERO).await;
    staff.take_log();
    staff.order("a", "panic").await;
    assert_eq!(first.state(), SubscriptionState::Suspended);
    staff.order("a", "works").await;
    let (suspended, worked) = match &*staff.take_log() {
        [gone] if gone == "first1 gone" => (first, "second1 works"),
        [gone] if gone == "second1 gone" => (second, "first1 works"),
        other => panic!("one of them fails: {other:?}"),
    };
    suspended.stop(PATIENCE).await;
    staff.pass(Duration::ZERO).await;
    assert_eq!(staff.take_log(), [worked]);
    assert_eq!(suspended.state(), SubscriptionState::Running, "its group");
    staff.end().await;
}

#[tokio::test]
async fn an_ended_subscription_accepts_to_its_bound_and_then_refuses_at_once() {
    let staff = Staff::new().await;
    let clerk = clerk!(staff, "a").restart(Restart::Transient).mailbox(2);
    let clerk = clerk.overflow(Overflow::Wait).start().await.unwrap();
    staff.order("a", "stop").await;
    assert_eq!(clerk.state(), SubscriptionState::Ended);
    assert_eq!(clerk.snapshot().state, SubscriptionState::Ended);
    let health = staff.bus.health();
    let problems: Vec<_> = health.conditions().iter().map(|of| of.problem).collect();
    assert_eq!(problems, [Problem::Ended]);
    assert!(health.is_ready());
    staff.ask("a", "works first").await;
    staff.ask("a", "works second").await;
    let refused = staff.bus.publish_raw("a", json!("works")).await;
    let queue = "a".to_owned();
    assert_eq!(*refused.unwrap_err().kind(), Refusal::Ended { queue });
    clerk.resume().await;
    staff.pass(Duration::ZERO).await;
    assert_eq!(clerk.state(), SubscriptionState::Running);
    let log = staff.take_log();
    assert_eq!(log[log.len() - 2..], ["a2 works first", "a2 works second"]);
    staff.end().await;
}

#[tokio::test]
async fn a_publisher_that_waits_is_refused_when_the_queue_ends() {
    let staff = Staff::new().await;
    let clerk = clerk!(staff, "a").restart(Restart::Transient).mailbox(1);
    let clerk = clerk.no_timeout().start().await.unwrap();
    staff.order("a", "wait and stop").await;
    let publish = || Box::pin(async { staff.bus.publish_raw("a", json!("works")).await });
    let mut waiting = [publish(), publish()];
    assert!(waiting.iter_mut().all(|one| poll_once(one).is_pending()));
    staff.door.open();
    let [first, second] = waiting;
    // The place of what was handled is the first one's.
    soon("the first", first).await.unwrap();
    let refused = soon("the second", second).await.unwrap_err();
    let queue = "a".to_owned();
    assert_eq!(*refused.kind(), Refusal::Ended { queue });
    clerk.resume().await;
    staff.pass(Duration::ZERO).await;
    assert_eq!(staff.take_log().last().unwrap(), "a2 works");
    staff.end().await;
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_what_nobody_will_handle() {
    let staff = Staff::new().await;
    let clerk = clerk!(staff, "a").restart(Restart::Temporary);
    clerk.start().await.unwrap();
    let office = staff.bus.supervisor("office").start().await.unwrap();
    let stopped = clerk!(staff, "b").under(&office).start().await.unwrap();
    staff.order("a", "panic").await;
    assert!(office.stop(PATIENCE).await.is_empty());
    assert_eq!(stopped.state(), SubscriptionState::Ended);
    staff.ask("a", "works").await;
    staff.ask("b", "works").await;
    let report = staff.bus.shutdown(PATIENCE).await;
    assert!(report.elapsed < PATIENCE / 2, "{report:?}");
    assert_eq!((report.abandoned.len(), report.timed_out.len()), (2, 0));
    crate::common::check_books(&staff.bus);
}

#[tokio::test]
async fn a_group_has_ended_when_its_last_member_has_and_runs_again_with_a_new_one() {
    let staff = Staff::new().await;
    let first = member(&staff, "first").await;
    member(&staff, "second").await;
    staff.order("a", "stop").await;
    staff.order("a", "works").await;
    assert_eq!(first.state(), SubscriptionState::Running);
    staff.order("a", "stop").await;
    staff.order("a", "works").await;
    assert_eq!(first.state(), SubscriptionState::Ended);
    assert_eq!((first.snapshot().acked, first.snapshot().queued), (3, 1));
    let third = member(&staff, "third").await;
    staff.pass(Duration::ZERO).await;
    assert_eq!(staff.take_log().last().unwrap(), "third1 works");
    third.stop(PATIENCE).await;
    assert_eq!(first.state(), SubscriptionState::Ended);
    staff.end().await;
}

#[tokio::test]
async fn a_group_stays_suspended_until_its_last_suspended_member_is_not() {
    for stops in [false, true] {
        let staff = Staff::new().await;
        let mut members = Vec::new();
        for _ in 0..2 {
            let clerk = clerk!(staff, "a").intensity(0, LONG);
            members.push(clerk.start().await.unwrap());
        }
        for _ in 0..2 {
            staff.order("a", "wait and panic").await;
        }
        staff.door.open();
        staff.pass(Duration::ZERO).await;
        assert_eq!(
            staff.events_of("a"),
            [Started, Started, Suspended, Suspended]
        );
        if stops {
            assert!(members[0].stop(PATIENCE).await.in_time);
        } else {
            members[0].resume().await;
        }
        staff.order("a", "works").await;
        assert_eq!(members[1].state(), SubscriptionState::Suspended);
        members[1].resume().await;
        staff.pass(Duration::ZERO).await;
        assert_eq!(members[1].state(), SubscriptionState::Running);
        assert_eq!(members[1].snapshot().acked, 1);
        staff.end().await;
    }
}
