//! What RabbitMQ's answers mean to a publisher: returns, and refusals of what was written again.

use crate::common::proxy::{Direction, Proxy};
use crate::common::rabbit::Rabbit;
use crate::common::{end, eventually, soon};
use lapin::options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use postroom::{Amqp, Bus, Command, Event, MessageId, Refusal};
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
    type Reply = ();
}

/// RabbitMQ returns them all, and confirms many at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_commands_to_no_queue_is_told_so() {
    let amqp = Amqp::new(Rabbit::shared().url()).prefix(Rabbit::unique("confirms"));
    let amqp = amqp.export_commands("payment.#");
    let bus = Bus::builder(Rabbit::unique("shop")).bridge(amqp);
    let bus = bus.start().await.unwrap();
    for _ in 0..20 {
        let sending: Vec<_> = (0..300)
            .map(|number| {
                let bus = bus.clone();
                tokio::spawn(async move { bus.send(Charge(number)).await })
            })
            .collect();
        for sent in sending {
            let refused = soon("its answer", sent).await.unwrap().unwrap_err();
            assert!(
                matches!(refused.kind(), Refusal::NoQueue { .. }),
                "{refused}"
            );
        }
    }
    let counts = bus.snapshot().bridge.unwrap();
    assert_eq!((counts.returned, counts.confirmed), (6_000, 0));
    end(&bus).await;
}

/// Its first copy fills the queue, which rejects the second.
#[tokio::test]
async fn what_is_refused_when_it_is_repeated_is_not_known_to_be_refused() {
    let rabbit = Rabbit::shared();
    let prefix = Rabbit::unique("confirms");
    let proxy = Proxy::start(rabbit.authority());
    let amqp = Amqp::new(rabbit.url_through(proxy.address())).prefix(&prefix);
    let bus = Bus::builder(Rabbit::unique("shop")).bridge(amqp.export("ordering.#"));
    let bus = bus.start().await.unwrap();
    bus.publish(Paid(0)).await.unwrap();

    let connection = Connection::connect(rabbit.url(), ConnectionProperties::default());
    let connection = connection.await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut one_place = FieldTable::default();
    one_place.insert("x-max-length".into(), AMQPValue::LongInt(1));
    one_place.insert(
        "x-overflow".into(),
        AMQPValue::LongString("reject-publish".into()),
    );
    let queue = format!("{prefix}.small");
    channel
        .queue_declare(
            queue.as_str().into(),
            QueueDeclareOptions {
                durable: true,
                ..QueueDeclareOptions::default()
            },
            one_place,
        )
        .await
        .unwrap();
    channel
        .queue_bind(
            queue.as_str().into(),
            format!("{prefix}.events").into(),
            Paid::TOPIC.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();

    proxy.stall(Direction::ToClient);
    let before = proxy.bytes(Direction::ToServer);
    let (publishing, id) = (bus.clone(), MessageId::new());
    let waiting = tokio::spawn(async move { publishing.publish(Paid(1)).id(id).await });
    eventually("it is written", || {
        proxy.bytes(Direction::ToServer) > before + 100
    })
    .await;
    let stored = async {
        loop {
            let options = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let looking =
                channel.queue_declare(queue.as_str().into(), options, FieldTable::default());
            if looking.await.unwrap().message_count() == 1 {
                break;
            }
        }
    };
    soon("it is stored", stored).await;
    proxy.cut();
    proxy.resume();
    let refused = soon("its answer", waiting).await.unwrap().unwrap_err();
    assert!(
        matches!(refused.kind(), Refusal::Unconfirmed { .. }),
        "{refused}"
    );
    assert!(refused.kind().is_transient() && refused.kind().may_have_happened());
    let told = id.to_string();
    for round in ["it was there", "published again it is the same message"] {
        let got = channel.basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true });
        let got = got.await.unwrap().unwrap().delivery;
        assert_eq!(got.data, b"1", "{round}");
        let known = got.properties.message_id().as_ref().map(|id| id.as_str());
        assert_eq!(known, Some(told.as_str()), "{round}");
        if round == "it was there" {
            let again = bus.publish(Paid(1)).id(id).await.unwrap();
            assert_eq!(again.id, id);
        }
    }

    // One that is written once, and refused, is.
    bus.publish(Paid(2)).await.unwrap();
    let refused = bus.publish(Paid(3)).await.unwrap_err();
    assert!(
        matches!(refused.kind(), Refusal::Nacked { .. }),
        "{refused}"
    );
    assert!(refused.kind().is_transient() && refused.kind().may_have_happened());
    let options = QueueDeleteOptions::default();
    channel
        .queue_delete(queue.as_str().into(), options)
        .await
        .unwrap();
    connection.close(200, "done".into()).await.unwrap();
    end(&bus).await;
}
