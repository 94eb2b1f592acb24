//! What is measured, and what every contestant counts its deliveries with.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// The type of the queue under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    Quorum,
    Classic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Case {
    PublishQuorum,
    PublishClassic,
    ConsumeQuorum,
    ConsumeClassic,
    /// A handler that publishes one event for each message, one worker.
    RelayQuorum1,
    /// The same with sixteen workers.
    RelayQuorum16,
    Roundtrip,
}

/// What a case asks of a contestant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Publish,
    Consume,
    Relay { workers: usize },
    Request,
}

impl Case {
    pub const ALL: [Self; 7] = [
        Self::PublishQuorum,
        Self::PublishClassic,
        Self::ConsumeQuorum,
        Self::ConsumeClassic,
        Self::RelayQuorum1,
        Self::RelayQuorum16,
        Self::Roundtrip,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::PublishQuorum => "publish-quorum",
            Self::PublishClassic => "publish-classic",
            Self::ConsumeQuorum => "consume-quorum",
            Self::ConsumeClassic => "consume-classic",
            Self::RelayQuorum1 => "relay-quorum-1",
            Self::RelayQuorum16 => "relay-quorum-16",
            Self::Roundtrip => "roundtrip",
        }
    }

    pub fn queue(self) -> Queue {
        match self {
            Self::PublishClassic | Self::ConsumeClassic => Queue::Classic,
            _ => Queue::Quorum,
        }
    }

    pub fn work(self) -> Work {
        match self {
            Self::PublishQuorum | Self::PublishClassic => Work::Publish,
            Self::ConsumeQuorum | Self::ConsumeClassic => Work::Consume,
            Self::RelayQuorum1 => Work::Relay { workers: 1 },
            Self::RelayQuorum16 => Work::Relay { workers: 16 },
            Self::Roundtrip => Work::Request,
        }
    }

    /// Messages of one run.
    pub fn messages(self, quick: bool) -> u64 {
        let messages = match self.work() {
            Work::Publish => 15_000,
            Work::Consume => 20_000,
            Work::Relay { workers: 1 } => 2_000,
            Work::Relay { .. } => 10_000,
            Work::Request => 1_000,
        };
        if quick { messages / 10 } else { messages }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Unconfirmed publishes at a time, and unsettled deliveries; the same for everybody.
pub const WINDOW: usize = 256;
pub const PREFETCH: u16 = 256;
/// Requests a second, sent at their times whether those before have been answered or not.
pub const REQUESTS_PER_SECOND: u32 = 500;
/// The longest that one run may take.
pub const RUN_AT_MOST: Duration = Duration::from_secs(60);

/// The topic of the messages, which is their routing key too.
pub const TOPIC: &str = "bench.order-placed";
/// Where a relay publishes to.
pub const RELAYED: &str = "bench.order-relayed";
/// The queue of requests, and their routing key.
pub const QUESTION: &str = "bench.quote-price";

/// 256 bytes as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OrderPlaced {
    pub id: u64,
    pub customer: String,
    pub lines: Vec<Line>,
    pub note: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    pub article: String,
    pub quantity: u32,
    pub cents: u64,
}

/// Ids of messages begin here, so that all have as many digits.
const FIRST_ID: u64 = 1_000_000;

impl OrderPlaced {
    pub fn new(number: u64) -> Self {
        let line = |article: &str, cents| Line {
            article: article.to_owned(),
            quantity: 3,
            cents,
        };
        Self {
            id: FIRST_ID + number,
            customer: "customer-0042".to_owned(),
            lines: vec![line("paper-a4-500", 4_990), line("pencil-hb-12", 1_250)],
            note: "please leave the parcel with the neighbours at number 17a, or at the shop on the corner, ".to_owned(),
        }
    }

    pub fn number(&self) -> u64 {
        self.id - FIRST_ID
    }
}

/// The JSON of a message.
pub fn body(number: u64) -> anyhow::Result<Vec<u8>> {
    let body = serde_json::to_vec(&OrderPlaced::new(number))?;
    ensure!(body.len() == 256, "a message has {} bytes", body.len());
    Ok(body)
}

/// What arrived: each message must exactly once.
#[derive(Clone)]
pub struct Arrivals(Arc<Seen>);

struct Seen {
    times: Vec<AtomicU8>,
    count: AtomicU64,
    twice: AtomicBool,
    span: Mutex<(Option<Instant>, Option<Instant>)>,
    all: Notify,
}

impl Arrivals {
    pub fn new(messages: u64) -> Self {
        Self(Arc::new(Seen {
            times: (0..messages).map(|_| AtomicU8::new(0)).collect(),
            count: AtomicU64::new(0),
            twice: AtomicBool::new(false),
            span: Mutex::default(),
            all: Notify::new(),
        }))
    }

    #[inline]
    pub fn add(&self, number: u64) {
        let seen = &*self.0;
        match seen.times.get(number as usize) {
            Some(times) if times.fetch_add(1, Ordering::Relaxed) == 0 => {}
            _ => seen.twice.store(true, Ordering::Relaxed),
        }
        let count = seen.count.fetch_add(1, Ordering::AcqRel) + 1;
        if count == 1 {
            seen.span.lock().0 = Some(Instant::now());
        }
        if count == seen.times.len() as u64 {
            seen.span.lock().1 = Some(Instant::now());
            seen.all.notify_one();
        }
    }

    /// Waits for all of them, and says how long they took from the first to the last.
    pub async fn all(&self) -> anyhow::Result<Duration> {
        let waited = tokio::time::timeout(RUN_AT_MOST, self.0.all.notified()).await;
        let (count, messages) = (self.count(), self.0.times.len());
        ensure!(waited.is_ok(), "only {count} of {messages} came");
        match *self.0.span.lock() {
            (Some(first), Some(last)) => Ok(last - first),
            _ => anyhow::bail!("no time was taken"),
        }
    }

    fn count(&self) -> u64 {
        self.0.count.load(Ordering::Acquire)
    }

    /// Each message came, and none twice.
    pub fn check(&self) -> anyhow::Result<()> {
        let (count, messages) = (self.count(), self.0.times.len() as u64);
        let is_twice = self.0.twice.load(Ordering::Relaxed);
        ensure!(
            count == messages && !is_twice,
            "{count} deliveries of {messages} messages, some twice: {is_twice}"
        );
        Ok(())
    }
}

/// What one run measured. None: the contestant has nothing like it.
pub type Outcome = anyhow::Result<Option<Measured>>;

#[derive(Clone, Debug)]
pub enum Measured {
    /// For all messages.
    Whole(Duration),
    /// For each.
    Each(Vec<Duration>),
}
