//! A message that only the new version of a service knows, while the old one still runs.

use std::time::Duration;

use crate::common::rabbit::{Rabbit, delete_group};
use crate::common::{Log, PATIENCE, dead_letters, end, eventually};
use postroom::{Amqp, Bus, Context, Event, Filter, Outcome, Reason, Subscriber, Subscription};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Paid(u32);
impl Event for Paid {
    const TOPIC: &'static str = "ordering.order-paid";
}

/// What the new version hears as well.
#[derive(Serialize, Deserialize)]
struct Shipped(u32);
impl Event for Shipped {
    const TOPIC: &'static str = "ordering.order-shipped";
}

struct Mailer(Log<u32>);

impl Subscriber<Paid> for Mailer {
    async fn handle(&mut self, paid: &Paid, _: &mut Context<'_>) -> Outcome {
        self.0.push(paid.0);
        Ok(())
    }
}

impl Subscriber<Shipped> for Mailer {
    async fn handle(&mut self, shipped: &Shipped, _: &mut Context<'_>) -> Outcome {
        self.0.push(shipped.0);
        Ok(())
    }
}

struct Deploy {
    /// Of the exchanges, and of the service.
    name: String,
    delay: Duration,
    handled: Log<u32>,
}

impl Deploy {
    /// The new version has been there already, and so its binding is.
    async fn begun(delay: Duration) -> Self {
        let (name, handled) = (Rabbit::unique("deploy"), Log::new());
        let deploy = Self {
            name,
            delay,
            handled,
        };
        let (new, _) = deploy.new_version().await;
        end(&new).await;
        deploy
    }

    async fn bus(&self) -> Bus {
        let amqp = Amqp::new(Rabbit::shared().url()).prefix(&self.name);
        let amqp = amqp.import("ordering.#").export("ordering.#");
        let amqp = amqp.unknown_type_delay(self.delay);
        Bus::builder(&self.name).bridge(amqp).start().await.unwrap()
    }

    async fn new_version(&self) -> (Bus, Subscription) {
        let (bus, handled) = (self.bus().await, self.handled.clone());
        let mailer = bus.subscriber("mailer", move || Mailer(handled.clone()));
        let mailer = mailer.on::<Paid>().on::<Shipped>().start().await;
        (bus, mailer.unwrap())
    }

    async fn old_version(&self, lanes: Option<usize>) -> (Bus, Subscription) {
        let (bus, handled) = (self.bus().await, self.handled.clone());
        let mailer = bus.subscriber("mailer", move || Mailer(handled.clone()));
        let mailer = match lanes {
            Some(lanes) => mailer.keyed(lanes),
            None => mailer,
        };
        let mailer = mailer.on::<Paid>().start().await.unwrap();
        (bus, mailer)
    }
}

#[tokio::test]
async fn a_type_that_the_old_version_does_not_know_waits_for_the_new_one() {
    let deploy = Deploy::begun(Duration::from_secs(5)).await;
    let (old, mailer) = deploy.old_version(None).await;
    old.publish(Shipped(1)).await.unwrap();
    old.publish(Paid(2)).await.unwrap();
    eventually("the other is handled", || deploy.handled.all() == [2]).await;
    eventually("it waits at RabbitMQ", || mailer.snapshot().retried == 1).await;
    end(&old).await;
    let (new, mailer) = deploy.new_version().await;
    eventually("it is handled", || deploy.handled.all() == [2, 1]).await;
    assert_eq!(mailer.snapshot().dead_lettered, 0);
    delete_group(&new, "mailer").await;
    end(&new).await;
}

#[tokio::test]
async fn a_type_that_nobody_knows_is_a_dead_letter_after_one_wait() {
    let deploy = Deploy::begun(Duration::from_secs(1)).await;
    let (old, mailer) = deploy.old_version(None).await;
    let id = old.publish(Shipped(1)).await.unwrap().id;
    eventually("it is given up", || mailer.snapshot().dead_lettered == 1).await;
    let letters = dead_letters(&old).await;
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!(letter.envelope().id(), id);
    assert_eq!(letter.reason, Reason::UnknownType);
    assert_eq!(mailer.snapshot().retried, 1, "it waited once");
    assert_eq!(letter.attempts, 1, "a wait is no attempt");
    end(&old).await;
    // The new version is asked to take it up.
    let (new, _) = deploy.new_version().await;
    let replayed = new.dead_letters().replay_all(&Filter::all()).await;
    assert_eq!(replayed.unwrap().replayed, 1);
    eventually("it is handled", || deploy.handled.all() == [1]).await;
    delete_group(&new, "mailer").await;
    // It replayed what another has made: its ledger of dead letters is not to balance.
    assert!(new.shutdown(PATIENCE).await.clean);
    assert!(new.snapshot().books_balance());
}

/// Its key would wait for it.
#[tokio::test]
async fn in_keyed_order_an_unknown_type_is_a_dead_letter_at_once() {
    let deploy = Deploy {
        name: Rabbit::unique("deploy"),
        delay: Duration::from_secs(600),
        handled: Log::new(),
    };
    let (bus, handled) = (deploy.bus().await, deploy.handled.clone());
    let mailer = bus.subscriber("mailer", move || Mailer(handled.clone()));
    let new = mailer.keyed(2).on::<Paid>().on::<Shipped>().start().await;
    new.unwrap();
    end(&bus).await;
    let (old, mailer) = deploy.old_version(Some(2)).await;
    old.publish(Shipped(1)).key(7).await.unwrap();
    old.publish(Paid(2)).key(7).await.unwrap();
    eventually("the next of its key is handled", || {
        deploy.handled.all() == [2]
    })
    .await;
    assert_eq!(mailer.snapshot().dead_lettered, 1);
    let letters = dead_letters(&old).await;
    assert_eq!(letters[0].reason, Reason::UnknownType);
    assert!(old.dead_letters().discard(letters[0].id).await.unwrap());
    delete_group(&old, "mailer").await;
    end(&old).await;
}
