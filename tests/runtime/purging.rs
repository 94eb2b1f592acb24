//! Throwing away what is queued.

use std::time::Duration;

use crate::common::{Door, Log, bus, bus_at_rest, end, eventually, poll_once, queue, soon};
use postroom::{Command, Event, Failure, RequestError, Retry};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Job(u32);
impl Event for Job {
    const TOPIC: &'static str = "purging.job";
}

#[derive(Serialize, Deserialize)]
struct Ask;
impl Command for Ask {
    const QUEUE: &'static str = "purging.ask";
    type Reply = u32;
}

#[tokio::test]
async fn a_purge_drops_what_is_queued_and_counts_it() {
    let bus = bus().await;
    let handled = Log::new();
    let handles = handled.clone();
    let worker = bus.subscribe_fn::<Job, _>("worker", async move |job, _| {
        handles.push(job.0);
        Ok(())
    });
    let worker = worker.mailbox(8).start().await.unwrap();
    assert_eq!(worker.purge(), 0);
    worker.pause();
    for job in 0..8 {
        bus.publish(Job(job)).await.unwrap();
    }
    let mut waits = bus.publish(Job(8));
    assert!(poll_once(&mut waits).is_pending());
    assert_eq!(worker.purge(), 8);
    soon("the publish that waited for room", waits)
        .await
        .unwrap();
    let snapshot = worker.snapshot();
    assert_eq!((snapshot.purged, snapshot.queued), (8, 1));
    assert!(snapshot.balances(), "{snapshot:?}");
    worker.resume().await;
    bus.settle().await;
    assert_eq!(handled.all(), [8]);
    end(&bus).await;
}

#[tokio::test]
async fn a_purge_leaves_what_is_in_flight_and_what_waits() {
    let (bus, clock) = bus_at_rest().await;
    let door = Door::closed();
    let waits = door.clone();
    let handled = Log::new();
    let handles = handled.clone();
    let worker = bus
        .subscribe_fn::<Job, _>("worker", async move |job, cx| {
            if job.0 == 0 && cx.attempt() == 1 {
                return Err(Failure::retry("again"));
            }
            if job.0 == 1 {
                waits.pass().await;
            }
            handles.push(job.0);
            Ok(())
        })
        .retry(Retry::fixed(Duration::from_secs(60)).attempts(2))
        .no_timeout()
        .keyed(1)
        .start()
        .await
        .unwrap();
    bus.publish(Job(0)).key("a").await.unwrap();
    eventually("it waits", || queue(&bus, "worker").waiting == 1).await;
    bus.publish(Job(1)).key("b").await.unwrap();
    eventually("it is in flight", || queue(&bus, "worker").in_flight == 1).await;
    // Behind both lanes, and in one of its own.
    for key in ["a", "b", "c"] {
        bus.publish(Job(2)).key(key).await.unwrap();
    }
    assert_eq!(worker.purge(), 3);
    let snapshot = worker.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.waiting), (1, 1));
    assert_eq!((snapshot.purged, snapshot.queued), (3, 0));
    assert!(snapshot.balances(), "{snapshot:?}");
    door.open();
    clock.advance(Duration::from_secs(60));
    bus.settle().await;
    // The lanes go on.
    for (job, key) in [(3, "a"), (4, "b"), (5, "c")] {
        bus.publish(Job(job)).key(key).await.unwrap();
    }
    bus.settle().await;
    let mut handled = handled.all();
    handled.sort_unstable();
    assert_eq!(handled, [0, 1, 3, 4, 5]);
    end(&bus).await;
}

#[tokio::test]
async fn a_purged_command_tells_who_waits_for_its_reply() {
    let bus = bus().await;
    let worker = bus.handle_fn::<Ask, _>("asked", async |_, _| Ok(7));
    let worker = worker.start().await.unwrap();
    worker.pause();
    let asks = tokio::spawn({
        let bus = bus.clone();
        async move { bus.request(Ask).await }
    });
    eventually("it is queued", || worker.snapshot().queued == 1).await;
    assert_eq!(worker.purge(), 1);
    let answer = soon("the request", asks).await.unwrap();
    assert!(
        matches!(answer, Err(RequestError::Discarded { .. })),
        "{answer:?}"
    );
    worker.resume().await;
    end(&bus).await;
}
