//! Delayed and scheduled messages: when, in which order, cancelled, bounded, counted.

use std::time::{Duration, SystemTime};

use crate::common::{Log, PATIENCE, bus_at_rest, check_books, end, eventually, queue};
use postroom::{
    Bus, Command, Context, Event, ManualClock, MessageId, Overflow, Refusal, ScheduleLedger,
    Subscription,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Alarm(u64);
impl Event for Alarm {
    const TOPIC: &'static str = "schedules.alarm";
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Wake(u64);
impl Command for Wake {
    const QUEUE: &'static str = "schedules.wake";
    type Reply = ();
}

const SECOND: Duration = Duration::from_secs(1);

/// A bus of a given capacity, and a subscriber that logs what it handles and when.
async fn start(
    capacity: usize,
    mailbox: usize,
    overflow: Overflow,
) -> (Bus, ManualClock, Subscription, Log<(u64, Duration)>) {
    let clock = ManualClock::new();
    let bus = Bus::builder("test").clock(clock.clock());
    let bus = bus.schedule_capacity(capacity).start().await.unwrap();
    let log = Log::new();
    let (seen, time) = (log.clone(), clock.clone());
    let alarms =
        bus.subscribe_fn::<Alarm, _>("alarms", async move |alarm: &Alarm, _: &mut Context<'_>| {
            seen.push((alarm.0, time.elapsed()));
            Ok(())
        });
    let alarms = alarms
        .mailbox(mailbox)
        .overflow(overflow)
        .start()
        .await
        .unwrap();
    (bus, clock, alarms, log)
}

fn ledger(bus: &Bus) -> ScheduleLedger {
    let ledger = bus.snapshot().schedules;
    let gone = ledger.published + ledger.cancelled + ledger.refused + ledger.abandoned;
    assert_eq!(ledger.made, gone + ledger.waiting, "{ledger:?}");
    ledger
}

#[tokio::test]
async fn a_delayed_message_is_there_once_under_its_id() {
    let (bus, clock, alarms, log) = start(10, 1, Overflow::Wait).await;
    let id = MessageId::new();
    let delayed = |seconds| {
        bus.publish(Alarm(seconds))
            .id(id)
            .delay(SECOND * seconds as u32)
    };
    let first = delayed(5).await.unwrap().schedule.unwrap();
    let second = delayed(9).await.unwrap().schedule.unwrap();
    assert_eq!((second.id(), second.due()), (id, first.due()));
    assert_eq!(ledger(&bus).made, 1);
    // And while it waits for room.
    alarms.pause();
    bus.publish(Alarm(0)).await.unwrap();
    clock.advance(SECOND * 5);
    bus.settle().await;
    delayed(9).await.unwrap();
    assert_eq!(ledger(&bus).made, 1);
    alarms.resume().await;
    eventually("both are handled", || log.len() == 2).await;
    eventually("it has gone", || bus.snapshot().schedules.published == 1).await;
    // The next one is another.
    delayed(9).await.unwrap();
    assert_eq!(ledger(&bus).made, 2);
    assert!(second.cancel().await.unwrap());
    end(&bus).await;
    assert_eq!(
        log.all().iter().map(|seen| seen.0).collect::<Vec<_>>(),
        [0, 5]
    );
}

#[tokio::test]
async fn a_delayed_message_is_published_at_its_time_and_not_before() {
    let (bus, clock, _, log) = start(10, 10, Overflow::Wait).await;
    let before = SystemTime::now();
    let receipt = bus.publish(Alarm(1)).delay(5 * SECOND).await.unwrap();
    assert_eq!((receipt.local.accepted, receipt.local.dropped), (0, 0));
    let schedule = receipt.schedule.unwrap();
    assert_eq!(schedule.id(), receipt.id);
    let due = schedule.due().duration_since(before).unwrap();
    assert!(due <= 5 * SECOND && due > 4 * SECOND, "{due:?}");
    clock.advance(5 * SECOND - Duration::from_millis(1));
    bus.settle().await;
    assert_eq!((log.len(), queue(&bus, "alarms").accepted), (0, 0));
    clock.advance(Duration::from_millis(1));
    bus.settle().await;
    assert_eq!(log.all(), [(1, 5 * SECOND)]);
    assert!(!schedule.cancel().await.unwrap(), "too late");
    end(&bus).await;
    let ledger = ledger(&bus);
    assert_eq!((ledger.made, ledger.published, ledger.waiting), (1, 1, 0));
}

#[tokio::test]
async fn messages_are_published_in_the_order_of_their_times() {
    let (bus, clock, _, log) = start(10, 10, Overflow::Wait).await;
    for (id, delay) in [(1, 3), (2, 1), (3, 2), (4, 1), (5, 0)] {
        bus.publish(Alarm(id)).delay(delay * SECOND).await.unwrap();
    }
    bus.settle().await;
    clock.advance(10 * SECOND);
    bus.settle().await;
    let order: Vec<_> = log.all().iter().map(|entry| entry.0).collect();
    assert_eq!(order, [5, 2, 4, 3, 1]);
    end(&bus).await;
}

#[tokio::test]
async fn a_time_of_day_is_kept_and_one_that_is_past_is_now() {
    let (bus, clock, _, log) = start(10, 10, Overflow::Wait).await;
    let receipt = bus.publish(Alarm(0)).delay(10 * SECOND).await.unwrap();
    let at = receipt.schedule.unwrap().due();
    let receipt = bus.publish(Alarm(1)).at(at).await.unwrap();
    assert_eq!(receipt.schedule.unwrap().due(), at);
    bus.publish(Alarm(2))
        .at(SystemTime::UNIX_EPOCH)
        .await
        .unwrap();
    eventually("the past", || log.len() == 1).await;
    clock.advance(10 * SECOND);
    bus.settle().await;
    assert_eq!(
        log.all(),
        [(2, Duration::ZERO), (0, 10 * SECOND), (1, 10 * SECOND)]
    );
    end(&bus).await;
}

#[tokio::test]
async fn a_cancelled_message_is_never_published() {
    let (bus, clock, _, log) = start(1, 10, Overflow::Wait).await;
    let receipt = bus.publish(Alarm(1)).delay(SECOND).await.unwrap();
    let schedule = receipt.schedule.unwrap();
    assert!(schedule.clone().cancel().await.unwrap());
    assert!(!schedule.cancel().await.unwrap(), "once");
    // Its place is free again, and dropping a handle cancels nothing.
    drop(bus.publish(Alarm(2)).delay(SECOND).await.unwrap());
    clock.advance(SECOND);
    end(&bus).await;
    assert_eq!(log.all(), [(2, SECOND)]);
    let ledger = ledger(&bus);
    assert_eq!((ledger.made, ledger.published, ledger.cancelled), (2, 1, 1));
}

#[tokio::test]
async fn a_full_schedule_refuses() {
    let (bus, clock, _, log) = start(2, 10, Overflow::Wait).await;
    for id in 0..2 {
        bus.publish(Alarm(id)).delay(SECOND).await.unwrap();
    }
    let error = bus.publish(Alarm(2)).delay(SECOND).await.unwrap_err();
    assert_eq!(*error.kind(), Refusal::ScheduleFull { capacity: 2 });
    assert_eq!(bus.snapshot().scheduled, 2);
    bus.publish(Alarm(3)).await.unwrap();
    clock.advance(SECOND);
    end(&bus).await;
    assert_eq!(log.len(), 3);
}

#[tokio::test]
async fn a_full_schedule_gives_the_message_back() {
    let (bus, ..) = start(0, 10, Overflow::Wait).await;
    let error = bus.publish(Alarm(2)).delay(SECOND).await.unwrap_err();
    assert_eq!(error.into_message(), Some(Alarm(2)));
    end(&bus).await;
}

#[tokio::test]
async fn a_due_message_waits_for_room_and_counts_against_the_capacity() {
    let (bus, clock, alarms, log) = start(3, 1, Overflow::Wait).await;
    alarms.pause();
    bus.publish(Alarm(0)).await.unwrap();
    for id in 1..4 {
        bus.publish(Alarm(id)).delay(SECOND).await.unwrap();
    }
    clock.advance(SECOND);
    // They are due, and there is no room for them: still there, and still bounded.
    assert_eq!(ledger(&bus).waiting, 3);
    let error = bus.publish(Alarm(4)).delay(SECOND).await.unwrap_err();
    assert_eq!(*error.kind(), Refusal::ScheduleFull { capacity: 3 });
    alarms.resume().await;
    crate::common::advance_until(&clock, SECOND / 10, "all", || log.len() == 4).await;
    eventually("counted", || bus.snapshot().schedules.published == 3).await;
    end(&bus).await;
    assert_eq!(ledger(&bus).published, 3);
    assert_eq!(log.all()[0].0, 0);
}

#[tokio::test]
async fn a_due_message_is_offered_again_to_a_queue_that_fails_when_full() {
    let (bus, clock, alarms, log) = start(3, 1, Overflow::Fail).await;
    alarms.pause();
    bus.publish(Alarm(0)).await.unwrap();
    bus.publish(Alarm(1)).delay(SECOND).await.unwrap();
    clock.advance(SECOND);
    alarms.resume().await;
    crate::common::advance_until(&clock, SECOND, "both", || log.len() == 2).await;
    end(&bus).await;
    assert_eq!(ledger(&bus).published, 1);
}

#[tokio::test]
async fn a_delayed_command_meets_its_queue_when_it_is_due() {
    let (bus, clock) = bus_at_rest().await;
    let log = Log::new();
    bus.send(Wake(1)).delay(SECOND).await.unwrap();
    clock.advance(SECOND);
    eventually("refused", || bus.snapshot().schedules.refused == 1).await;
    bus.send(Wake(2)).delay(SECOND).await.unwrap();
    let seen = log.clone();
    bus.handle_fn::<Wake, _>("wakes", async move |wake: &Wake, _: &mut Context<'_>| {
        seen.push(wake.0);
        Ok(())
    })
    .start()
    .await
    .unwrap();
    clock.advance(SECOND);
    end(&bus).await;
    assert_eq!(log.all(), [2]);
    let ledger = ledger(&bus);
    assert_eq!((ledger.made, ledger.published, ledger.refused), (2, 1, 1));
}

