//! The fault matrix: what should never have been sent, under load.

use std::sync::Arc;
use std::time::Duration;

use crate::common::load::{Load, Numbered, Setup, delete_queue};
use crate::common::proxy::Proxy;
use crate::common::rabbit::Rabbit;
use crate::common::{Log, end, eventually, foreign, soon};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use postroom::{Amqp, Bus, Event as _, Failure, LifecycleKind, Refusal};

const DEADLINE: Duration = Duration::from_secs(60);

async fn delete(load: &Load) {
    let queue = load.queue();
    delete_queue(&load.setup.look_url, &format!("{queue}.dead")).await;
    delete_queue(&load.setup.look_url, &queue).await;
}

/// A message that RabbitMQ answers by closing the channel: larger than it takes, and not larger than we think.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_closes_the_channel_does_not_take_others_with_it() {
    let start = || Rabbit::start_with(&["--set", "max_message_size = 20000"]);
    let rabbit = tokio::task::spawn_blocking(start).await.unwrap();
    let load = Load::start("poison message that closes the channel", Setup::at(&rabbit)).await;
    let flow = load.flow(50, DEADLINE);
    for _ in 0..3 {
        load.flows(200).await;
        let (id, padding) = (load.next_id(), "x".repeat(30_000));
        let poison = load.publish_message(Numbered { id, padding }, DEADLINE);
        let outcomes = soon("the poison is refused", poison).await;
        assert_eq!(outcomes.rejected, 1, "{outcomes:?}");
    }
    load.flows(200).await;
    flow.end_none_refused().await;
    load.healed().await;
    load.check().await;
    assert!(
        load.lifecycle
            .all()
            .iter()
            .all(|event| event.kind != LifecycleKind::Disconnected),
        "the connection stayed"
    );
    load.end().await;
}

/// What a frame takes is agreed on with each broker, and kept by a retry's copy too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_are_bounded_by_the_frame_of_the_connection() {
    let start = || Rabbit::start_with(&["--set", "frame_max = 32768"]);
    let rabbit = tokio::task::spawn_blocking(start).await.unwrap();
    let amqp = Amqp::new(rabbit.url()).import(Numbered::TOPIC);
    let bus = Bus::builder("frames").bridge(amqp).start().await.unwrap();
    let attempts = Log::new();
    let noted = attempts.clone();
    let clerk = bus.subscribe_fn::<Numbered, _>("clerk", async move |_, cx| {
        noted.push(cx.attempt());
        match cx.attempt() {
            1 => Err(Failure::retry_after(
                Duration::from_millis(100),
                "x".repeat(5_000),
            )),
            _ => Ok(()),
        }
    });
    clerk.start().await.unwrap();
    let publish = |id, bytes| {
        let padding = String::new();
        let publishing = bus.publish(Numbered { id, padding });
        publishing.header("x-long", &"x".repeat(bytes))
    };
    let refused = publish(1, 40_000).await.unwrap_err();
    assert!(
        matches!(refused.kind(), Refusal::HeadersTooLarge { .. }),
        "{refused}"
    );
    publish(2, 14_000).await.unwrap();
    eventually("it is retried", || attempts.all() == [1, 2]).await;
    assert_eq!(bus.snapshot().bridge.unwrap().publish_connects, 1);
    end(&bus).await;
}

fn headers(entries: impl IntoIterator<Item = (String, AMQPValue)>) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.as_str().into(), value);
    }
    BasicProperties::default().with_headers(table)
}

