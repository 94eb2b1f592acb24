//! The helper that waits for SIGTERM or Ctrl-C. The signals are real, and sent to this process.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod common;

use std::process::Command;

use common::{PATIENCE, bus, end, poll_once};
use tokio::signal::unix::{SignalKind, signal};

fn send(name: &str) {
    let process = std::process::id().to_string();
    let sent = Command::new("kill").args(["-s", name, &process]).status();
    assert!(sent.unwrap().success());
}

/// Sends the signal until the helper has ended: it may not listen yet when the first one comes.
async fn ends_at(name: &str, kind: SignalKind) {
    // From here on the signal does not end this process.
    let mut seen = signal(kind).unwrap();
    let bus = bus().await;
    let until = bus.until_signal();
    let mut until = std::pin::pin!(until);
    assert!(poll_once(&mut until).is_pending(), "no signal was sent");
    let again = async {
        loop {
            send(name);
            seen.recv().await;
            tokio::task::yield_now().await;
        }
    };
    let waits = async {
        tokio::select! {
            () = until => {}
            () = again => {}
        }
    };
    tokio::time::timeout(PATIENCE, waits).await.unwrap();
    // The bus works on: what to do with the signal is the program's affair.
    end(&bus).await;
}

/// One test for both, one after the other: a signal reaches the whole process.
#[tokio::test]
async fn it_ends_at_a_termination_and_at_an_interrupt() {
    ends_at("TERM", SignalKind::terminate()).await;
    ends_at("INT", SignalKind::interrupt()).await;
}
