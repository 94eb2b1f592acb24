//! A broker of one connection, of raw bytes: it opens what it is asked to open, delivers, and closes a channel.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

/// Nested tables, one in each other, with the length of the outermost in front.
pub(crate) fn nested_tables(levels: usize) -> Vec<u8> {
    nested(levels, &[0, b'F'])
}

/// A table with nested arrays.
pub(crate) fn nested_arrays(levels: usize) -> Vec<u8> {
    let arrays = nested(levels, b"A");
    let mut table = (arrays.len() as u32 + 2).to_be_bytes().to_vec();
    table.extend([0, b'A']);
    table.extend(arrays);
    table
}

fn nested(levels: usize, entry: &[u8]) -> Vec<u8> {
    let each = 4 + entry.len();
    let mut bytes = Vec::with_capacity(levels * each);
    for level in 1..levels {
        bytes.extend((((levels - level) * each) as u32).to_be_bytes());
        bytes.extend(entry);
    }
    bytes.extend(0_u32.to_be_bytes());
    bytes
}

pub(crate) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend(channel.to_be_bytes());
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(0xce);
    frame
}

pub(crate) fn method(channel: u16, class: u16, method: u16, arguments: &[u8]) -> Vec<u8> {
    let mut payload = class.to_be_bytes().to_vec();
    payload.extend(method.to_be_bytes());
    payload.extend(arguments);
    frame(1, channel, &payload)
}

/// `basic.deliver`, a content header with these headers, and a body of one byte.
pub(crate) fn delivery(tag: u64, table: &[u8]) -> Vec<u8> {
    delivery_on(1, tag, table)
}

fn delivery_on(channel: u16, tag: u64, table: &[u8]) -> Vec<u8> {
    let mut arguments = b"\x03tag".to_vec();
    arguments.extend(tag.to_be_bytes());
    arguments.extend([0, 0, 0]);
    let mut bytes = method(channel, 60, 60, &arguments);
    let mut header = 60_u16.to_be_bytes().to_vec();
    header.extend(0_u16.to_be_bytes());
    header.extend(1_u64.to_be_bytes());
    header.extend((1_u16 << 13 | 1 << 15).to_be_bytes());
    header.extend(b"\x04text");
    header.extend(table);
    bytes.extend(frame(2, channel, &header));
    bytes.extend(frame(3, channel, b"!"));
    bytes
}

/// Serves one connection until its end: delivers to whoever consumes on channel 1 a message with each of these tables
/// of headers.
pub(crate) fn start(
    server_properties: Vec<u8>,
    tables: Vec<Vec<u8>>,
) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        serve(stream, &server_properties, &tables);
    });
    (address, serving)
}

fn serve(mut stream: TcpStream, server_properties: &[u8], tables: &[Vec<u8>]) {
    let mut protocol_header = [0; 8];
    stream.read_exact(&mut protocol_header).unwrap();
    let mut start = vec![0, 9];
    start.extend(server_properties);
    start.extend(b"\x00\x00\x00\x05PLAIN\x00\x00\x00\x05en_US");
    stream.write_all(&method(0, 10, 10, &start)).unwrap();
    loop {
        let mut head = [0; 7];
        if stream.read_exact(&mut head).is_err() {
            return;
        }
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut payload = vec![0; size as usize + 1];
        stream.read_exact(&mut payload).unwrap();
        if head[0] != 1 {
            continue;
        }
        let channel = u16::from_be_bytes([head[1], head[2]]);
        let class_and_method = (payload[1], payload[3]);
        let answer = match class_and_method {
            // start-ok: tune with no limit of channels, frames of 128 KiB, no heartbeat.
            (10, 11) => method(0, 10, 30, &[0, 0, 0, 2, 0, 0, 0, 0]),
            (10, 40) => method(0, 10, 41, &[0]),
            (20, 10) => method(channel, 20, 11, &[0; 4]),
            // It does not like qos: it closes the channel, and a delivery comes after all that.
            (60, 10) => method(channel, 20, 40, b"\x01\x96\x02no\x00\x00\x00\x00"),
            (20, 41) => delivery_on(channel, 1, &nested_tables(1)),
            (60, 20) => {
                let mut answer = method(1, 60, 21, b"\x03tag");
                for (before, table) in tables.iter().enumerate() {
                    answer.extend(delivery(before as u64 + 1, table));
                }
                answer
            }
            (20, 40) => method(channel, 20, 41, &[]),
            (10, 50) => method(0, 10, 51, &[]),
            _ => continue,
        };
        stream.write_all(&answer).unwrap();
    }
}
