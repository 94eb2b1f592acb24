//! Subscriptions on RabbitMQ that end, come again, or end in the middle of a retry.

use std::time::{Duration, Instant};

use crate::common::proxy::{Direction, Proxy};
use crate::common::rabbit::{Rabbit, delete_group};
use crate::common::{Door, Log, end, eventually, queue, soon};
use postroom::parts::PlanObject;
use postroom::{Amqp, Bridged, Bus, Event, Failure, Filter, Order, QueueType, Retry, Subscription};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Paid(u32);
impl Event for Paid {
    const TOPIC: &'static str = "ordering.order-paid";
}

/// A bus whose service and prefix are of this name.
async fn bus(name: &str) -> Bus {
    bus_on(&Rabbit::shared(), name).await
}

async fn bus_on(rabbit: &Rabbit, name: &str) -> Bus {
    let amqp = Amqp::new(rabbit.url()).prefix(name);
    let bus = Bus::builder(name).bridge(amqp.import("ordering.#"));
    bus.start().await.unwrap()
}

fn open() -> Door {
    let door = Door::closed();
    door.open();
    door
}

async fn publish(bus: &Bus, orders: std::ops::Range<u32>) {
    for order in orders {
        bus.publish(Paid(order)).key(order % 4).await.unwrap();
    }
}

/// Whose handlers wait at a door.
async fn subscribe(bus: &Bus, order: Order, door: &Door, handled: &Log<u32>) -> Subscription {
    let (door, handled) = (door.clone(), handled.clone());
    bus.subscribe_fn::<Paid, _>("mailer", async move |paid, _| {
        door.pass().await;
        handled.push(paid.0);
        Ok(())
    })
    .order(order)
    .start()
    .await
    .unwrap()
}

