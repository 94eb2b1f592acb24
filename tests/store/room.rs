//! Who waits for room in a durable queue: holds nothing up meanwhile, and is told when there will be none.

use std::future::IntoFuture;
use std::task::Poll;
use std::time::Duration;

use crate::common::store::{Placed, Seen, World, over_both};
use crate::common::{Door, PATIENCE, end, eventually};
use postroom::{
    Bus, Context, Durable, Event, Outcome, Receipt, Refusal, Restart, Retry, Subscriber,
    Subscription,
};
use serde::{Deserialize, Serialize};

over_both!(
    who_waits_for_room_holds_no_place_elsewhere_and_goes_on_when_the_queue_is_stopped,
    who_waits_for_room_is_refused_at_a_shutdown,
    who_waits_for_room_is_refused_when_the_queue_ends,
);

const LONG: Duration = Duration::from_secs(600);

#[derive(Serialize, Deserialize)]
struct Other;

impl Event for Other {
    const TOPIC: &'static str = "room.other";
}

#[derive(Clone)]
struct Memory(Seen);

impl Subscriber<Placed> for Memory {
    async fn handle(&mut self, placed: &Placed, _: &mut Context<'_>) -> Outcome {
        self.0.note(placed.order);
        Ok(())
    }
}

impl Subscriber<Other> for Memory {
    async fn handle(&mut self, _: &Other, _: &mut Context<'_>) -> Outcome {
        self.0.note(99);
        Ok(())
    }
}

/// A bus with a durable queue of one row, which has that row.
async fn full(world: &World) -> (Bus, Subscription, Seen) {
    let one = Durable::new().rows(1);
    let builder = world.builder().durable_settings(one).publish_timeout(LONG);
    let bus = builder.start().await.unwrap();
    let seen = Seen::default();
    let subscription = seen.subscribe_durable(&bus).await;
    subscription.pause();
    bus.publish(Placed { order: 0 }).await.unwrap();
    (bus, subscription, seen)
}

/// Polled once, it waits for room.
async fn waits<F: Future>(publishing: &mut std::pin::Pin<Box<F>>) {
    let first = std::future::poll_fn(|cx| Poll::Ready(publishing.as_mut().poll(cx))).await;
    assert!(first.is_pending());
}

async fn who_waits_for_room_holds_no_place_elsewhere_and_goes_on_when_the_queue_is_stopped(
    world: World,
) {
    let (bus, subscription, _) = full(&world).await;
    let memory = Memory(Seen::default());
    let other = memory.clone();
    let other = bus.subscriber("other", move || other.clone());
    let other = other.on::<Placed>().on::<Other>().mailbox(1);
    other.start().await.unwrap();
    let publishing = bus.publish(Placed { order: 1 });
    let mut publishing = Box::pin(publishing.into_future());
    waits(&mut publishing).await;
    bus.try_publish(Other).expect("there is room for others");
    eventually("it is handled", || memory.0.orders() == [99]).await;
    let (receipt, _): (Result<Receipt, _>, _) =
        tokio::join!(publishing, subscription.stop(PATIENCE));
    assert_eq!(receipt.unwrap().local.accepted, 1, "the other one has it");
    eventually("it is handled", || memory.0.orders() == [99, 1]).await;
    end(&bus).await;
}

async fn who_waits_for_room_is_refused_at_a_shutdown(world: World) {
    let (bus, _, seen) = full(&world).await;
    let mut publishing = Box::pin(bus.publish(Placed { order: 1 }).into_future());
    waits(&mut publishing).await;
    let (refused, report) = tokio::join!(publishing, bus.shutdown(PATIENCE));
    let refused = refused.unwrap_err();
    assert_eq!(*refused.kind(), Refusal::Closed);
    assert_eq!(refused.into_message().unwrap().order, 1);
    assert!(report.clean, "{report:?}");
    assert_eq!(seen.len(), 0);
}

async fn who_waits_for_room_is_refused_when_the_queue_ends(world: World) {
    let one = Durable::new().rows(1);
    let builder = world.builder().durable_settings(one).publish_timeout(LONG);
    let bus = builder.start().await.unwrap();
    let door = Door::closed();
    let panics = {
        let door = door.clone();
        async move |_: &Placed, _: &mut Context<'_>| {
            door.pass().await;
            panic!("on purpose")
        }
    };
    let once = bus.subscribe_fn::<Placed, _>("once", panics).durable();
    let once = once.restart(Restart::Temporary).retry(Retry::fixed(LONG));
    once.start().await.unwrap();
    bus.publish(Placed { order: 0 }).await.unwrap();
    let mut publishing = Box::pin(bus.publish(Placed { order: 1 }).into_future());
    waits(&mut publishing).await;
    door.open();
    let refused = publishing.await.unwrap_err();
    let queue = "once".to_owned();
    assert_eq!(*refused.kind(), Refusal::Ended { queue });
    assert_eq!(refused.into_message().unwrap().order, 1);
    end(&bus).await;
}
