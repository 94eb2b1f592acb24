//! Which broker a bus connects to, what of it may be missing, and what its health says meanwhile.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::proxy::Proxy;
use crate::common::rabbit::{Rabbit, delete_group};
use crate::common::{Log, PATIENCE, dead_letters, end, eventually, soon};
use lapin::options::BasicConsumeOptions;
use lapin::types::FieldTable;
use postroom::{
    Amqp, Bridged, Bus, Command, Event, Failure, Filter, Problem, QueueType, Refusal, TopologyMode,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Paid(u32);

impl Event for Paid {
    const TOPIC: &'static str = "ordering.order-paid";
}

#[derive(Debug, Serialize, Deserialize)]
struct Charge(u32);

impl Command for Charge {
    const QUEUE: &'static str = "payment.charge";
    type Reply = u32;
}

/// A bus that handles what it publishes, by way of RabbitMQ.
struct Loop {
    bus: Bus,
    service: String,
    handled: Arc<Mutex<Vec<u32>>>,
}

impl Loop {
    async fn start(amqp: Amqp) -> Self {
        let prefix = Rabbit::unique("connecting");
        // A queue is named by its service.
        Self::of(amqp.prefix(prefix), Rabbit::unique("shop")).await
    }

    async fn of(amqp: Amqp, service: String) -> Self {
        let amqp = amqp
            .import("ordering.#")
            .export("ordering.#")
            .connect_timeout(Duration::from_secs(1));
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

    /// Waits until its health says so, and why.
    async fn has(&self, problem: Problem) -> String {
        let mut why = None;
        eventually("its health says so", || {
            let health = self.bus.health();
            let mut found = health.conditions().iter();
            let found = found.find(|found| found.problem == problem);
            why = found.and_then(|found| found.detail.clone());
            assert!(found.is_none() || !health.is_ready() && health.is_live());
            why.is_some()
        })
        .await;
        why.unwrap()
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
    let detail = shop.has(Problem::Topology).await;
    assert!(detail.contains("permission on queue"), "{detail}");
    assert!(!detail.contains(&user), "{detail}");
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

/// Retries, dead letters, replays and requests included: `docs/operations.md` is read.
#[tokio::test]
async fn the_permissions_that_are_documented_are_enough() {
    let rabbit = Rabbit::controlled();
    let (prefix, service) = (Rabbit::unique("connecting"), Rabbit::unique("porter"));
    let page = include_str!("../../docs/operations.md");
    let (_, command) = page.split_once("set_permissions -p / shop").unwrap();
    let quoted: Vec<_> = command.split('\'').collect();
    let may = [1, 3, 5].map(|nth| {
        let named = quoted[nth].replace("postroom", &prefix);
        named.replace("shop", &service)
    });
    let user = Rabbit::unique("clerk");
    let name = user.clone();
    rabbit
        .run(move |rabbit| {
            rabbit.add_user(&name, "secret");
            rabbit.permissions("/", &name, may.each_ref().map(String::as_str));
        })
        .await;
    let amqp = Amqp::new(rabbit.url_of(&user, "secret", "/")).prefix(&prefix);
    let amqp = amqp.import("ordering.#").import_commands("payment.#");
    let bus = Bus::builder(&service).bridge(amqp).start().await.unwrap();
    let handled = Log::new();
    let noted = handled.clone();
    let mailer = bus.subscribe_fn::<Paid, _>("mailer", async move |paid, cx| {
        noted.push((paid.0, cx.attempt()));
        match (paid.0, cx.attempt()) {
            (1, 1) => Err(Failure::retry_after(Duration::from_millis(150), "not yet")),
            (2, _) => Err(Failure::reject("never")),
            _ => Ok(()),
        }
    });
    mailer.start().await.unwrap();
    let payment = bus.handle_fn::<Charge, _>("payment", async |charge, _| Ok(charge.0 + 1));
    payment.start().await.unwrap();
    bus.publish(Paid(1)).await.unwrap();
    eventually("it is retried", || handled.all() == [(1, 1), (1, 2)]).await;
    bus.publish(Paid(2)).await.unwrap();
    let given_up = || bus.snapshot().queue("mailer").unwrap().dead_lettered;
    eventually("it is given up", || given_up() == 1).await;
    let replayed = bus.dead_letters().replay_all(&Filter::all()).await;
    assert_eq!(replayed.unwrap().replayed, 1);
    eventually("it is given up again", || given_up() == 2).await;
    let letters = dead_letters(&bus).await;
    assert!(bus.dead_letters().discard(letters[0].id).await.unwrap());
    assert_eq!(bus.request(Charge(1)).await.unwrap(), 2);
    eventually("it is well", || bus.health().conditions().is_empty()).await;
    for group in ["mailer", "payment"] {
        delete_group(&bus, group).await;
    }
    end(&bus).await;
    rabbit
        .run(move |rabbit| drop(rabbit.ctl(&["delete_user", &user])))
        .await;
}

#[tokio::test]
async fn what_a_bus_may_not_declare_it_waits_for_or_takes_for_granted() {
    let rabbit = Rabbit::shared();
    let (service, prefix) = (Rabbit::unique("shop"), Rabbit::unique("connecting"));
    let amqp = |mode| {
        let amqp = Amqp::new(rabbit.url()).prefix(&prefix);
        amqp.topology(mode)
    };
    let verifying = Loop::of(amqp(TopologyMode::Verify), service.clone()).await;
    let detail = verifying.has(Problem::Topology).await;
    assert!(detail.contains("exchange"), "{detail}");
    let declaring = Loop::of(amqp(TopologyMode::Declare), service.clone()).await;
    declaring.is_well().await;
    end(&declaring.bus).await;
    verifying.is_well().await;
    verifying.crosses(1).await;
    end(&verifying.bus).await;
    let assuming = Loop::of(amqp(TopologyMode::Assume), service).await;
    assuming.crosses(2).await;
    assuming.is_well().await;
    assuming.end().await;
}

/// What it publishes is refused, and what it handles is handled all the same.
#[tokio::test]
async fn a_publish_without_permission_is_refused_and_says_why() {
    let rabbit = Rabbit::controlled();
    let (user, prefix) = (Rabbit::unique("clerk"), Rabbit::unique("connecting"));
    let (name, exchange) = (user.clone(), format!("{prefix}.events"));
    let but = format!("^(?!{exchange}$).*");
    rabbit
        .run(move |rabbit| {
            rabbit.add_user(&name, "secret");
            rabbit.permissions("/", &name, [".*", &but, ".*"]);
        })
        .await;
    let amqp = Amqp::new(rabbit.url_of(&user, "secret", "/")).prefix(&prefix);
    let shop = Loop::of(amqp, Rabbit::unique("shop")).await;
    for order in [1, 2] {
        let refused = soon("it is refused", shop.bus.publish(Paid(order))).await;
        let refused = refused.unwrap_err();
        let Refusal::Rejected { why } = refused.kind() else {
            panic!("{refused}");
        };
        assert!(why.contains(&exchange) && !why.contains(&user), "{why}");
        assert_eq!(refused.into_message().unwrap().0, order);
    }
    let amqp = Amqp::new(rabbit.url()).prefix(&prefix).export("ordering.#");
    let other = Bus::builder(Rabbit::unique("desk")).bridge(amqp);
    let other = other.start().await.unwrap();
    other.publish(Paid(3)).await.unwrap();
    eventually("it is handled", || *shop.handled.lock().unwrap() == [3]).await;
    end(&other).await;
    shop.is_well().await;
    let name = user.clone();
    rabbit
        .run(move |rabbit| rabbit.permissions("/", &name, [".*"; 3]))
        .await;
    shop.crosses(4).await;
    shop.end().await;
    rabbit
        .run(move |rabbit| drop(rabbit.ctl(&["delete_user", &user])))
        .await;
}

#[tokio::test]
async fn a_consumer_that_is_refused_is_missed_and_says_why() {
    let rabbit = Rabbit::shared();
    let (service, prefix) = (Rabbit::unique("shop"), Rabbit::unique("connecting"));
    let amqp = || {
        let amqp = Amqp::new(rabbit.url()).prefix(&prefix);
        amqp.queue_type(QueueType::Classic)
    };
    let shop = Loop::of(amqp(), service.clone()).await;
    shop.crosses(1).await;
    end(&shop.bus).await;
    // Somebody has it for himself, as soon as RabbitMQ has seen that the bus is gone.
    let options = lapin::ConnectionProperties::default();
    let connection = lapin::Connection::connect(rabbit.url(), options)
        .await
        .unwrap();
    let queue = format!("{service}.mailer");
    let until = Instant::now() + PATIENCE;
    let consumer = loop {
        let channel = connection.create_channel().await.unwrap();
        let alone = BasicConsumeOptions {
            exclusive: true,
            ..BasicConsumeOptions::default()
        };
        let (queue, tag) = (queue.as_str().into(), "alone".into());
        let consuming = channel.basic_consume(queue, tag, alone, FieldTable::default());
        match consuming.await {
            Ok(consumer) => break consumer,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    };
    let shop = Loop::of(amqp(), service).await;
    let detail = shop.has(Problem::NoConsumer).await;
    assert!(
        detail.contains(&queue) && detail.contains("exclusive"),
        "{detail}"
    );
    drop(consumer);
    connection.close(200, "done".into()).await.unwrap();
    shop.is_well().await;
    shop.crosses(2).await;
    assert_eq!(*shop.handled.lock().unwrap(), [2]);
    shop.end().await;
}
