//! The helper that waits for SIGTERM or Ctrl-C, or the failure of the bus. The signals are real, and sent to this process.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod common;

use std::process::Command;

use common::{PATIENCE, bus, end, poll_once};
use postroom::{Bus, Context, Escalation, Outcome, RawMessage, RawSubscriber, Retry};
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

struct Panics;

impl RawSubscriber for Panics {
    async fn handle(&mut self, _: RawMessage<'_>, _: &mut Context<'_>) -> Outcome {
        panic!("on purpose")
    }
}

async fn ends_when_the_bus_has_failed() {
    let bus = Bus::builder("test").on_escalation(Escalation::StopBus);
    let bus = bus.start().await.unwrap();
    let fails = bus.subscriber("fails", || Panics).pattern("fails");
    let fails = fails.retry(Retry::none()).intensity(0, PATIENCE);
    fails.start().await.unwrap();
    let until = bus.until_signal();
    let mut until = std::pin::pin!(until);
    assert!(poll_once(&mut until).is_pending(), "nothing has failed");
    let one = serde_json::json!(1);
    bus.publish_raw("fails", one).await.unwrap();
    tokio::time::timeout(PATIENCE, until).await.unwrap();
    assert!(bus.failure().is_some());
    let _ = bus.shutdown(PATIENCE).await;
}

/// One test for all, one after the other: a signal reaches the whole process.
#[tokio::test]
async fn it_ends_at_a_failure_of_the_bus_at_a_termination_and_at_an_interrupt() {
    ends_when_the_bus_has_failed().await;
    ends_at("TERM", SignalKind::terminate()).await;
    ends_at("INT", SignalKind::interrupt()).await;
}
