//! The tests' proxy, against a server that sends back what it gets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::PATIENCE;
use crate::common::proxy::{Direction, Proxy};

/// Long enough that what could come would have come.
const SILENCE: Duration = Duration::from_millis(100);

/// A server that echoes. Tells of each connection, when it has ended, how many bytes came and how it ended.
struct Echo {
    address: String,
    ended: mpsc::Receiver<(u64, Option<ErrorKind>)>,
}

fn echo() -> Echo {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (report, ended) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, report) = (stream.unwrap(), report.clone());
            thread::spawn(move || {
                let (mut buffer, mut received) = ([0; 4096], 0);
                let end = loop {
                    match stream.read(&mut buffer) {
                        Ok(0) => break None,
                        Ok(length) => {
                            received += length as u64;
                            if let Err(error) = stream.write_all(&buffer[..length]) {
                                break Some(error.kind());
                            }
                        }
                        Err(error) => break Some(error.kind()),
                    }
                };
                // The test may be over.
                let _ = report.send((received, end));
            });
        }
    });
    Echo { address, ended }
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn exchange(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    expect(stream, bytes);
}

fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, bytes);
}

/// Nothing comes, and the connection stays.
fn expect_silence(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let error = stream.read(&mut [0; 1]).unwrap_err();
    let timeouts = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
    assert!(timeouts.contains(&error.kind()), "{error}");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
}

fn expect_reset(stream: &mut TcpStream) {
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "it never came true: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn bytes_pass_and_are_counted() {
    let echo = echo();
    let proxy = Proxy::start(&echo.address);
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|number| number as u8).collect();
    let mut stream = connect(&proxy);
    let mut writer = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| writer.write_all(&bytes).unwrap());
        expect(&mut stream, &bytes);
    });
    assert_eq!((proxy.opened(), proxy.open()), (1, 1));
    wait_until("both ways are counted", || {
        [Direction::ToServer, Direction::ToClient].map(|way| proxy.bytes(way)) == [1_000_000; 2]
    });
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(
        echo.ended.recv_timeout(PATIENCE).unwrap(),
        (1_000_000, None)
    );
    wait_until("it is closed", || proxy.open() == 0);
}

#[test]
fn a_cut_resets_both_sides_of_open_connections_only() {
    let echo = echo();
    let proxy = Proxy::start(&echo.address);
    let mut streams = [connect(&proxy), connect(&proxy)];
    for stream in &mut streams {
        exchange(stream, b"hello");
    }
    proxy.cut();
    for stream in &mut streams {
        expect_reset(stream);
        let end = echo.ended.recv_timeout(PATIENCE).unwrap();
        assert_eq!(end, (5, Some(ErrorKind::ConnectionReset)));
    }
    exchange(&mut connect(&proxy), b"again");
    assert_eq!(proxy.opened(), 3);
}

#[test]
fn a_cut_after_bytes_is_exact_and_once() {
    let echo = echo();
    let proxy = Proxy::start(&echo.address);
    let mut stream = connect(&proxy);
    exchange(&mut stream, b"hello");
    proxy.cut_after(Direction::ToServer, 3);
    stream.write_all(b"0123456789").unwrap();
    let end = echo.ended.recv_timeout(PATIENCE).unwrap();
    assert_eq!(end, (8, Some(ErrorKind::ConnectionReset)));
    assert_eq!(proxy.bytes(Direction::ToServer), 8);

    let mut stream = connect(&proxy);
    proxy.cut_after(Direction::ToClient, 4);
    stream.write_all(b"0123456789").unwrap();
    let mut answer = Vec::new();
    let error = stream.read_to_end(&mut answer).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(answer, b"0123");
    exchange(&mut connect(&proxy), &[7; 10_000]);
}

#[test]
fn a_stall_holds_one_direction_and_loses_nothing() {
    let echo = echo();
    let proxy = Proxy::start(&echo.address);
    for direction in [Direction::ToServer, Direction::ToClient] {
        let mut before = connect(&proxy);
        exchange(&mut before, b"hello");
        let counted = proxy.bytes(direction);
        proxy.stall(direction);
        let mut after = connect(&proxy);
        for stream in [&mut before, &mut after] {
            stream.write_all(b"held").unwrap();
            expect_silence(stream);
        }
        assert_eq!(proxy.bytes(direction), counted);
        proxy.resume();
        expect(&mut before, b"held");
        expect(&mut after, b"held");
    }
}

#[test]
fn a_stalled_connection_can_be_cut() {
    let echo = echo();
    let proxy = Proxy::start(&echo.address);
    let mut stream = connect(&proxy);
    exchange(&mut stream, b"hello");
    proxy.stall(Direction::ToServer);
    stream.write_all(b"held").unwrap();
    proxy.cut();
    expect_reset(&mut stream);
    assert_eq!(echo.ended.recv_timeout(PATIENCE).unwrap().0, 5);
}

#[test]
fn a_half_close_ends_one_direction() {
    let echo = echo();
    let proxy = Proxy::start(&echo.address);
    let mut stream = connect(&proxy);
    exchange(&mut stream, b"hello");
    proxy.half_close(Direction::ToClient);
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    // The other direction still passes, and what comes back is swallowed.
    stream.write_all(b"more").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(echo.ended.recv_timeout(PATIENCE).unwrap(), (9, None));

    let mut stream = connect(&proxy);
    exchange(&mut stream, b"hello");
    proxy.half_close(Direction::ToServer);
    assert_eq!(echo.ended.recv_timeout(PATIENCE).unwrap(), (5, None));
    exchange(&mut connect(&proxy), b"new ones are whole");
}

#[test]
fn latency_delays_each_direction_and_keeps_the_rate() {
    let echo = echo();
    let proxy = Proxy::start(&echo.address);
    let mut stream = connect(&proxy);
    proxy.latency(Duration::from_millis(100));
    let started = Instant::now();
    for number in 0..20 {
        stream.write_all(&[number; 100]).unwrap();
    }
    for number in 0..20 {
        expect(&mut stream, &[number; 100]);
    }
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(200), "{took:?}");
    assert!(
        took < Duration::from_millis(2000),
        "each waited for the one before: {took:?}"
    );
    proxy.resume();
    exchange(&mut stream, b"and in order after it");
}

#[test]
fn a_refusal_hangs_up_at_once() {
    let echo = echo();
    let proxy = Proxy::start(&echo.address);
    let mut before = connect(&proxy);
    exchange(&mut before, b"hello");
    proxy.refuse();
    assert_eq!(connect(&proxy).read(&mut [0; 1]).unwrap(), 0);
    exchange(&mut before, b"still here");
    proxy.resume();
    exchange(&mut connect(&proxy), b"welcome");
    assert_eq!(proxy.opened(), 3);
}

#[test]
fn a_server_that_is_away_shows_as_a_reset() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let proxy = Proxy::start(&address);
    expect_reset(&mut connect(&proxy));
}

#[test]
fn a_dropped_proxy_resets_its_connections() {
    let echo = echo();
    let proxy = Proxy::start(&echo.address);
    let mut stream = connect(&proxy);
    exchange(&mut stream, b"hello");
    let address = proxy.address();
    drop(proxy);
    expect_reset(&mut stream);
    assert!(TcpStream::connect(address).is_err());
}