async fn again(order: Order) {
    let name = Rabbit::unique("subscriptions");
    let bus = bus(&name).await;
    let (door, handled) = (Door::closed(), Log::new());
    let former = subscribe(&bus, order, &door, &handled).await;
    publish(&bus, 0..40).await;
    eventually("it has begun", || former.snapshot().in_flight > 0).await;
    let stopping = tokio::spawn({
        let former = former.clone();
        async move { former.stop(crate::common::PATIENCE).await }
    });
    eventually("it has left", || bus.snapshot().queue("mailer").is_none()).await;
    // Its handler is still at work.
    let next = subscribe(&bus, order, &open(), &handled).await;
    publish(&bus, 40..80).await;
    door.open();
    assert!(
        soon("the former one stops", stopping)
            .await
            .unwrap()
            .in_time
    );
    eventually("all is handled", || handled.all().len() >= 80).await;
    publish(&bus, 80..90).await;
    eventually("and what comes later", || handled.all().len() >= 90).await;
    let mut all = handled.all();
    if order == (Order::Keyed { lanes: 2 }) {
        for key in 0..4 {
            let of_key: Vec<_> = all.iter().filter(|order| *order % 4 == key).collect();
            assert!(of_key.is_sorted(), "{of_key:?}");
        }
    }
    all.sort_unstable();
    assert_eq!(all, (0..90).collect::<Vec<_>>(), "each of them once");
    assert!(bus.health().is_ready(), "{:?}", bus.health());
    next.stop(crate::common::PATIENCE).await;
    delete_group(&bus, "mailer").await;
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_subscribed_again_while_its_former_one_ends() {
    again(Order::Unordered { workers: 2 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyed_group_is_subscribed_again_while_its_former_one_ends() {
    again(Order::Keyed { lanes: 2 }).await;
}

#[tokio::test]
async fn a_keyed_group_whose_retry_waits_stops_at_once() {
    let name = Rabbit::unique("subscriptions");
    let bus = bus(&name).await;
    let failing = bus
        .subscribe_fn::<Paid, _>("mailer", async |_, _| {
            Err(Failure::retry_after(Duration::from_secs(60), "not yet"))
        })
        .keyed(2)
        .start()
        .await
        .unwrap();
    publish(&bus, 0..8).await;
    eventually("they wait", || failing.snapshot().waiting == 4).await;
    let begun = Instant::now();
    assert!(failing.stop(Duration::from_secs(60)).await.in_time);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    // RabbitMQ has them all.
    let handled = Log::new();
    let next = subscribe(&bus, Order::Keyed { lanes: 2 }, &open(), &handled).await;
    eventually("all is handled", || handled.all().len() == 8).await;
    next.stop(crate::common::PATIENCE).await;
    delete_group(&bus, "mailer").await;
    end(&bus).await;
}

#[tokio::test]
async fn a_rung_of_the_delays_that_was_deleted_is_declared_again() {
    let name = Rabbit::unique("subscriptions");
    let rabbit = Rabbit::controlled();
    let bus = bus_on(&rabbit, &name).await;
    let handled = Log::new();
    let noted = handled.clone();
    bus.subscribe_fn::<Paid, _>("mailer", async move |paid, cx| {
        noted.push((paid.0, cx.attempt()));
        match cx.attempt() {
            1 => Err(Failure::retry_after(Duration::from_millis(300), "not yet")),
            _ => Ok(()),
        }
    })
    .start()
    .await
    .unwrap();
    publish(&bus, 0..1).await;
    eventually("it is retried", || handled.all().len() == 2).await;
    let rungs = rabbit
        .run(|rabbit| rabbit.list_queues())
        .await
        .into_iter()
        .filter(|queue| queue.starts_with(&format!("{name}.delay.")));
    let rungs: Vec<_> = rungs.collect();
    assert!(!rungs.is_empty());
    for rung in rungs {
        rabbit.run(move |rabbit| rabbit.delete_queue(&rung)).await;
    }
    publish(&bus, 1..2).await;
    eventually("so is the next", || handled.all().len() == 4).await;
    assert_eq!(handled.all(), [(0, 1), (0, 2), (1, 1), (1, 2)]);
    delete_group(&bus, "mailer").await;
    end(&bus).await;
}

/// The consumer's end is told once, and here together with a delivery.
#[tokio::test]
async fn a_queue_that_is_deleted_behind_a_delivery_is_declared_again() {
    let name = Rabbit::unique("subscriptions");
    let rabbit = Rabbit::controlled();
    let proxy = Proxy::start(rabbit.authority());
    let handling = Amqp::new(rabbit.url_through(proxy.address())).prefix(&name);
    let handling = Bus::builder(&name).bridge(handling.import("ordering.#"));
    let handling = handling.start().await.unwrap();
    let handled = Log::new();
    subscribe(&handling, Order::Fifo, &open(), &handled).await;
    let publishing = Amqp::new(rabbit.url()).prefix(&name).export("ordering.#");
    let publishing = Bus::builder(Rabbit::unique("other")).bridge(publishing);
    let publishing = publishing.start().await.unwrap();
    publish(&publishing, 0..1).await;
    eventually("it is handled", || handled.all() == [0]).await;

    proxy.stall(Direction::ToClient);
    publish(&publishing, 1..2).await;
    let queue = format!("{name}.mailer");
    rabbit.run(move |rabbit| rabbit.delete_queue(&queue)).await;
    proxy.resume();
    let is_bound = async {
        while publishing.publish(Paid(2)).await.unwrap().bridged != Bridged::Routed {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("its queue is there again", is_bound).await;
    eventually("it is handled", || handled.all().contains(&2)).await;
    end(&publishing).await;
    delete_group(&handling, "mailer").await;
    end(&handling).await;
}

#[tokio::test]
async fn the_plan_of_a_delay_is_what_is_declared_for_it() {
    let name = Rabbit::unique("subscriptions");
    let rabbit = Rabbit::controlled();
    let bus = bus_on(&rabbit, &name).await;
    let longest = Duration::from_secs(60);
    let mailer = bus.subscribe_fn::<Paid, _>("mailer", async move |_, _| {
        Err(Failure::retry_after(longest, "not yet"))
    });
    let mailer = mailer.start().await.unwrap();
    publish(&bus, 0..1).await;
    eventually("it waits", || mailer.snapshot().retried == 1).await;
    let declared = rabbit.run(|rabbit| rabbit.list_queues()).await;
    let mut declared: Vec<_> = declared
        .into_iter()
        .filter(|queue| queue.starts_with(&format!("{name}.delay.")))
        .collect();
    declared.sort();
    let plan = bus.amqp().unwrap().delay_plan(longest);
    let mut planned: Vec<_> = plan
        .objects()
        .filter_map(|object| match object {
            PlanObject::Queue { name, .. } => Some(name.clone()),
            _ => None,
        })
        .collect();
    planned.sort();
    assert_eq!(declared, planned);
    assert_eq!(planned.len(), 10);
    assert!(
        bus.amqp()
            .unwrap()
            .delay_plan(Duration::ZERO)
            .objects()
            .next()
            .is_none()
    );
    delete_group(&bus, "mailer").await;
    end(&bus).await;
}

/// How often a message has failed goes with it, while it waits and nobody is there.
async fn goes_on_in_the_next_process(queue_type: QueueType) {
    let name = Rabbit::unique("subscriptions");
    let attempts = Log::new();
    let start = async || {
        let amqp = Amqp::new(Rabbit::shared().url()).prefix(&name);
        let amqp = amqp.queue_type(queue_type).import("ordering.#");
        let bus = Bus::builder(&name).bridge(amqp).start().await.unwrap();
        let noted = attempts.clone();
        bus.subscribe_fn::<Paid, _>("mailer", async move |_, cx| {
            noted.push(cx.attempt());
            Err(Failure::retry_after(Duration::from_secs(1), "not yet"))
        })
        .retry(Retry::exponential(Duration::from_millis(1)..Duration::from_millis(2)).attempts(3))
        .start()
        .await
        .unwrap();
        bus
    };
    let bus = start().await;
    publish(&bus, 0..1).await;
    for attempt in 1..3 {
        let bus = match attempt {
            1 => bus.clone(),
            _ => start().await,
        };
        eventually("it fails", || {
            let counts = queue(&bus, "mailer");
            counts.retried == 1 && counts.in_flight == 0
        })
        .await;
        end(&bus).await;
    }
    let bus = start().await;
    eventually("it is given up", || {
        queue(&bus, "mailer").dead_lettered == 1
    })
    .await;
    assert_eq!(attempts.all(), [1, 2, 3]);
    let letters = bus.dead_letters();
    let found = letters.list(&Filter::all()).await.unwrap();
    let attempts: Vec<_> = found.iter().map(|letter| letter.attempts).collect();
    assert_eq!(attempts, [3]);
    letters.discard(found[0].id).await.unwrap();
    delete_group(&bus, "mailer").await;
    end(&bus).await;
}

#[tokio::test]
async fn a_retry_that_waits_goes_on_in_the_next_process() {
    goes_on_in_the_next_process(QueueType::Quorum).await;
}

#[tokio::test]
async fn a_retry_that_waits_goes_on_in_the_next_process_on_a_classic_queue_too() {
    goes_on_in_the_next_process(QueueType::Classic).await;
}
