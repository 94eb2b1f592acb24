//! Rates between two snapshots, and the counts that no other test looks at.

use std::time::{Duration, SystemTime};

use crate::common::{bus, bus_at_rest, end, eventually, poll_once, queue};
use postroom::{Event, Failure, Overflow, Refusal, Retry};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Job(u32);
impl Event for Job {
    const TOPIC: &'static str = "snapshots.job";
}

#[tokio::test]
async fn two_snapshots_give_rates() {
    let (bus, clock) = bus_at_rest().await;
    let worker = bus.subscribe_fn::<Job, _>("worker", async |job, _| match job.0 {
        0 => Err(Failure::retry("no")),
        _ => Ok(()),
    });
    let worker = worker.retry(Retry::none()).start().await.unwrap();
    bus.publish(Job(1)).await.unwrap();
    bus.settle().await;
    let earlier = bus.snapshot();
    for job in 0..10 {
        bus.publish(Job(job)).await.unwrap();
    }
    bus.settle().await;
    clock.advance(Duration::from_secs(5));
    let later = bus.snapshot();

    let rates = &later.since(&earlier)[0];
    assert_eq!(rates.queue, "worker");
    assert_eq!(rates.over, Duration::from_secs(5));
    assert_eq!((rates.accepted, rates.acked), (2.0, 1.8));
    assert_eq!((rates.dead_lettered, rates.dropped), (0.2, 0.0));
    let same = worker.snapshot().since(earlier.queue("worker").unwrap());
    assert_eq!(same, *rates);
    let taken = later.taken_at.duration_since(earlier.taken_at).unwrap();
    assert_eq!(taken, Duration::from_secs(5));
    end(&bus).await;
}

#[tokio::test]
async fn rates_over_no_time_or_backwards_are_zero() {
    let (bus, clock) = bus_at_rest().await;
    let worker = bus.subscribe_fn::<Job, _>("worker", async |_, _| Ok(()));
    worker.start().await.unwrap();
    let earlier = bus.snapshot();
    bus.publish(Job(0)).await.unwrap();
    bus.settle().await;
    let later = bus.snapshot();
    assert_eq!(later.since(&earlier)[0].accepted, 0.0, "no time has passed");
    clock.advance(Duration::from_secs(1));
    let last = bus.snapshot();
    let backwards = &earlier.since(&last)[0];
    assert_eq!((backwards.accepted, backwards.over), (0.0, Duration::ZERO));
    end(&bus).await;
}

#[tokio::test]
async fn a_queue_made_in_between_counts_from_its_beginning() {
    let (bus, clock) = bus_at_rest().await;
    let subscribe = async || {
        let worker = bus.subscribe_fn::<Job, _>("worker", async |_, _| Ok(()));
        worker.start().await.unwrap()
    };
    let first = subscribe().await;
    for job in 0..9 {
        bus.publish(Job(job)).await.unwrap();
    }
    bus.settle().await;
    let earlier = bus.snapshot();
    first.stop(crate::common::PATIENCE).await;
    let second = subscribe().await;
    for job in 0..4 {
        bus.publish(Job(job)).await.unwrap();
    }
    bus.settle().await;
    clock.advance(Duration::from_secs(2));
    assert_eq!(bus.snapshot().since(&earlier)[0].accepted, 2.0);
    let same = second.snapshot().since(earlier.queue("worker").unwrap());
    assert_eq!(same.accepted, 2.0, "not what the first of this name had");
    end(&bus).await;
}

#[tokio::test]
async fn a_snapshot_says_when_and_serialises() {
    let bus = bus().await;
    let before = SystemTime::now() - Duration::from_secs(1);
    let worker = bus.subscribe_fn::<Job, _>("worker", async |_, _| Ok(()));
    worker.workers(3).start().await.unwrap();
    eventually("its workers run", || queue(&bus, "worker").workers == 3).await;
    let snapshot = bus.snapshot();
    assert!(snapshot.taken_at > before);
    let json = serde_json::to_value(&snapshot).unwrap();
    assert_eq!(json["queues"][0]["workers"], 3);
    assert!(json["taken_at"].is_object(), "{json}");
    assert!(json.get("at").is_none(), "an instant means nothing outside");
    let rates = serde_json::to_value(snapshot.since(&snapshot)).unwrap();
    assert_eq!(rates[0]["queue"], "worker");
    end(&bus).await;
    eventually("none runs", || queue(&bus, "worker").workers == 0).await;
}

#[tokio::test]
async fn refusals_for_lack_of_room_are_counted_where_there_was_none() {
    let (bus, clock) = bus_at_rest().await;
    let waiting = bus.subscribe_fn::<Job, _>("waiting", async |_, _| Ok(()));
    let waiting = waiting.mailbox(1).start().await.unwrap();
    waiting.pause();
    bus.publish(Job(0)).await.unwrap();
    let refused = || queue(&bus, "waiting").refused;

    bus.try_publish(Job(1)).unwrap_err();
    assert_eq!(refused(), 1, "at once");
    let mut publish = bus.publish(Job(2)).timeout(Duration::from_secs(1));
    assert!(poll_once(&mut publish).is_pending());
    assert_eq!(refused(), 1, "it still waits");
    clock.advance(Duration::from_secs(1));
    let error = publish.await.unwrap_err();
    assert!(matches!(error.kind(), Refusal::Timeout { .. }));
    assert_eq!(refused(), 2, "at its deadline");
    let mut publish = bus.publish(Job(3));
    assert!(poll_once(&mut publish).is_pending());
    drop(publish);
    assert_eq!(refused(), 2, "who goes by himself was not refused");

    let failing = bus.subscribe_fn::<Job, _>("failing", async |_, _| Ok(()));
    let failing = failing.mailbox(1).overflow(Overflow::Fail);
    let failing = failing.start().await.unwrap();
    failing.pause();
    waiting.resume().await;
    bus.settle().await;
    bus.publish(Job(4)).await.unwrap();
    bus.publish(Job(5)).await.unwrap_err();
    assert_eq!(queue(&bus, "failing").refused, 1);
    assert_eq!(refused(), 2, "it had room");
    failing.resume().await;
    bus.settle().await;
    end(&bus).await;
}
