//! The shortest way of a message, and of a failing one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postroom::{Bus, Command, Context, Event, Failure, Filter, Outcome, Retry, Subscriber};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Ping(u32);
impl Event for Ping {
    const TOPIC: &'static str = "test.ping";
}

#[derive(Serialize, Deserialize)]
struct Double(u32);
impl Command for Double {
    const QUEUE: &'static str = "test.double";
    type Reply = u32;
}

struct Counter(Arc<AtomicU32>);
impl Subscriber<Ping> for Counter {
    async fn handle(&mut self, ping: &Ping, _: &mut Context<'_>) -> Outcome {
        self.0.fetch_add(ping.0, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test]
async fn an_event_reaches_every_group() {
    let bus = Bus::builder("smoke").start().await.unwrap();
    let sums: Vec<_> = (0..3).map(|_| Arc::new(AtomicU32::new(0))).collect();
    for (index, sum) in sums.iter().enumerate() {
        let sum = Arc::clone(sum);
        bus.subscriber(format!("group-{index}"), move || Counter(Arc::clone(&sum)))
            .on::<Ping>()
            .start()
            .await
            .unwrap();
    }
    for _ in 0..1000 {
        assert_eq!(bus.publish(Ping(2)).await.unwrap().local.accepted, 3);
    }
    let report = bus.shutdown(Duration::from_secs(5)).await;
    assert!(report.clean, "{report:?}");
    assert!(bus.snapshot().books_balance());
    for sum in sums {
        assert_eq!(sum.load(Ordering::SeqCst), 2000);
    }
}

#[tokio::test]
async fn a_request_has_its_reply() {
    let bus = Bus::builder("smoke").start().await.unwrap();
    bus.handle_fn::<Double, _>("double", async |double: &Double, _: &mut Context<'_>| {
        Ok(double.0 * 2)
    })
    .start()
    .await
    .unwrap();
    assert_eq!(bus.request(Double(21)).await, Ok(42));
    assert!(bus.shutdown(Duration::from_secs(5)).await.clean);
}

#[tokio::test]
async fn a_failing_message_is_tried_as_often_as_said_and_kept() {
    let bus = Bus::builder("smoke").start().await.unwrap();
    let starts = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&starts);
    bus.subscribe_fn::<Ping, _>("failing", async move |ping: &Ping, _: &mut Context<'_>| {
        seen.fetch_add(1, Ordering::SeqCst);
        match ping.0 {
            0 => Err(Failure::retry("never")),
            _ => panic!("poison"),
        }
    })
    .retry(
        Retry::fixed(Duration::from_millis(1))
            .attempts(4)
            .immediate(1),
    )
    .start()
    .await
    .unwrap();
    for kind in [0, 1] {
        starts.store(0, Ordering::SeqCst);
        bus.publish(Ping(kind)).await.unwrap();
        while bus.dead_letters().len().await.unwrap() <= kind as usize {
            tokio::task::yield_now().await;
        }
        assert_eq!(starts.load(Ordering::SeqCst), 4);
        let letters = bus.dead_letters().list(&Filter::all()).await.unwrap();
        assert_eq!(letters[kind as usize].attempts, 4);
    }
    assert!(bus.shutdown(Duration::from_secs(5)).await.clean);
    assert!(bus.snapshot().books_balance());
}
