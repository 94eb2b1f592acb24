//! Interceptors see each message once at its publish, however it is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postroom::{Bus, Event, Interceptor, ManualClock, Outbound, Refused, Retry};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Order;
impl Event for Order {
    const TOPIC: &'static str = "interceptors.order";
}

#[derive(Serialize, Deserialize)]
struct Paid;
impl Event for Paid {
    const TOPIC: &'static str = "interceptors.paid";
}

/// Counts the publishes on one topic, and marks each.
#[derive(Clone)]
struct Marks(Arc<AtomicU32>, &'static str);

impl Interceptor for Marks {
    fn publish(&self, message: &mut Outbound<'_>) -> Result<(), Refused> {
        if message.envelope().address() == self.1 {
            self.0.fetch_add(1, Ordering::SeqCst);
            message.header("mark", "seen");
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_delayed_message_is_intercepted_once() {
    let marks = Marks(Arc::default(), Paid::TOPIC);
    let clock = ManualClock::new();
    let bus = Bus::builder("interceptors")
        .clock(clock.clock())
        .intercept(marks.clone())
        .start();
    let bus = bus.await.unwrap();
    let headers = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&headers);
    bus.subscribe_fn::<Paid, _>("paid", async move |_, cx| {
        seen.store(
            u32::try_from(cx.envelope().headers().count())?,
            Ordering::SeqCst,
        );
        Ok(())
    })
    .start()
    .await
    .unwrap();
    bus.publish(Paid)
        .delay(Duration::from_secs(60))
        .await
        .unwrap();
    clock.advance(Duration::from_secs(60));
    bus.settle().await;
    assert_eq!(marks.0.load(Ordering::SeqCst), 1);
    assert_eq!(headers.load(Ordering::SeqCst), 1);
    assert!(bus.shutdown(Duration::from_secs(5)).await.clean);
}

#[tokio::test]
async fn a_release_that_waits_for_room_is_intercepted_once() {
    let marks = Marks(Arc::default(), Paid::TOPIC);
    let bus = Bus::builder("interceptors")
        .intercept(marks.clone())
        .start()
        .await
        .unwrap();
    let paid = bus
        .subscribe_fn::<Paid, _>("paid", async |_, _| Ok(()))
        .mailbox(1)
        .start()
        .await
        .unwrap();
    let orders = bus
        .subscribe_fn::<Order, _>("orders", async |_, cx| {
            cx.publish(Paid);
            Ok(())
        })
        .retry(Retry::none())
        .start()
        .await
        .unwrap();
    paid.pause();
    bus.publish(Paid).await.unwrap();
    bus.publish(Order).await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    // The release has been tried once its message has been seen, and there is no room for it.
    while marks.0.load(Ordering::SeqCst) < 2 {
        assert!(
            std::time::Instant::now() < deadline,
            "the release was not tried"
        );
        tokio::task::yield_now().await;
    }
    paid.resume().await;
    while orders.snapshot().acked + orders.snapshot().dead_lettered < 1 {
        assert!(
            std::time::Instant::now() < deadline,
            "the release did not end"
        );
        tokio::task::yield_now().await;
    }
    assert!(bus.shutdown(Duration::from_secs(5)).await.clean);
    assert_eq!(orders.snapshot().acked, 1);
    assert_eq!(
        marks.0.load(Ordering::SeqCst),
        2,
        "one mark for each of two messages"
    );
}
