//! From the publish to the handler: p50 and p99, idle and at half of full load.
//!
//! ```sh
//! cargo bench --bench latency
//! ```
//!
//! Every message carries the instant at which its publisher called `publish`; the handler takes the
//! difference. Full load is measured first, in the same run, and the pace of half of it is kept by the clock.
#![allow(missing_docs, clippy::print_stdout)]
#![allow(clippy::unwrap_used, reason = "a bench fails where it is surprised")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use postroom::{Bus, Context, Event, Outcome, Subscriber, Threads};
use serde::{Deserialize, Serialize};

/// Long enough for a thread to fall asleep.
const PAUSE: Duration = Duration::from_millis(1);
/// On one thread a publisher at full load lets the receiver run after this many.
const BURST: u64 = 256;

#[derive(Serialize, Deserialize)]
struct Stamped {
    #[serde(skip, default = "Instant::now")]
    at: Instant,
}

impl Event for Stamped {
    const TOPIC: &'static str = "latency.stamped";
}

/// Read only when all is handled.
#[derive(Clone)]
struct Receiver {
    handled: Arc<AtomicU64>,
    nanos: Arc<Mutex<Histogram<u64>>>,
}

impl Receiver {
    fn new() -> Self {
        let nanos = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        Self {
            handled: Arc::default(),
            nanos: Arc::new(Mutex::new(nanos)),
        }
    }

    async fn reaches(&self, handled: u64) {
        while self.handled.load(Ordering::Acquire) < handled {
            tokio::task::yield_now().await;
        }
    }

    /// In microseconds, of what was handled since the last call.
    fn percentiles(&self) -> [f64; 3] {
        let mut nanos = self.nanos.lock().unwrap();
        let micros = [0.5, 0.99, 0.999].map(|part| nanos.value_at_quantile(part) as f64 / 1e3);
        nanos.reset();
        micros
    }
}

impl Subscriber<Stamped> for Receiver {
    async fn handle(&mut self, message: &Stamped, _: &mut Context<'_>) -> Outcome {
        let waited = u64::try_from(message.at.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // Nobody else takes this lock while messages come.
        self.nanos.lock().unwrap().saturating_record(waited.max(1));
        self.handled.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

async fn publish(bus: &Bus) {
    let at = Instant::now();
    bus.publish(Stamped { at }).await.unwrap();
}

/// One at a time, with pauses in which everything falls asleep.
async fn idle(bus: &Bus, receiver: &Receiver, messages: u64) {
    let before = receiver.handled.load(Ordering::Acquire);
    for message in 1..=messages {
        publish(bus).await;
        receiver.reaches(before + message).await;
        tokio::time::sleep(PAUSE).await;
    }
}

/// As fast as it goes; returns the messages per second.
async fn full(bus: &Bus, receiver: &Receiver, messages: u64) -> f64 {
    let until = receiver.handled.load(Ordering::Acquire) + messages;
    let begun = Instant::now();
    for message in 0..messages {
        publish(bus).await;
        if message % BURST == BURST - 1 {
            tokio::task::yield_now().await;
        }
    }
    receiver.reaches(until).await;
    messages as f64 / begun.elapsed().as_secs_f64()
}

/// At `rate` messages per second. A publisher that falls behind catches up.
async fn paced(bus: &Bus, receiver: &Receiver, rate: f64, messages: u64) {
    let until = receiver.handled.load(Ordering::Acquire) + messages;
    let begun = Instant::now();
    let mut published = 0;
    while published < messages {
        let due = (begun.elapsed().as_secs_f64() * rate) as u64;
        while published < due.min(messages) {
            publish(bus).await;
            published += 1;
        }
        // The receiver may be on this thread.
        tokio::task::yield_now().await;
    }
    receiver.reaches(until).await;
}

async fn measure(threads: Threads, is_bench: bool) -> Vec<Vec<String>> {
    let thread = match threads {
        Threads::Current => "the same",
        _ => "another",
    };
    let (messages, pauses) = if is_bench {
        (2_000_000, 2_000)
    } else {
        (1_000, 10)
    };
    let bus = Bus::builder("latency").threads(threads);
    let bus = bus.start().await.unwrap();
    let receiver = Receiver::new();
    let make = receiver.clone();
    let subscriber = bus.subscriber("receiver", move || make.clone());
    subscriber.on::<Stamped>().start().await.unwrap();
    // The first messages find cold caches and grow buffers.
    full(&bus, &receiver, messages / 10).await;
    let mut rows = Vec::new();
    let mut row = |load: &str, rate: Option<f64>| {
        let mut row = vec![thread.to_owned(), load.to_owned()];
        row.push(rate.map_or_else(String::new, |rate| format!("{:.2}", rate / 1e6)));
        row.extend(receiver.percentiles().map(|micros| format!("{micros:.1}")));
        rows.push(row);
    };
    receiver.percentiles();
    idle(&bus, &receiver, pauses).await;
    row("idle", None);
    let rate = full(&bus, &receiver, messages).await;
    row("full", Some(rate));
    paced(&bus, &receiver, rate / 2.0, messages).await;
    row("half of full", Some(rate / 2.0));
    assert!(bus.shutdown(Duration::from_secs(60)).await.clean);
    rows
}

fn main() {
    // Without `cargo bench` it only shows that it runs.
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([
        "handled on",
        "load",
        "M/s",
        "p50, µs",
        "p99, µs",
        "p99.9, µs",
    ]);
    let system = actix::System::new();
    for threads in [Threads::Current, Threads::Own(1)] {
        for row in system.block_on(measure(threads, is_bench)) {
            table.add_row(row);
        }
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("from the publish to the handler\n\n{table}");
}
