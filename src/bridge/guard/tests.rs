use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;

use futures_core::Stream;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties, Consumer};

use super::depth::MOST_LEVELS;
use super::fake_broker::{self, nested_arrays, nested_tables};
use super::{check_scheme, check_scheme_with, connect};

async fn connect_to(address: SocketAddr) -> Connection {
    let uri: AMQPUri = format!("amqp://{address}/%2f").parse().unwrap();
    connect(
        uri,
        ConnectionProperties::default(),
        OwnedTLSConfig::default(),
    )
    .await
    .unwrap()
}

async fn next(consumer: &mut Consumer) -> Delivery {
    let mut consumer = pin!(consumer);
    let delivery = poll_fn(|cx| consumer.as_mut().poll_next(cx)).await;
    delivery.unwrap().unwrap()
}

/// How many tables and arrays lie in each other, and what the innermost holds.
fn depth(table: &FieldTable) -> (usize, Option<AMQPValue>) {
    let mut levels = 1;
    let mut value = table.inner().values().next().cloned();
    loop {
        let inner = match &value {
            Some(AMQPValue::FieldTable(table)) => table.inner().values().next().cloned(),
            Some(AMQPValue::FieldArray(array)) => array.as_slice().first().cloned(),
            _ => return (levels, value),
        };
        levels += 1;
        value = inner;
    }
}

#[tokio::test]
async fn a_delivery_with_18_000_nested_tables_arrives() {
    let shallow = nested_tables(3);
    let tables = vec![nested_tables(18_000), nested_arrays(20_000), shallow];
    let (address, serving) = fake_broker::start(nested_tables(18_000), tables);
    let connection = connect_to(address).await;
    let channel = connection.create_channel().await.unwrap();
    let mut consumer = channel
        .basic_consume(
            "queue".into(),
            "tag".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    for _ in 0..2 {
        let delivery = next(&mut consumer).await;
        let (levels, innermost) = depth(delivery.properties.headers().as_ref().unwrap());
        assert_eq!(levels, MOST_LEVELS);
        assert!(matches!(innermost, Some(AMQPValue::ByteArray(_))));
        assert_eq!(delivery.data, b"!");
    }
    let delivery = next(&mut consumer).await;
    assert_eq!(
        depth(delivery.properties.headers().as_ref().unwrap()),
        (3, None)
    );
    assert_eq!(delivery.delivery_tag, 3);
    channel.close(200, "done".into()).await.unwrap();
    connection.close(200, "done".into()).await.unwrap();
    serving.join().unwrap();
}

#[tokio::test]
async fn a_delivery_on_a_closed_channel_leaves_the_connection_alone() {
    let (address, serving) = fake_broker::start(nested_tables(1), Vec::new());
    let connection = connect_to(address).await;
    for _ in 0..20 {
        let channel = connection.create_channel().await.unwrap();
        let refused = channel.basic_qos(1, BasicQosOptions::default()).await;
        assert!(refused.is_err());
        assert!(connection.status().connected());
    }
    connection.close(200, "done".into()).await.unwrap();
    serving.join().unwrap();
}

#[test]
fn amqps_without_tls_names_the_features() {
    let amqps: AMQPUri = "amqps://localhost/%2f".parse().unwrap();
    assert_eq!(check_scheme_with(&amqps, true), Ok(()));
    let refused = check_scheme_with(&amqps, false).unwrap_err().to_string();
    assert!(refused.contains("`amqp-rustls`") && refused.contains("`amqp-native-tls`"));
    let amqp: AMQPUri = "amqp://localhost/%2f".parse().unwrap();
    assert_eq!(check_scheme_with(&amqp, false), Ok(()));
    assert_eq!(check_scheme(&amqp), Ok(()));
}

#[cfg(not(any(feature = "amqp-rustls", feature = "amqp-native-tls")))]
#[tokio::test]
async fn without_tls_no_byte_is_sent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let uri = format!("amqps://{}/%2f", listener.local_addr().unwrap());
    let refused = connect(
        uri.parse().unwrap(),
        ConnectionProperties::default(),
        OwnedTLSConfig::default(),
    )
    .await
    .unwrap_err();
    let lapin::ErrorKind::IOError(error) = refused.kind() else {
        panic!("{refused:?}");
    };
    assert!(error.get_ref().unwrap().is::<super::NoTls>());
    assert!(listener.accept().is_err(), "nobody was called");
}
