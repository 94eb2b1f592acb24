//! A supervisor with two subscribers, one for all: a panic, too many panics, and the way back.
//!
//! ```sh
//! cargo run --example supervision_tree
//! ```
//!
//! The panics that it prints are meant to be.

#![allow(missing_docs, clippy::print_stdout)]

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postroom::LifecycleKind::{Restarted, Resumed, Suspended};
use postroom::{
    Bus, Context, Event, Lifecycle, LifecycleKind, Outcome, Retry, Strategy, Subscriber,
    SubscriptionState,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// A reading of a thermometer; one below absolute zero is a bug.
#[derive(Serialize, Deserialize)]
struct Reading(i32);

impl Event for Reading {
    const TOPIC: &'static str = "cellar.reading";
}

struct Averager;

impl Subscriber<Reading> for Averager {
    async fn handle(&mut self, reading: &Reading, _cx: &mut Context<'_>) -> Outcome {
        assert!(reading.0 >= -273, "{} degrees cannot be", reading.0);
        Ok(())
    }
}

/// Shows what its sibling computes, and must forget it when the sibling starts anew.
struct Display;

impl Subscriber<Reading> for Display {
    async fn handle(&mut self, _reading: &Reading, _cx: &mut Context<'_>) -> Outcome {
        Ok(())
    }
}

/// How many displays the factory has made.
static DISPLAYS: AtomicU32 = AtomicU32::new(0);

/// Reads lifecycle events until the one that is waited for.
async fn until(
    events: &mut mpsc::UnboundedReceiver<Lifecycle>,
    subject: &str,
    kind: LifecycleKind,
) -> Result<(), Box<dyn Error>> {
    loop {
        let event = events.recv().await.ok_or("the operator is gone")?;
        println!(
            "{}: {:?} {}",
            event.subject,
            event.kind,
            event.why.as_deref().unwrap_or("")
        );
        if event.subject == subject && event.kind == kind {
            return Ok(());
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let bus = Bus::builder("cellar").start().await?;
    let (tell, mut events) = mpsc::unbounded_channel();
    bus.subscribe_fn::<Lifecycle, _>("operator", async move |event, _cx| {
        tell.send(event.clone())?;
        Ok(())
    })
    .start()
    .await?;

    // When one of the two fails, both start anew.
    let cellar = bus
        .supervisor("cellar-readings")
        .strategy(Strategy::OneForAll)
        .start()
        .await?;
    let averager = bus
        .subscriber("averager", || Averager)
        .on::<Reading>()
        .retry(Retry::none())
        // One restart a minute is bad luck, two are a bug. (The default is 10 in 30 s.)
        .intensity(1, Duration::from_secs(60))
        .under(&cellar)
        .start()
        .await?;
    bus.subscriber("display", || {
        DISPLAYS.fetch_add(1, Ordering::Relaxed);
        Display
    })
    .on::<Reading>()
    .under(&cellar)
    .start()
    .await?;

    bus.publish(Reading(-300)).await?;
    until(&mut events, "averager", Restarted).await?;

    bus.publish(Reading(-400)).await?;
    until(&mut events, "averager", Suspended).await?;
    assert_eq!(averager.state(), SubscriptionState::Suspended);

    // A suspended subscription loses nothing: it accepts up to its bound, and waits for someone to look.
    bus.publish(Reading(12)).await?;
    assert_eq!(averager.snapshot().queued, 1);
    averager.resume().await;
    until(&mut events, "averager", Resumed).await?;

    assert!(bus.shutdown(Duration::from_secs(5)).await.clean);
    let books = averager.snapshot();
    println!(
        "averager: {} acknowledged, {} dead letters",
        books.acked, books.dead_lettered
    );
    assert_eq!((books.acked, books.dead_lettered), (1, 2));
    let displays = DISPLAYS.load(Ordering::Relaxed);
    assert_eq!(
        displays, 2,
        "the first panic restarted both; to suspend one leaves the other alone"
    );
    Ok(())
}
