//! Which broker a bus connects to, what of it may be missing, and what its health says meanwhile.
#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::proxy::Proxy;
use common::rabbit::{Rabbit, delete_group};
use common::{end, eventually, soon};
use postroom::{Amqp, Bridged, Bus, Event, Problem, Refusal};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Paid(u32);

impl Event for Paid {
    const TOPIC: &'static str = "ordering.order-paid";
}

/// A bus that handles what it publishes, by way of RabbitMQ.
struct Loop {
    bus: Bus,
    service: String,
    handled: Arc<Mutex<Vec<u32>>>,
}

impl Loop {
    async fn start(amqp: Amqp) -> Self {
        let amqp = amqp
            .prefix(Rabbit::unique("connecting"))
            .import("ordering.#")
            .export("ordering.#")
            .connect_timeout(Duration::from_secs(1));
        // A queue is named by its service.
        let service = Rabbit::unique("shop");
        let bus = Bus::builder(&service).bridge(amqp);
        let bus = soon("the bus starts", bus.start()).await.unwrap();
        let handled = Arc::new(Mutex::new(Vec::new()));
        let write = Arc::clone(&handled);
        let mailer = bus.subscribe_fn::<Paid, _>("mailer", async move |paid, _| {
            write.lock().unwrap().push(paid.0);
            Ok(())
        });
        soon("it is subscribed", mailer.start()).await.unwrap();
        Self {
            bus,
            service,
            handled,
        }
    }

    async fn crosses(&self, order: u32) {
        let publishing = self.bus.publish(Paid(order));
        let receipt = soon("it is published", publishing).await.unwrap();
        assert_eq!(receipt.bridged, Bridged::Routed);
        let is_handled = || self.handled.lock().unwrap().contains(&order);
        eventually("it is handled", is_handled).await;
    }

    fn problems(&self) -> Vec<Problem> {
        let health = self.bus.health();
        health
            .conditions()
            .iter()
            .map(|found| found.problem)
            .collect()
    }

    async fn is_well(&self) {
        eventually("it is well", || self.problems().is_empty()).await;
        assert!(self.bus.health().is_ready());
    }

    async fn end(&self) {
        delete_group(&self.bus, "mailer").await;
        end(&self.bus).await;
    }
}

#[tokio::test]
async fn a_bus_starts_while_rabbitmq_is_down_and_is_well_when_it_comes() {
    let rabbit = Rabbit::shared();
    let proxy = Proxy::start(rabbit.authority());
    proxy.refuse();
    let shop = Loop::start(Amqp::new(rabbit.url_through(proxy.address()))).await;
    let lost = || {
        let problems = shop.problems().into_iter();
        problems
            .filter(|found| *found == Problem::Disconnected)
            .count()
    };
    eventually("both connections are told of", || lost() == 2).await;
    assert!(!shop.bus.health().is_ready());
    assert!(shop.bus.health().is_live());
    let late = shop
        .bus
        .publish(Paid(1))
        .timeout(Duration::from_millis(200));
    let refused = late.await.unwrap_err();
    assert!(
        matches!(refused.kind(), Refusal::Unreachable { .. }),
        "{refused}"
    );
    proxy.resume();
    shop.is_well().await;
    shop.crosses(2).await;
    assert_eq!(*shop.handled.lock().unwrap(), [2]);
    shop.end().await;
}

#[tokio::test]
async fn a_broker_that_is_down_is_passed_over_for_the_next() {
    let rabbit = Rabbit::shared();
    let proxies = [(); 2].map(|()| Proxy::start(rabbit.authority()));
    let [first, second] = &proxies;
    let amqp = || {
        let [first, second] = [first, second].map(|proxy| rabbit.url_through(proxy.address()));
        Amqp::new(first).failover(second)
    };
    let shop = Loop::start(amqp()).await;
    shop.crosses(1).await;
    assert_eq!((first.open(), second.open()), (2, 0), "the first is taken");
    first.refuse();
    first.cut();
    eventually("it is connected elsewhere", || second.open() == 2).await;
    shop.is_well().await;
    shop.crosses(2).await;
    // One that starts now finds the second at once.
    let other = Loop::start(amqp()).await;
    other.crosses(3).await;
    assert_eq!((first.open(), second.open()), (0, 4));
    // And back.
    first.resume();
    second.refuse();
    second.cut();
    eventually("both are connected to the first", || first.open() == 4).await;
    for (bus, order) in [(&shop, 4), (&other, 5)] {
        bus.is_well().await;
        bus.crosses(order).await;
        bus.end().await;
    }
}

#[tokio::test]
async fn a_virtual_host_is_of_the_url_or_said_beside_it() {
    let rabbit = Rabbit::controlled();
    let vhost = Rabbit::unique("vhost");
    let name = vhost.clone();
    rabbit
        .run(move |rabbit| {
            rabbit.add_vhost(&name);
            rabbit.permissions(&name, "guest", [".*"; 3]);
        })
        .await;
    let beside = Amqp::new(rabbit.url()).vhost(&vhost);
    let within = Amqp::new(rabbit.url_of("guest", "guest", &vhost));
    for (amqp, order) in [(beside, 1), (within, 2)] {
        let shop = Loop::start(amqp).await;
        shop.crosses(order).await;
        let group = format!("{}.mailer", shop.service);
        let listing = vhost.clone();
        let listed = rabbit
            .run(move |rabbit| rabbit.ctl(&["list_queues", "-p", &listing, "name"]))
            .await;
        assert!(listed.contains(&group), "{group}: {listed}");
        shop.end().await;
    }
    rabbit
        .run(move |rabbit| drop(rabbit.ctl(&["delete_vhost", &vhost])))
        .await;
}

#[tokio::test]
async fn a_permission_that_is_missing_is_named_and_missed_until_it_is_given() {
    let rabbit = Rabbit::controlled();
    let user = Rabbit::unique("clerk");
    let name = user.clone();
    rabbit
        .run(move |rabbit| {
            rabbit.add_user(&name, "secret");
            // No queues.
            rabbit.permissions("/", &name, ["^connecting-.*", ".*", ".*"]);
        })
        .await;
    let shop = Loop::start(Amqp::new(rabbit.url_of(&user, "secret", "/"))).await;
    eventually("it is told", || {
        shop.problems().contains(&Problem::Topology)
    })
    .await;
    let health = shop.bus.health();
    let mut found = health.conditions().iter();
    let found = found.find(|found| found.problem == Problem::Topology);
    let detail = found.unwrap().detail.clone().unwrap();
    assert!(detail.contains("permission on queue"), "{detail}");
    assert!(!detail.contains(&user), "{detail}");
    assert!(!health.is_ready());
    let name = user.clone();
    rabbit
        .run(move |rabbit| rabbit.permissions("/", &name, [".*"; 3]))
        .await;
    shop.is_well().await;
    shop.crosses(1).await;
    shop.end().await;
    rabbit
        .run(move |rabbit| drop(rabbit.ctl(&["delete_user", &user])))
        .await;
}
