//! What is measured, and what every contestant counts its deliveries with.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A small struct, as most commands and events are.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Small {
    pub id: u64,
    pub amount: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Case {
    #[value(name = "1to1-cross")]
    OneCross,
    #[value(name = "1to16-cross")]
    SixteenCross,
    #[value(name = "1to1-same")]
    OneSame,
    #[value(name = "1to16-same")]
    SixteenSame,
    #[value(name = "queue4-cross")]
    Queue4Cross,
    #[value(name = "request-cross")]
    RequestCross,
}

impl Case {
    pub const ALL: [Self; 6] = [
        Self::OneCross,
        Self::SixteenCross,
        Self::OneSame,
        Self::SixteenSame,
        Self::Queue4Cross,
        Self::RequestCross,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::OneCross => "1to1-cross",
            Self::SixteenCross => "1to16-cross",
            Self::OneSame => "1to1-same",
            Self::SixteenSame => "1to16-same",
            Self::Queue4Cross => "queue4-cross",
            Self::RequestCross => "request-cross",
        }
    }

    /// Receivers that each get every message.
    pub fn receivers(self) -> usize {
        match self {
            Self::SixteenCross | Self::SixteenSame => 16,
            _ => 1,
        }
    }

    pub fn is_same_thread(self) -> bool {
        matches!(self, Self::OneSame | Self::SixteenSame)
    }

    /// Messages of one run, so that runs of all cases take about as long.
    pub fn messages(self, quick: bool) -> u64 {
        let messages = match self {
            Self::OneCross | Self::OneSame | Self::Queue4Cross => 400_000,
            Self::SixteenCross | Self::SixteenSame => 50_000,
            Self::RequestCross => 20_000,
        };
        if quick { messages / 100 } else { messages }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// On one thread, a publisher lets the receivers run after this many messages; the same for everybody.
pub const BURST: u64 = 256;

/// The bound of every mailbox or channel that has one.
pub const CAPACITY: usize = 1024;

/// A receiver's own count: no contestant pays for anything shared until the end.
pub struct Tally {
    seen: u64,
    sum: u64,
    until: u64,
    all: Total,
}

impl Tally {
    pub fn new(until: u64, all: &Total) -> Self {
        Self {
            seen: 0,
            sum: 0,
            until,
            all: all.clone(),
        }
    }

    #[inline]
    pub fn add(&mut self, message: &Small) {
        self.seen += 1;
        self.sum += message.amount;
        if self.seen == self.until {
            self.all.add(self.seen, self.sum);
        }
    }
}

/// What all receivers together have seen.
#[derive(Clone, Default)]
pub struct Total(Arc<Counts>);

#[derive(Default)]
struct Counts {
    seen: AtomicU64,
    sum: AtomicU64,
}

impl Total {
    #[inline]
    pub fn add(&self, seen: u64, sum: u64) {
        self.0.sum.fetch_add(sum, Ordering::Relaxed);
        self.0.seen.fetch_add(seen, Ordering::Release);
    }

    fn is_done(&self, deliveries: u64) -> bool {
        self.0.seen.load(Ordering::Acquire) >= deliveries
    }

    /// For a publisher on its own thread.
    pub fn wait(&self, deliveries: u64) {
        while !self.is_done(deliveries) {
            std::thread::yield_now();
        }
        self.check(deliveries);
    }

    /// For a publisher on the receivers' thread.
    pub async fn wait_here(&self, deliveries: u64) {
        while !self.is_done(deliveries) {
            tokio::task::yield_now().await;
        }
        self.check(deliveries);
    }

    /// Every message carries 3: nothing may be missing, or be there twice.
    fn check(&self, deliveries: u64) {
        let seen = self.0.seen.load(Ordering::Acquire);
        let sum = self.0.sum.load(Ordering::Relaxed);
        assert_eq!((seen, sum), (deliveries, deliveries * 3));
    }
}

pub fn message(id: u64) -> Small {
    Small { id, amount: 3 }
}

/// One run of a contestant: how long from the first send to the last delivery.
pub type Outcome = anyhow::Result<Option<Duration>>;
