//! Dead letters over RabbitMQ, when what they come from or go to is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::rabbit::Rabbit;
use postroom::{Amqp, Bus, DeleteOnly, Event, Failure, Filter, ReplayError, Retry};
use postroom::{Context, Subscription};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Paid {
    order: u32,
}

impl Event for Paid {
    const TOPIC: &'static str = "ordering.order-paid";
}

/// A bus whose subscriptions stand on RabbitMQ.
async fn bus() -> Bus {
    let (service, prefix) = (Rabbit::unique("shop"), Rabbit::unique("dead"));
    let amqp = Amqp::new(Rabbit::shared().url())
        .prefix(&prefix)
        .import("ordering.#");
    Bus::builder(&service).bridge(amqp).start().await.unwrap()
}

/// Fails at once while it is broken.
async fn subscribe(bus: &Bus, is_broken: &Arc<AtomicBool>) -> Subscription {
    let is_broken = Arc::clone(is_broken);
    bus.subscribe_fn::<Paid, _>(
        "mailer",
        async move |_: &Paid, _: &mut Context<'_>| match is_broken.load(Ordering::SeqCst) {
            true => Err(Failure::reject("broken")),
            false => Ok(()),
        },
    )
    .retry(Retry::none())
    .start()
    .await
    .unwrap()
}

async fn end(bus: &Bus) {
    let amqp = bus.amqp().unwrap();
    for deleted in [
        amqp.delete("mailer", DeleteOnly::Always).await,
        amqp.delete_dead_letters("mailer", DeleteOnly::Always).await,
    ] {
        deleted.unwrap();
    }
    crate::common::end(bus).await;
}

#[tokio::test]
async fn a_replay_to_a_queue_that_was_deleted_keeps_the_dead_letter() {
    let bus = bus().await;
    let is_broken = Arc::new(AtomicBool::new(true));
    let mailer = subscribe(&bus, &is_broken).await;
    let id = bus.publish(Paid { order: 1 }).await.unwrap().id;
    crate::common::eventually("it is given up", || mailer.snapshot().dead_lettered == 1).await;
    mailer.stop(crate::common::PATIENCE).await;
    let amqp = bus.amqp().unwrap();
    let deleted = amqp.delete("mailer", DeleteOnly::Always).await;
    assert_eq!(deleted.unwrap(), Some(0));
    let letters = bus.dead_letters();
    let letter = letters.list(&Filter::all()).await.unwrap().pop().unwrap();
    assert_eq!(letter.envelope().id(), id);
    let replayed = letters.replay(letter.id).await;
    assert_eq!(replayed, Err(ReplayError::NoQueue("mailer".to_owned())));
    assert_eq!(letters.len().await.unwrap(), 1);
    // It is there for the next one.
    is_broken.store(false, Ordering::SeqCst);
    let mailer = subscribe(&bus, &is_broken).await;
    letters.replay(letter.id).await.unwrap();
    crate::common::eventually("it is handled", || mailer.snapshot().acked == 1).await;
    assert_eq!(letters.len().await.unwrap(), 0);
    end(&bus).await;
}

#[tokio::test]
async fn a_queue_of_dead_letters_that_was_deleted_is_declared_again() {
    let bus = bus().await;
    let mailer = subscribe(&bus, &Arc::new(AtomicBool::new(true))).await;
    let amqp = bus.amqp().unwrap();
    let deleted = amqp.delete_dead_letters("mailer", DeleteOnly::Always).await;
    assert_eq!(deleted.unwrap(), Some(0));
    let id = bus.publish(Paid { order: 1 }).await.unwrap().id;
    crate::common::eventually("it is given up", || mailer.snapshot().dead_lettered == 1).await;
    let letters = crate::common::dead_letters(&bus).await;
    let ids: Vec<_> = letters
        .iter()
        .map(|letter| letter.envelope().id())
        .collect();
    assert_eq!(ids, [id]);
    end(&bus).await;
}
