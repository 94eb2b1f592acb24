//! The harness of the fault tests, shown to break what it says that it breaks: plain lapin stands in for the bridge.

use std::pin::pin;
use std::time::Duration;

use futures_core::Stream;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, Event,
};

use crate::common::proxy::{Direction, Proxy};
use crate::common::rabbit::Rabbit;
use crate::common::{Oracle, soon};

/// Long enough that a broker which can answer has answered.
const SILENCE: Duration = Duration::from_millis(700);

const PERSISTENT: u8 = 2;

async fn connect(url: &str) -> Connection {
    let connecting = Connection::connect(url, ConnectionProperties::default());
    soon("connecting", connecting).await.unwrap()
}

async fn confirming(connection: &Connection) -> Channel {
    let channel = soon("a channel", connection.create_channel())
        .await
        .unwrap();
    let selecting = channel.confirm_select(ConfirmSelectOptions::default());
    soon("confirms", selecting).await.unwrap();
    channel
}

async fn declare(channel: &Channel, queue: &str, kind: &str) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    let declaring = channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments);
    soon("the queue", declaring).await.unwrap();
}

/// Publishes an id and waits for its confirm.
async fn publish(channel: &Channel, queue: &str, id: u64) -> lapin::Result<Confirmation> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let body = id.to_string();
    channel
        .basic_publish(
            ShortString::default(),
            queue.into(),
            options,
            body.as_bytes(),
            properties,
        )
        .await?
        .await
}

async fn consume(channel: &Channel, queue: &str) -> Consumer {
    let options = BasicConsumeOptions::default();
    let consuming =
        channel.basic_consume(queue.into(), "test".into(), options, FieldTable::default());
    soon("consuming", consuming).await.unwrap()
}

async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    let mut stream = pin!(stream);
    std::future::poll_fn(|context| stream.as_mut().poll_next(context)).await
}

/// The id of the next delivery, acknowledged.
async fn handle(consumer: &mut Consumer) -> u64 {
    let delivery = soon("a delivery", next(consumer)).await.unwrap().unwrap();
    delivery.ack(BasicAckOptions::default()).await.unwrap();
    String::from_utf8_lossy(&delivery.data).parse().unwrap()
}

/// Waits for an error at the consumer: the connection is known to be gone.
async fn until_broken(consumer: &mut Consumer) {
    let broken = async { while let Some(Ok(_)) = next(consumer).await {} };
    soon("the connection's end", broken).await;
}

/// The future does not end while a broker could have answered.
async fn hangs<T>(future: impl Future<Output = T> + Unpin) {
    assert!(
        tokio::time::timeout(SILENCE, future).await.is_err(),
        "an answer came"
    );
}

/// A private node, started beside the test's runtime.
async fn private() -> Rabbit {
    tokio::task::spawn_blocking(Rabbit::start).await.unwrap()
}

#[tokio::test]
async fn messages_pass_the_proxy_and_the_broker_counts_them() {
    let rabbit = tokio::task::spawn_blocking(Rabbit::controlled)
        .await
        .unwrap();
    let queue = Rabbit::unique("harness");
    let proxy = Proxy::start(rabbit.authority());
    let connection = connect(&rabbit.url_through(proxy.address())).await;
    let channel = confirming(&connection).await;
    declare(&channel, &queue, "quorum").await;

    let oracle = Oracle::default();
    for id in 0..10 {
        oracle.attempt(id);
        let confirmation = soon("a confirm", publish(&channel, &queue, id))
            .await
            .unwrap();
        assert_eq!(confirmation, Confirmation::Ack(None));
        oracle.accept(id);
    }
    assert!(proxy.bytes(Direction::ToServer) > 0);
    let name = queue.clone();
    let listing = rabbit.run(move |rabbit| {
        rabbit.until("its messages are counted", || {
            rabbit.queue_depth(&name) == 10
        });
        rabbit.list_queues().contains(&name)
    });
    assert!(listing.await, "it is listed");

    let mut consumer = consume(&channel, &queue).await;
    for _ in 0..10 {
        oracle.handle(&queue, handle(&mut consumer).await);
    }
    oracle.check_at_least_once("the proxy alone", &[&queue]);
    let name = queue.clone();
    let counting = rabbit.run(move |rabbit| {
        rabbit.until("its consumer is counted", || rabbit.consumers(&name) == 1);
    });
    counting.await;

    proxy.cut();
    until_broken(&mut consumer).await;
    rabbit.run(move |rabbit| rabbit.delete_queue(&queue)).await;
}