fn every_type() -> BasicProperties {
    let mut inner = FieldTable::default();
    inner.insert("inner".into(), AMQPValue::Void);
    let array = vec![
        AMQPValue::Boolean(false),
        AMQPValue::FieldTable(inner.clone()),
    ];
    let decimal = lapin::types::DecimalValue {
        scale: 2,
        value: 314,
    };
    let values = [
        AMQPValue::Boolean(true),
        AMQPValue::ShortShortInt(-1),
        AMQPValue::ShortShortUInt(1),
        AMQPValue::ShortInt(-2),
        AMQPValue::ShortUInt(2),
        AMQPValue::LongInt(-3),
        AMQPValue::LongUInt(3),
        AMQPValue::LongLongInt(i64::MIN),
        AMQPValue::Float(-1.5),
        AMQPValue::Double(f64::MAX),
        AMQPValue::DecimalValue(decimal),
        AMQPValue::LongString("text".into()),
        AMQPValue::LongString(vec![0xff, 0xfe].into()),
        AMQPValue::FieldArray(FieldArray::from(array)),
        AMQPValue::Timestamp(u64::MAX),
        AMQPValue::FieldTable(inner),
        AMQPValue::ByteArray(vec![0, 1, 2].into()),
        AMQPValue::Void,
    ];
    let named = values.into_iter().enumerate();
    headers(named.map(|(number, value)| (format!("type-{number}"), value)))
}

fn forged() -> BasicProperties {
    let text = |value: &str| AMQPValue::LongString(value.into());
    headers([
        ("x-postroom-attempts".to_owned(), AMQPValue::LongLongInt(99)),
        ("x-postroom-first-failed".to_owned(), text("yesterday")),
        (
            "x-postroom-last-failed".to_owned(),
            AMQPValue::Boolean(true),
        ),
        ("x-postroom-errors".to_owned(), AMQPValue::Void),
        ("x-postroom-id".to_owned(), text("not an id")),
        ("x-postroom-address".to_owned(), text("elsewhere")),
        ("x-postroom-exchange".to_owned(), text("elsewhere")),
        ("x-postroom-queue".to_owned(), AMQPValue::LongLongInt(-1)),
        ("x-postroom-expires".to_owned(), text("never")),
        (
            "x-postroom-key".to_owned(),
            AMQPValue::ByteArray(vec![0].into()),
        ),
        ("x-death".to_owned(), text("old")),
    ])
}

