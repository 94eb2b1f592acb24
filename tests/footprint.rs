//! What a message and a subscriber cost in memory, counted by the allocator.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

use std::alloc::System;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postroom::{
    Bus, Command, CommandHandler, Context, Event, Failure, Outcome, Subscriber, Threads,
};
use serde::{Deserialize, Serialize};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};
use tokio::sync::{Mutex, MutexGuard};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What happens once, or once for a thread: first wakes, a grown buffer, the test's own waiting.
const ONCE: usize = 200;
/// Less than a mailbox: a publisher that waits for room is not on the happy path.
const BURST: u64 = 500;
const BURSTS: u64 = 40;
const MAILBOX: usize = 1024;

/// The counters are those of the process: one test at a time.
async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

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

#[derive(Serialize, Deserialize)]
struct Job(u64);

impl Command for Job {
    const QUEUE: &'static str = "footprint.job";
    type Reply = ();
}

#[derive(Clone, Default)]
struct Counter(Arc<AtomicU64>);

impl Counter {
    fn count(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    async fn reaches(&self, handled: u64) {
        while self.0.load(Ordering::Acquire) < handled {
            tokio::task::yield_now().await;
        }
    }
}

impl Subscriber<Small> for Counter {
    async fn handle(&mut self, _: &Small, _: &mut Context<'_>) -> Outcome {
        self.count();
        Ok(())
    }
}

impl CommandHandler<Job> for Counter {
    async fn handle(&mut self, _: &Job, _: &mut Context<'_>) -> Result<(), Failure> {
        self.count();
        Ok(())
    }
}

fn live_bytes(change: &Stats) -> usize {
    change
        .bytes_allocated
        .saturating_sub(change.bytes_deallocated)
}

async fn bus(threads: Threads) -> Bus {
    let bus = Bus::builder("footprint").threads(threads).mailbox(MAILBOX);
    bus.start().await.unwrap()
}

async fn end(bus: &Bus) {
    let report = bus.shutdown(Duration::from_secs(20)).await;
    assert!(report.clean, "{report:?}");
}

/// Publishes in bursts to `receivers` and returns how often anything was allocated, for how many messages.
async fn fan_out(bus: &Bus, receivers: u64) -> (usize, u64) {
    let counter = Counter::default();
    for receiver in 0..receivers {
        let counter = counter.clone();
        let subscriber = bus.subscriber(format!("counter-{receiver}"), move || counter.clone());
        subscriber.on::<Small>().start().await.unwrap();
    }
    let mut published = 0;
    // The first burst grows the buffers.
    let mut region = Region::new(ALLOCATOR);
    for burst in 0..=BURSTS {
        if burst == 1 {
            region.reset();
            published = 0;
        }
        for id in 0..BURST {
            bus.publish(small(id)).await.unwrap();
            published += 1;
        }
        counter.reaches((burst + 1) * BURST * receivers).await;
    }
    let change = region.change();
    (change.allocations + change.reallocations, published)
}

async fn check_fan_out(threads: Threads, receivers: u64) {
    let _alone = alone().await;
    let bus = bus(threads).await;
    let (allocations, messages) = fan_out(&bus, receivers).await;
    end(&bus).await;
    assert!(
        allocations <= messages as usize + ONCE,
        "{allocations} allocations for {messages} messages"
    );
}

#[tokio::test]
async fn a_message_handled_once_is_one_allocation() {
    check_fan_out(Threads::Own(1), 1).await;
}

#[tokio::test]
async fn a_message_handled_by_sixteen_is_one_allocation() {
    check_fan_out(Threads::Own(1), 16).await;
}

#[test]
fn a_message_handled_on_the_publishers_thread_is_one_allocation() {
    actix::System::new().block_on(check_fan_out(Threads::Current, 1));
}

#[test]
fn a_message_handled_by_sixteen_on_the_publishers_thread_is_one_allocation() {
    actix::System::new().block_on(check_fan_out(Threads::Current, 16));
}

#[tokio::test]
async fn a_command_handled_by_one_of_four_workers_is_one_allocation() {
    let _alone = alone().await;
    let bus = bus(Threads::Own(1)).await;
    let counter = Counter::default();
    let handler = counter.clone();
    let subscriber = bus.subscriber("jobs", move || handler.clone());
    subscriber
        .command::<Job>()
        .workers(4)
        .start()
        .await
        .unwrap();
    let mut region = Region::new(ALLOCATOR);
    for burst in 0..=BURSTS {
        if burst == 1 {
            region.reset();
        }
        for id in 0..BURST {
            bus.send(Job(id)).await.unwrap();
        }
        counter.reaches((burst + 1) * BURST).await;
    }
    let change = region.change();
    end(&bus).await;
    let allocations = change.allocations + change.reallocations;
    let messages = (BURST * BURSTS) as usize;
    assert!(
        allocations <= messages + ONCE,
        "{allocations} allocations for {messages} messages"
    );
}

#[tokio::test]
async fn a_queued_small_message_takes_at_most_200_bytes_beyond_its_payload() {
    const MESSAGES: usize = 100_000;
    let _alone = alone().await;
    let bus = bus(Threads::Own(1)).await;
    let queue = bus.subscriber("slow", Counter::default).on::<Small>();
    let queue = queue.mailbox(MESSAGES).start().await.unwrap();
    queue.pause();
    let region = Region::new(ALLOCATOR);
    for id in 0..MESSAGES as u64 {
        bus.try_publish(small(id)).unwrap();
    }
    let bytes = live_bytes(&region.change());
    assert_eq!(queue.snapshot().queued, MESSAGES as u64);
    queue.resume().await;
    end(&bus).await;
    let beyond = bytes / MESSAGES - size_of::<Small>();
    assert!(beyond <= 200, "{beyond} bytes");
}

#[tokio::test]
async fn an_idle_subscriber_takes_at_most_2_5_kib() {
    const SUBSCRIBERS: usize = 100_000;
    let _alone = alone().await;
    let bus = bus(Threads::Own(1)).await;
    let region = Region::new(ALLOCATOR);
    let mut subscriptions = Vec::with_capacity(SUBSCRIBERS);
    for number in 0..SUBSCRIBERS {
        let idle = bus.subscriber(format!("idle-{number}"), Counter::default);
        subscriptions.push(idle.on::<Small>().start().await.unwrap());
    }
    bus.settle().await;
    let each = live_bytes(&region.change()) / SUBSCRIBERS;
    end(&bus).await;
    drop(subscriptions);
    assert!(each <= 2560, "{each} bytes for each subscriber");
}

/// A publisher that is not made to wait, at a subscriber that never ends.
#[tokio::test]
async fn a_million_publishes_at_a_slow_consumer_leave_memory_bounded() {
    let _alone = alone().await;
    let bus = bus(Threads::Own(1)).await;
    let stuck = bus.subscribe_fn::<Small, _>("stuck", async |_, _| {
        std::future::pending::<()>().await;
        Ok(())
    });
    let stuck = stuck
        .no_timeout()
        .overflow(postroom::Overflow::DropOldest)
        .start()
        .await
        .unwrap();
    let region = Region::new(ALLOCATOR);
    let mut most = 0;
    for id in 0..1_000_000 {
        bus.try_publish(small(id)).unwrap();
        if id % 1_000 == 0 {
            most = most.max(live_bytes(&region.change()));
        }
    }
    let books = stuck.snapshot();
    assert_eq!(books.accepted, 1_000_000);
    assert_eq!(books.queued + books.in_flight, MAILBOX as u64);
    bus.shutdown(Duration::ZERO).await;
    assert!(most <= MAILBOX * 400 + 64 * 1024, "{most} bytes");
}