#[tokio::test]
async fn a_cut_in_the_middle_of_a_publish_is_an_error() {
    let rabbit = Rabbit::shared();
    let queue = Rabbit::unique("harness");
    let proxy = Proxy::start(rabbit.authority());
    let connection = connect(&rabbit.url_through(proxy.address())).await;
    let channel = confirming(&connection).await;
    declare(&channel, &queue, "classic").await;
    proxy.cut_after(Direction::ToServer, 20);
    let error = soon("the publish", publish(&channel, &queue, 1)).await;
    assert!(error.is_err(), "{error:?}");

    let connection = connect(&rabbit.url_through(proxy.address())).await;
    let channel = confirming(&connection).await;
    let got = channel.basic_get(queue.as_str().into(), BasicGetOptions::default());
    assert!(
        soon("a get", got).await.unwrap().is_none(),
        "half a frame is no message"
    );
    let deleting = channel.queue_delete(queue.as_str().into(), Default::default());
    soon("the delete", deleting).await.unwrap();
}

#[tokio::test]
async fn a_stop_of_the_application_is_seen() {
    let rabbit = private().await;
    let connection = connect(rabbit.url()).await;
    let channel = confirming(&connection).await;
    declare(&channel, "kept", "quorum").await;
    soon("a confirm", publish(&channel, "kept", 7))
        .await
        .unwrap();
    let mut consumer = consume(&channel, "kept").await;
    assert_eq!(handle(&mut consumer).await, 7);

    rabbit.run(Rabbit::stop_app).await;
    until_broken(&mut consumer).await;
    assert!(std::net::TcpStream::connect(rabbit.authority()).is_err());

    rabbit.run(Rabbit::start_app).await;
    let connection = connect(rabbit.url()).await;
    let channel = confirming(&connection).await;
    soon("a confirm", publish(&channel, "kept", 8))
        .await
        .unwrap();
    assert_eq!(handle(&mut consume(&channel, "kept").await).await, 8);
}

#[tokio::test]
async fn connections_closed_by_the_broker_are_seen() {
    let rabbit = private().await;
    let connection = connect(rabbit.url()).await;
    let channel = confirming(&connection).await;
    declare(&channel, "kept", "classic").await;
    let mut consumer = consume(&channel, "kept").await;
    rabbit.run(Rabbit::close_all_connections).await;
    until_broken(&mut consumer).await;
    let again = connect(rabbit.url()).await;
    confirming(&again).await;
}

#[tokio::test]
async fn a_frozen_broker_answers_when_it_thaws() {
    let rabbit = private().await;
    let connection = connect(rabbit.url()).await;
    let channel = confirming(&connection).await;
    declare(&channel, "kept", "classic").await;
    rabbit.run(Rabbit::freeze).await;
    let mut publishing = Box::pin(publish(&channel, "kept", 1));
    hangs(&mut publishing).await;
    let url = rabbit.url().to_owned();
    hangs(Box::pin(Connection::connect(
        &url,
        ConnectionProperties::default(),
    )))
    .await;
    rabbit.run(Rabbit::thaw).await;
    soon("the confirm", publishing).await.unwrap();
    assert_eq!(handle(&mut consume(&channel, "kept").await).await, 1);
}

