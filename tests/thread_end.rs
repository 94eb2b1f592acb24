//! A thread may outlive the bus that it published to, and end as the last to know of its queues.
#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

use std::sync::Arc;
use std::time::Duration;

use postroom::{Bus, Context, Event, Failure, Retry};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Ping;
impl Event for Ping {
    const TOPIC: &'static str = "thread-end.ping";
}

#[tokio::test]
async fn a_publishing_thread_ends_after_the_queue_it_published_to() {
    let bus = Bus::builder("ending").start().await.unwrap();
    for _ in 0..20 {
        let kept_by_member = Arc::new(());
        let gone = Arc::downgrade(&kept_by_member);
        // A failure starts the actor of the queue.
        let failing = async move |_: &Ping, _: &mut Context<'_>| {
            let _ = &kept_by_member;
            Err(Failure::reject("no"))
        };
        let subscription = bus
            .subscribe_fn::<Ping, _>("failing", failing)
            .retry(Retry::none())
            .start()
            .await
            .unwrap();
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let publisher = std::thread::spawn({
            let bus = bus.clone();
            move || {
                bus.try_publish(Ping).unwrap();
                drop(bus);
                ends.recv().unwrap_err();
            }
        });
        while bus.snapshot().queue("failing").unwrap().dead_lettered == 0 {
            tokio::task::yield_now().await;
        }
        subscription.stop(Duration::from_secs(5)).await;
        drop(subscription);
        // The bus itself replaces the route that it knew.
        assert_eq!(bus.publish(Ping).await.unwrap().local.accepted, 0);
        while gone.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
        // Now only what the thread remembers holds the queue. A panic in its end would abort this process.
        drop(end);
        publisher.join().unwrap();
    }
    assert!(bus.shutdown(Duration::from_secs(5)).await.clean);
}
