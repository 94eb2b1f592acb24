//! Interceptors see each message once at its publish, however it is sent.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::common::{PATIENCE, block_on};
use postroom::{Bus, Event, Interceptor, ManualClock, Outbound, Refusal, Refused, Retry};
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

/// Shuts the bus down before an order goes on.
#[derive(Clone, Default)]
struct Closing(Arc<OnceLock<Bus>>);

impl Interceptor for Closing {
    fn publish(&self, message: &mut Outbound<'_>) -> Result<(), Refused> {
        if message.envelope().address() == Order::TOPIC {
            let bus = self.0.get().unwrap().clone();
            let shutdown = std::thread::spawn(move || block_on(bus.shutdown(PATIENCE)));
            assert!(shutdown.join().unwrap().clean);
        }
        Ok(())
    }
}

#[test]
fn a_publish_that_a_shutdown_overtakes_is_refused() {
    let closing = Closing::default();
    let bus = block_on(Bus::builder("test").intercept(closing.clone()).start()).unwrap();
    assert!(closing.0.set(bus.clone()).is_ok());
    let orders = bus.subscribe_fn::<Order, _>("orders", async |_, _| Ok(()));
    block_on(orders.start()).unwrap();
    let (ended, ends) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let refused = bus.try_publish(Order).unwrap_err();
        ended.send(refused.kind().clone()).unwrap();
        // Once more, with the gate closed.
        block_on(bus.shutdown(PATIENCE));
        let refused = bus.try_publish(Paid).unwrap_err();
        ended.send(refused.kind().clone()).unwrap();
    });
    for _ in 0..2 {
        assert_eq!(ends.recv_timeout(PATIENCE), Ok(Refusal::Closed));
    }
}