#[tokio::test]
async fn a_memory_alarm_blocks_publishers_until_it_is_over() {
    let rabbit = private().await;
    let connection = connect(rabbit.url()).await;
    let mut events = Box::pin(connection.events_listener());
    let channel = confirming(&connection).await;
    declare(&channel, "kept", "classic").await;
    rabbit.run(|rabbit| rabbit.memory_alarm(true)).await;
    let mut publishing = Box::pin(publish(&channel, "kept", 1));
    hangs(&mut publishing).await;
    let blocked = async {
        loop {
            match next(&mut events).await {
                Some(Event::ConnectionBlocked(_)) => break,
                Some(_) => {}
                None => panic!("the events ended"),
            }
        }
    };
    soon("the event", blocked).await;
    rabbit.run(|rabbit| rabbit.memory_alarm(false)).await;
    soon("the confirm", publishing).await.unwrap();
}

#[tokio::test]
async fn a_killed_broker_keeps_what_it_confirmed() {
    let rabbit = private().await;
    let connection = connect(rabbit.url()).await;
    let channel = confirming(&connection).await;
    declare(&channel, "kept", "quorum").await;
    declare(&channel, "idle", "quorum").await;
    let oracle = Oracle::default();
    for id in 0..20 {
        oracle.attempt(id);
        soon("a confirm", publish(&channel, "kept", id))
            .await
            .unwrap();
        oracle.accept(id);
    }
    let mut idle = consume(&channel, "idle").await;
    rabbit.run(Rabbit::kill).await;
    until_broken(&mut idle).await;
    rabbit.run(Rabbit::restart).await;

    let connection = connect(rabbit.url()).await;
    let channel = confirming(&connection).await;
    let mut consumer = consume(&channel, "kept").await;
    for _ in 0..20 {
        oracle.handle("kept", handle(&mut consumer).await);
    }
    oracle.check_at_least_once("killed and restarted", &["kept"]);
}

#[tokio::test]
async fn a_user_may_do_what_is_permitted_in_a_vhost() {
    let rabbit = private().await;
    rabbit
        .run(|rabbit| {
            rabbit.add_vhost("shop");
            rabbit.add_user("clerk", "secret");
            rabbit.permissions("shop", "clerk", ["^own-", "^own-", "^own-"]);
        })
        .await;
    let url = rabbit.url_of("clerk", "secret", "shop");
    let connection = connect(&url).await;
    let channel = confirming(&connection).await;
    declare(&channel, "own-queue", "classic").await;
    let foreign = channel.queue_declare(
        "foreign".into(),
        QueueDeclareOptions::durable(),
        FieldTable::default(),
    );
    let error = soon("the refusal", foreign).await.unwrap_err();
    assert!(error.to_string().contains("ACCESS_REFUSED"), "{error}");
    let elsewhere = rabbit.url_of("clerk", "secret", "/");
    let connecting = Connection::connect(&elsewhere, ConnectionProperties::default());
    assert!(soon("the refusal", connecting).await.is_err());
}

#[tokio::test]
async fn a_consumer_that_holds_a_delivery_too_long_is_closed() {
    let rabbit =
        tokio::task::spawn_blocking(|| Rabbit::start_with(&["--consumer-timeout", "1000"]))
            .await
            .unwrap();
    let connection = connect(rabbit.url()).await;
    let channel = confirming(&connection).await;
    declare(&channel, "kept", "quorum").await;
    soon("a confirm", publish(&channel, "kept", 1))
        .await
        .unwrap();
    let mut consumer = consume(&channel, "kept").await;
    let held = soon("a delivery", next(&mut consumer))
        .await
        .unwrap()
        .unwrap();
    until_broken(&mut consumer).await;
    assert!(
        connection.status().connected(),
        "only the channel is closed"
    );
    drop(held);
    let channel = confirming(&connection).await;
    assert_eq!(handle(&mut consume(&channel, "kept").await).await, 1);
}