fn odd_properties() -> BasicProperties {
    BasicProperties::default()
        .with_message_id("x".repeat(255).as_str().into())
        .with_correlation_id("\u{1}".into())
        .with_reply_to("nowhere".into())
        .with_type("a type\nof two lines".into())
        .with_timestamp(u64::MAX)
        .with_priority(255)
        .with_content_type("text/html".into())
        .with_app_id("\u{0}".into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_garbage_is_handled_or_a_dead_letter() {
    let rabbit = Rabbit::shared();
    let seen = Log::new();
    let attempts = seen.clone();
    let setup = Setup {
        handler: Arc::new(move |id, attempt| {
            attempts.push((id, attempt));
            Box::pin(async { Ok(()) })
        }),
        ..Setup::at(&rabbit)
    };
    let load = Load::start("foreign garbage", setup).await;
    let flow = load.flow(10, DEADLINE);
    load.flows(50).await;
    let exchange = format!("{}.events", load.prefix);
    let topic = Numbered::TOPIC;

    let many = (0..10_000).map(|number| (format!("h{number}"), AMQPValue::Boolean(true)));
    let handled = [
        BasicProperties::default(),
        every_type(),
        headers(many),
        forged(),
        odd_properties(),
    ];
    let handled = handled.into_iter().map(|properties| {
        let id = load.next_id();
        load.oracle.attempt(id);
        load.oracle.accept(id);
        (properties, format!(r#"{{"id":{id}}}"#).into_bytes())
    });
    let handled: Vec<_> = handled.collect();
    foreign::publish(rabbit.url(), &exchange, topic, handled).await;

    let id = load.next_id();
    load.oracle.attempt(id);
    load.oracle.accept(id);
    let (padding, large) = ("x".repeat(1 << 20), load.next_id());
    load.oracle.attempt(large);
    load.oracle.accept(large);
    let body = format!(r#"{{"id":{large},"padding":"{padding}"}}"#);
    let plain = BasicProperties::default();
    foreign::publish(
        rabbit.url(),
        &exchange,
        topic,
        vec![(plain.clone(), body.into())],
    )
    .await;
    let (url, to) = (rabbit.url().to_owned(), exchange.clone());
    // Three times what lapin alone has stack for. A quorum queue takes seconds of processor for the 18,000 that a frame
    // holds, since it works quadratically over them; so many arrive by the guard's own test.
    let nesting = tokio::task::spawn_blocking(move || {
        let body = format!(r#"{{"id":{id}}}"#);
        foreign::publish_nested(&url, &to, topic, 3_000, body.as_bytes());
    });
    nesting.await.unwrap();

    let dead: Vec<(BasicProperties, Vec<u8>)> = vec![
        (plain.clone(), Vec::new()),
        (
            plain.clone().with_content_encoding("gzip".into()),
            vec![0x1f, 0x8b, 8, 0],
        ),
        (plain.clone(), vec![0xff; 1 << 20]),
        (plain.clone(), "[".repeat(200_000).into_bytes()),
        (plain.clone(), br#"{"id":"three"}"#.to_vec()),
        (every_type(), b"null".to_vec()),
        (forged(), b"{".to_vec()),
        (odd_properties(), b"<html>".to_vec()),
    ];
    let letters = u32::try_from(dead.len()).unwrap();
    foreign::publish(rabbit.url(), &exchange, topic, dead).await;
    let name = format!("{}.dead", load.queue());
    load.until("the others are dead letters", async || {
        load.ready(&name).await == letters
    })
    .await;
    load.flows(50).await;
    flow.end().await;
    load.healed().await;
    load.check().await;
    assert_eq!(
        load.subscription.snapshot().dead_lettered,
        u64::from(letters)
    );
    assert!(
        seen.all().iter().all(|(_, attempt)| *attempt == 1),
        "attempts are not believed"
    );
    let lost = load.lifecycle.all().into_iter();
    let lost: Vec<_> = lost
        .filter(|event| event.kind == LifecycleKind::Disconnected)
        .collect();
    assert!(lost.is_empty(), "the connections stay: {lost:?}");
    load.end().await;
    delete(&load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_sent_is_a_local_error() {
    let rabbit = Rabbit::shared();
    let proxy = Proxy::start(rabbit.authority());
    let setup = Setup {
        publish_url: rabbit.url_through(proxy.address()),
        amqp: |amqp| amqp.body_limit(100_000),
        ..Setup::at(&rabbit)
    };
    let load = Load::start("names, headers and bodies over their limits", setup).await;
    let opened = proxy.opened();
    let flow = load.flow(10, DEADLINE);
    load.flows(50).await;
    let bus = &load.publishing;
    let small = || Numbered {
        id: u64::MAX,
        padding: String::new(),
    };
    for _ in 0..20 {
        let long = "x".repeat(256);
        let error = bus.publish(small()).key(&long).await.unwrap_err();
        assert!(matches!(error.kind(), Refusal::Name(_)), "{error:?}");
        let error = bus
            .publish(small())
            .header(&long, "value")
            .await
            .unwrap_err();
        assert!(matches!(error.kind(), Refusal::Name(_)), "{error:?}");
        let topic = format!("load.{long}");
        let error = bus
            .publish_raw(&topic, serde_json::json!({}))
            .await
            .unwrap_err();
        assert!(matches!(error.kind(), Refusal::Name(_)), "{error:?}");
        let large = "x".repeat(200_000);
        let error = bus
            .publish(small())
            .header("large", &large)
            .await
            .unwrap_err();
        assert!(
            matches!(error.kind(), Refusal::HeadersTooLarge { .. }),
            "{error:?}"
        );
        let over = Numbered {
            id: u64::MAX,
            padding: large,
        };
        let error = bus.publish(over).await.unwrap_err();
        assert!(
            matches!(error.kind(), Refusal::TooLarge { .. }),
            "{error:?}"
        );
    }
    load.flows(50).await;
    flow.end().await;
    load.check().await;
    assert_eq!(proxy.opened(), opened, "the connections stayed");
    assert!(
        load.lifecycle
            .all()
            .iter()
            .all(|event| event.kind != LifecycleKind::Restarted),
        "the channels stayed"
    );
    load.end().await;
    delete(&load).await;
}
