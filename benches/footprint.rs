//! What messages and subscribers cost in memory, and how long many subscribers take to start and to stop.
//!
//! ```sh
//! cargo bench --bench footprint
//! ```
//!
//! Bytes are counted by the allocator; beside them stands what the process takes from the system (`VmRSS`),
//! which has the allocator's own share in it.
#![allow(missing_docs, clippy::print_stdout)]
#![allow(clippy::unwrap_used, reason = "a bench fails where it is surprised")]

use std::alloc::System;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use postroom::{
    Bus, Context, Event, Outcome, Overflow, RawMessage, RawSubscriber, Subscriber, Subscription,
    Threads,
};
use serde::{Deserialize, Serialize};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const LONG: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct Small {
    id: u64,
    amount: u64,
}

impl Event for Small {
    const TOPIC: &'static str = "footprint.small";
}

fn small(id: u64) -> Small {
    Small { id, amount: 3 }
}

#[derive(Clone, Default)]
struct Counter(Arc<AtomicU64>);

impl Counter {
    async fn reaches(&self, handled: u64) {
        while self.0.load(Ordering::Acquire) < handled {
            tokio::task::yield_now().await;
        }
    }
}

impl Subscriber<Small> for Counter {
    async fn handle(&mut self, _: &Small, _: &mut Context<'_>) -> Outcome {
        self.0.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

impl RawSubscriber for Counter {
    async fn handle(&mut self, _: RawMessage<'_>, _: &mut Context<'_>) -> Outcome {
        self.0.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

/// Takes some microseconds over each message, as computing would.
struct Slow;

impl Subscriber<Small> for Slow {
    async fn handle(&mut self, _: &Small, _: &mut Context<'_>) -> Outcome {
        let end = Instant::now() + Duration::from_micros(3);
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        Ok(())
    }
}

/// A line of `/proc/self/status`, in bytes. None where there is no such file.
fn status(what: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(what))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// What has been taken since it was made.
struct Taken {
    region: Region<'static, System>,
    resident: Option<u64>,
}

impl Taken {
    fn now() -> Self {
        Self {
            region: Region::new(ALLOCATOR),
            resident: status("VmRSS:"),
        }
    }

    fn allocations(&self) -> u64 {
        let change = self.region.change();
        (change.allocations + change.reallocations) as u64
    }

    fn bytes(&self) -> u64 {
        let change = self.region.change();
        change
            .bytes_allocated
            .saturating_sub(change.bytes_deallocated) as u64
    }

    /// By the present figure, or by the peak.
    fn resident(&self, what: &str) -> Option<u64> {
        Some(status(what)?.saturating_sub(self.resident?))
    }
}

fn text(figure: Option<u64>) -> String {
    figure.map_or_else(|| "?".to_owned(), |figure| figure.to_string())
}

fn kib(bytes: Option<u64>) -> String {
    text(bytes.map(|bytes| bytes / 1024))
}

fn table(title: &str, header: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("\n{title}\n\n{table}");
}

async fn bus(threads: Threads) -> Bus {
    let bus = Bus::builder("footprint").threads(threads);
    bus.start().await.unwrap()
}

async fn end(bus: Bus) {
    assert!(bus.shutdown(LONG).await.clean);
}

/// Starts `count` subscribers: of one topic, or each of a pattern of its own.
async fn start(bus: &Bus, count: u64, patterns: bool) -> Vec<Subscription> {
    let mut subscriptions = Vec::new();
    for number in 0..count {
        let subscriber = bus.subscriber(format!("idle-{number}"), Counter::default);
        let started = if patterns {
            let pattern = format!("device.{number}.#");
            subscriber.pattern(&pattern).start().await
        } else {
            subscriber.on::<Small>().start().await
        };
        subscriptions.push(started.unwrap());
    }
    bus.settle().await;
    subscriptions
}

/// Bytes and resident bytes of each of `count` idle subscribers.
async fn idle_subscribers(count: u64, patterns: bool) -> [Option<u64>; 2] {
    let bus = bus(Threads::Own(1)).await;
    let taken = Taken::now();
    let subscriptions = start(&bus, count, patterns).await;
    let each = [Some(taken.bytes()), taken.resident("VmRSS:")];
    drop(subscriptions);
    end(bus).await;
    each.map(|bytes| bytes.map(|bytes| bytes / count))
}

async fn starts_and_stops(counts: &[u64]) {
    let mut rows = Vec::new();
    let mut first: Option<[f64; 3]> = None;
    for &count in counts {
        let bus = bus(Threads::Own(1)).await;
        let begun = Instant::now();
        let subscriptions = start(&bus, count, false).await;
        let started = begun.elapsed();
        let begun = Instant::now();
        for subscription in &subscriptions {
            assert!(subscription.stop(LONG).await.in_time);
        }
        let stopped = begun.elapsed();
        drop(subscriptions);
        let again = start(&bus, count, false).await;
        let begun = Instant::now();
        end(bus).await;
        let shut_down = begun.elapsed();
        drop(again);
        let each =
            [started, stopped, shut_down].map(|elapsed| elapsed.as_secs_f64() * 1e6 / count as f64);
        let base = *first.get_or_insert(each);
        let mut row = vec![count.to_string()];
        for (each, base) in each.into_iter().zip(base) {
            row.push(format!("{each:.1}"));
            row.push(format!("{:.2}", each / base));
        }
        rows.push(row);
    }
    let header = [
        "subscribers",
        "start, µs each",
        "ratio",
        "stop, µs each",
        "ratio",
        "shutdown, µs each",
        "ratio",
    ];
    let title = "start, stop one by one, shutdown of all (ratio to the first row; linear is 1)";
    table(title, &header, rows);
}

/// The most that is taken while `publishes` messages are published.
async fn flood(bus: &Bus, publishes: u64) -> (u64, Option<u64>) {
    // Lets the peak begin anew, where the system can.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let taken = Taken::now();
    let mut most = 0;
    for id in 0..publishes {
        bus.publish(small(id)).await.unwrap();
        if id % 1_000 == 0 {
            most = most.max(taken.bytes());
        }
    }
    (most, taken.resident("VmHWM:"))
}

async fn slow_consumers(publishes: u64) {
    let mut rows = Vec::new();
    let waits = bus(Threads::Own(1)).await;
    let slow = waits.subscriber("slow", || Slow).on::<Small>();
    let slow = slow.start().await.unwrap();
    let (most, resident) = flood(&waits, publishes).await;
    let mut row = |what: &str, most: u64, resident| {
        rows.push(vec![what.to_owned(), kib(Some(most)), kib(resident)]);
    };
    row("3 µs a message, publisher waits", most, resident);
    assert_eq!(slow.snapshot().accepted, publishes);
    end(waits).await;
    for overflow in [Overflow::DropOldest, Overflow::DropNewest] {
        let drops = bus(Threads::Own(1)).await;
        let stuck = drops.subscribe_fn::<Small, _>("stuck", async |_, _| {
            std::future::pending::<()>().await;
            Ok(())
        });
        let stuck = stuck.overflow(overflow).no_timeout().start().await.unwrap();
        let (most, resident) = flood(&drops, publishes).await;
        row(&format!("never ends, {overflow:?}"), most, resident);
        assert_eq!(stuck.snapshot().accepted, publishes);
        drops.shutdown(Duration::ZERO).await;
    }
    let title = format!("{publishes} publishes at a slow consumer, mailbox of 1024");
    let header = ["consumer", "most allocated, KiB", "most resident, KiB"];
    table(&title, &header, rows);
}

/// Bytes and resident bytes of each of `count` queued messages, beyond their payload.
async fn queued_messages(count: u64) -> [Option<u64>; 2] {
    let bus = bus(Threads::Own(1)).await;
    let queue = bus.subscriber("paused", Counter::default).on::<Small>();
    let queue = queue.mailbox(count as usize).start().await.unwrap();
    queue.pause();
    let taken = Taken::now();
    for id in 0..count {
        bus.try_publish(small(id)).unwrap();
    }
    let each = [Some(taken.bytes()), taken.resident("VmRSS:")];
    queue.resume().await;
    end(bus).await;
    let beyond = |bytes: u64| (bytes / count).saturating_sub(size_of::<Small>() as u64);
    each.map(|bytes| bytes.map(beyond))
}

/// What is measured in a process of its own: memory that was used before would not be taken anew.
const APART: [(&str, &str); 3] = [
    ("--idle", "idle subscriber of one topic"),
    ("--idle-patterns", "idle subscriber of a pattern of its own"),
    ("--queued", "queued message of 16 bytes, beyond its payload"),
];

async fn measured_apart(what: &str, count: u64) {
    let [bytes, resident] = match what {
        "--queued" => queued_messages(count).await,
        _ => idle_subscribers(count, what == "--idle-patterns").await,
    };
    println!("{} {}", text(bytes), text(resident));
}

fn memory(counts: &[u64]) {
    let program = std::env::current_exe().unwrap();
    let mut rows = Vec::new();
    for (what, name) in APART {
        for &count in counts {
            let mut process = std::process::Command::new(&program);
            let output = process.args([what, &count.to_string()]).output().unwrap();
            let output = String::from_utf8(output.stdout).unwrap();
            let figures = output.split_whitespace().map(str::to_owned);
            rows.push(
                [name.to_owned(), count.to_string()]
                    .into_iter()
                    .chain(figures)
                    .collect(),
            );
        }
    }
    let header = ["what", "how many", "bytes each", "resident bytes each"];
    table("memory", &header, rows);
}

/// Published in bursts that a mailbox has room for, and handled.
async fn allocations(threads: Threads, receivers: u64, bursts: u64) -> (u64, u64) {
    const BURST: u64 = 500;
    let bus = bus(threads).await;
    let counter = Counter::default();
    for receiver in 0..receivers {
        let counter = counter.clone();
        let subscriber = bus.subscriber(format!("counter-{receiver}"), move || counter.clone());
        subscriber.on::<Small>().start().await.unwrap();
    }
    let mut taken = Taken::now();
    for burst in 0..=bursts {
        if burst == 1 {
            // The first burst grows the buffers.
            taken = Taken::now();
        }
        for id in 0..BURST {
            bus.publish(small(id)).await.unwrap();
        }
        counter.reaches((burst + 1) * BURST * receivers).await;
    }
    let allocations = taken.allocations();
    end(bus).await;
    (allocations, bursts * BURST)
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let system = actix::System::new();
    if let [_, what, count] = &arguments[..]
        && APART.iter().any(|(known, _)| known == what)
    {
        system.block_on(measured_apart(what, count.parse().unwrap()));
        return;
    }
    // Without `cargo bench` it only shows that it runs.
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let less = if is_bench { 1 } else { 1_000 };
    memory(&[10_000 / less, 100_000 / less]);
    system.block_on(async {
        slow_consumers(1_000_000 / less).await;
        let mut rows = Vec::new();
        for (thread, threads) in [
            ("another thread", Threads::Own(1)),
            ("the same thread", Threads::Current),
        ] {
            for receivers in [1, 16] {
                let (allocations, messages) = allocations(threads, receivers, 1_000 / less).await;
                rows.push(vec![
                    format!("1 to {receivers}, {thread}"),
                    messages.to_string(),
                    allocations.to_string(),
                ]);
            }
        }
        let header = ["published and handled", "messages", "allocations"];
        table("allocations of the happy path", &header, rows);
        let counts = [1_000, 10_000, 100_000].map(|count| (count / less).max(1));
        starts_and_stops(&counts).await;
    });
}