#[tokio::test]
async fn what_waits_at_the_shutdown_is_abandoned_with_its_id() {
    let (bus, _clock, _, log) = start(10, 10, Overflow::Wait).await;
    let receipt = bus.publish(Alarm(1)).delay(SECOND).await.unwrap();
    let report = bus.shutdown(PATIENCE).await;
    let abandoned: Vec<_> = report.abandoned.iter().map(|one| one.id).collect();
    assert_eq!(abandoned, [receipt.id]);
    assert!(!receipt.schedule.unwrap().cancel().await.unwrap());
    let ledger = ledger(&bus);
    assert_eq!((ledger.abandoned, ledger.waiting), (1, 0));
    check_books(&bus);
    assert_eq!(log.len(), 0);
}

#[tokio::test]
async fn what_is_due_and_waits_for_room_at_the_shutdown_is_abandoned_with_its_id() {
    for overflow in [Overflow::Wait, Overflow::Fail] {
        let (bus, clock, alarms, log) = start(10, 1, overflow).await;
        alarms.pause();
        let queued = bus.publish(Alarm(0)).await.unwrap();
        let due = bus.publish(Alarm(1)).delay(SECOND).await.unwrap();
        clock.advance(SECOND);
        bus.settle().await;
        let report = bus.shutdown(PATIENCE).await;
        let mut left: Vec<_> = report.abandoned.into_iter().collect();
        left.sort_by_key(|one| one.queue == "schedule");
        let left: Vec<_> = left.iter().map(|one| (&*one.queue, one.id)).collect();
        assert_eq!(left, [("alarms", queued.id), ("schedule", due.id)]);
        let ledger = ledger(&bus);
        assert_eq!((ledger.abandoned, ledger.refused), (1, 0));
        check_books(&bus);
        assert_eq!(log.len(), 0);
    }
}

#[tokio::test]
async fn a_delay_without_end_is_a_delay() {
    let (bus, clock, _, log) = start(10, 10, Overflow::Wait).await;
    let receipt = bus.publish(Alarm(1)).delay(Duration::MAX).await.unwrap();
    let schedule = receipt.schedule.unwrap();
    assert!(schedule.due() > SystemTime::now() + 1000 * SECOND);
    clock.advance(3600 * SECOND);
    bus.settle().await;
    assert_eq!(log.len(), 0);
    assert!(schedule.cancel().await.unwrap());
    end(&bus).await;
}
