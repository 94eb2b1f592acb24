//! Senders that do not know Postroom: plain lapin, and raw bytes for what lapin would not write.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};

/// Publishes messages as they are; the broker has confirmed each of them, routed.
pub(crate) async fn publish(
    url: &str,
    exchange: &str,
    key: &str,
    messages: Vec<(BasicProperties, Vec<u8>)>,
) {
    let connection = Connection::connect(url, ConnectionProperties::default());
    let connection = connection.await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let confirms = ConfirmSelectOptions::default();
    channel.confirm_select(confirms).await.unwrap();
    for (properties, body) in messages {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let sent = channel.basic_publish(exchange.into(), key.into(), options, &body, properties);
        let confirmation = sent.await.unwrap().await.unwrap();
        assert_eq!(confirmation, Confirmation::Ack(None));
    }
    connection.close(200, "done".into()).await.unwrap();
}

/// Publishes a message whose headers are tables nested so many levels deep, by raw bytes.
pub(crate) fn publish_nested(url: &str, exchange: &str, key: &str, levels: usize, body: &[u8]) {
    let (user, rest) = url.split_once("://").unwrap().1.split_once('@').unwrap();
    let (user, password) = user.split_once(':').unwrap();
    let authority = rest.split('/').next().unwrap();
    let mut stream = TcpStream::connect(authority).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(b"AMQP\x00\x00\x09\x01").unwrap();
    read_method(&mut stream, 10, 10);
    let answer = format!("\0{user}\0{password}");
    let mut start_ok = vec![0; 4];
    start_ok.extend(short("PLAIN"));
    start_ok.extend((answer.len() as u32).to_be_bytes());
    start_ok.extend(answer.as_bytes());
    start_ok.extend(short("en_US"));
    write_method(&mut stream, 0, 10, 11, &start_ok);
    read_method(&mut stream, 10, 30);
    let mut tune_ok = 10_u16.to_be_bytes().to_vec();
    tune_ok.extend(131_072_u32.to_be_bytes());
    tune_ok.extend(0_u16.to_be_bytes());
    write_method(&mut stream, 0, 10, 31, &tune_ok);
    let mut open = short("/");
    open.extend([0, 0]);
    write_method(&mut stream, 0, 10, 40, &open);
    read_method(&mut stream, 10, 41);
    write_method(&mut stream, 1, 20, 10, &[0]);
    read_method(&mut stream, 20, 11);
    write_method(&mut stream, 1, 85, 10, &[0]);
    read_method(&mut stream, 85, 11);

    let mut publish = vec![0, 0];
    publish.extend(short(exchange));
    publish.extend(short(key));
    publish.push(0);
    write_method(&mut stream, 1, 60, 40, &publish);
    let mut header = vec![0, 60, 0, 0];
    header.extend((body.len() as u64).to_be_bytes());
    header.extend((1_u16 << 13).to_be_bytes());
    header.extend(nested_tables(levels));
    write_frame(&mut stream, 2, 1, &header);
    write_frame(&mut stream, 3, 1, body);
    read_method(&mut stream, 60, 80);
}

/// Tables, one in each other.
fn nested_tables(levels: usize) -> Vec<u8> {
    let each = 6;
    let mut bytes = Vec::with_capacity(levels * each);
    for level in 1..levels {
        bytes.extend((((levels - level) * each) as u32).to_be_bytes());
        bytes.extend([0, b'F']);
    }
    bytes.extend(0_u32.to_be_bytes());
    bytes
}

fn short(text: &str) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(text.len()).unwrap()];
    bytes.extend(text.as_bytes());
    bytes
}

fn write_method(stream: &mut TcpStream, channel: u16, class: u16, method: u16, arguments: &[u8]) {
    let mut payload = class.to_be_bytes().to_vec();
    payload.extend(method.to_be_bytes());
    payload.extend(arguments);
    write_frame(stream, 1, channel, &payload);
}

fn write_frame(stream: &mut TcpStream, kind: u8, channel: u16, payload: &[u8]) {
    let mut frame = vec![kind];
    frame.extend(channel.to_be_bytes());
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(0xce);
    stream.write_all(&frame).unwrap();
}

/// Reads one frame, which has to be this method.
fn read_method(stream: &mut TcpStream, class: u16, method: u16) {
    let mut head = [0; 7];
    stream.read_exact(&mut head).unwrap();
    let length = u32::from_be_bytes(head[3..].try_into().unwrap()) as usize;
    let mut payload = vec![0; length + 1];
    stream.read_exact(&mut payload).unwrap();
    let mut wanted = class.to_be_bytes().to_vec();
    wanted.extend(method.to_be_bytes());
    assert_eq!(payload[..4], wanted, "another answer: {payload:?}");
}
