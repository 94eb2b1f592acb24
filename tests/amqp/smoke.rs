//! The first things that a bridge must do, over a real RabbitMQ.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postroom::{Amqp, Bridged, Bus, Command, Event, Failure, Refusal, RequestError, Retry};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Paid {
    order: u32,
}

impl Event for Paid {
    const TOPIC: &'static str = "ordering.order-paid";
}

#[derive(Serialize, Deserialize)]
struct Charge {
    cents: u32,
}

impl Command for Charge {
    const QUEUE: &'static str = "payment.charge";
    type Reply = u32;
}

fn amqp(prefix: &str) -> Amqp {
    let url = std::env::var("AMQP_URL").expect("AMQP_URL names a RabbitMQ: see scripts/rabbitmq");
    Amqp::new(url).prefix(prefix)
}

fn unique(name: &str) -> String {
    format!("{name}-{}", postroom::MessageId::new())
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_event_crosses_and_is_acknowledged() {
    let prefix = unique("smoke");
    let (shop, mail) = (unique("shop"), unique("mail"));
    let ordering = Bus::builder(&shop)
        .bridge(amqp(&prefix).export("ordering.#"))
        .start()
        .await
        .unwrap();
    let mailing = Bus::builder(&mail)
        .bridge(amqp(&prefix).import("ordering.#"))
        .start()
        .await
        .unwrap();
    let receipt = ordering.publish(Paid { order: 1 }).await.unwrap();
    assert_eq!(receipt.bridged, Bridged::Unrouted);
    let handled = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&handled);
    let mailer = mailing
        .subscribe_fn::<Paid, _>("mailer", async move |paid: &Paid, cx| {
            assert_eq!(paid.order, 2);
            assert_eq!(cx.attempt(), 1);
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .start()
        .await
        .unwrap();
    // Its queue is declared soon.
    let begun = std::time::Instant::now();
    loop {
        let receipt = ordering.publish(Paid { order: 2 }).await.unwrap();
        if receipt.bridged == Bridged::Routed {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("it is handled", || handled.load(Ordering::SeqCst) == 1).await;
    until("it is acknowledged", || mailer.snapshot().acked == 1).await;
    assert!(mailer.snapshot().balances(), "{:?}", mailer.snapshot());
    assert!(ordering.shutdown(Duration::from_secs(5)).await.clean);
    let report = mailing.shutdown(Duration::from_secs(5)).await;
    assert!(report.clean, "{report:?}");
}

#[tokio::test]
async fn a_failing_one_is_retried_over_the_ladder_and_then_a_dead_letter() {
    let prefix = unique("smoke");
    let shop = unique("shop");
    let bus = Bus::builder(&shop)
        .bridge(amqp(&prefix).import("ordering.#"))
        .start()
        .await
        .unwrap();
    let attempts = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let seen = Arc::clone(&attempts);
    let mailer = bus
        .subscribe_fn::<Paid, _>("mailer", async move |_: &Paid, cx| {
            seen.lock().push(cx.attempt());
            Err(Failure::retry("no"))
        })
        .retry(Retry::fixed(Duration::from_millis(200)).attempts(3))
        .start()
        .await
        .unwrap();
    until("the queue is there", || {
        mailer.state() == postroom::SubscriptionState::Running
    })
    .await;
    loop {
        if bus.publish(Paid { order: 2 }).await.unwrap().bridged == Bridged::Routed {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("it is dead", || mailer.snapshot().dead_lettered == 1).await;
    assert_eq!(*attempts.lock(), [1, 2, 3]);
    let books = mailer.snapshot();
    assert!(books.balances(), "{books:?}");
    assert_eq!((books.returned, books.accepted), (2, 3));
    assert!(bus.shutdown(Duration::from_secs(5)).await.clean);
}

#[tokio::test]
async fn a_request_crosses_and_a_command_without_a_home_is_an_error() {
    let prefix = unique("smoke");
    let (shop, pay) = (unique("shop"), unique("pay"));
    let shop = Bus::builder(&shop)
        .bridge(amqp(&prefix).export_commands("payment.#"))
        .start()
        .await
        .unwrap();
    let error = shop.send(Charge { cents: 1 }).await.unwrap_err();
    assert_eq!(
        *error.kind(),
        Refusal::NoQueue {
            queue: Charge::QUEUE.to_owned()
        }
    );
    let payment = Bus::builder(&pay)
        .bridge(amqp(&prefix).import_commands("payment.charge"))
        .start()
        .await
        .unwrap();
    payment
        .handle_fn::<Charge, _>("charge", async |charge: &Charge, _| Ok(charge.cents + 1))
        .start()
        .await
        .unwrap();
    let begun = std::time::Instant::now();
    let reply = loop {
        match shop.request(Charge { cents: 41 }).await {
            Ok(reply) => break reply,
            Err(RequestError::NoQueue { .. }) if begun.elapsed() < Duration::from_secs(10) => {}
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(reply, 42);
    assert!(shop.shutdown(Duration::from_secs(5)).await.clean);
    assert!(payment.shutdown(Duration::from_secs(5)).await.clean);
}
