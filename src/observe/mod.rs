//! What a bus tells of itself: counts, depths, health.

use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::broker::{Broker, ScheduleLedger};
use crate::bus::SubscriptionState;
use crate::queue::QueueCore;
use crate::store::DeadLetterLedger;

/// The counts and depths of a bus; serialises, for an endpoint or a log.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let bus = postroom::Bus::builder("shop").start().await?;
/// let snapshot = bus.snapshot();
/// assert!(snapshot.books_balance());
/// if let Some(mailer) = snapshot.queue("mailer") {
///     println!("{} of {} places taken", mailer.queued + mailer.in_flight + mailer.waiting, mailer.depth);
/// }
/// # bus.shutdown(std::time::Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// Every queue, in order of their making.
    pub queues: Vec<QueueSnapshot>,
    /// The dead letters' own ledger.
    pub dead_letters: DeadLetterLedger,
    /// Messages that wait for their time, or are due and wait for room.
    pub scheduled: u64,
    /// The delayed messages' own ledger.
    pub schedules: ScheduleLedger,
    /// Replies that came when nobody waited any more.
    pub late_replies: u64,
    /// Lifecycle and dead-letter events that a full subscriber missed.
    pub missed_events: u64,
}

/// The counts and depths of one queue, all of one instant. Counts are messages since the queue was made.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct QueueSnapshot {
    /// The group's name.
    pub name: String,
    /// Whether it hands out messages.
    pub state: SubscriptionState,
    /// The bound.
    pub depth: u64,
    /// Not handed out yet.
    pub queued: u64,
    /// In the hands of workers, or becoming dead letters.
    pub in_flight: u64,
    /// Waiting for a retry.
    pub waiting: u64,
    /// Taken, replays included.
    pub accepted: u64,
    /// Handled with success.
    pub acked: u64,
    /// Given up.
    pub dead_lettered: u64,
    /// Thrown away by a handler's verdict.
    pub discarded: u64,
    /// Too old when their turn came.
    pub expired: u64,
    /// Dropped by the overflow policy.
    pub dropped: u64,
    /// Removed on request.
    pub purged: u64,
    /// Left in memory when the queue ended.
    pub abandoned: u64,
    /// Attempts after a first one.
    pub retried: u64,
    /// Times that waiting retries held half of the credits and hand-over stopped.
    pub stalls: u64,
    /// Workers started again.
    pub restarts: u64,
}

impl QueueSnapshot {
    pub(crate) fn of(queue: &QueueCore) -> Self {
        let books = queue.mailbox.books();
        Self {
            name: queue.name.to_string(),
            state: SubscriptionState::of(queue),
            depth: queue.mailbox.capacity() as u64,
            queued: books.queued,
            in_flight: books.in_flight,
            waiting: books.waiting,
            accepted: books.counts.accepted,
            acked: books.counts.acked,
            dead_lettered: books.counts.dead_lettered,
            discarded: books.counts.discarded,
            expired: books.counts.expired,
            dropped: books.counts.dropped,
            purged: books.counts.purged,
            abandoned: books.counts.abandoned,
            retried: books.counts.retried,
            stalls: books.counts.stalls,
            restarts: queue.restarts.load(Ordering::Relaxed),
        }
    }

    /// Whether everything accepted is somewhere (contract, rule 13).
    #[must_use]
    pub fn balances(&self) -> bool {
        let ended = self.acked + self.dead_lettered + self.discarded + self.expired;
        let gone = self.dropped + self.purged + self.abandoned;
        self.accepted == ended + gone + self.in_flight + self.queued + self.waiting
    }
}

impl Snapshot {
    pub(crate) fn take(broker: &Broker) -> Self {
        let schedules = broker.schedules.ledger();
        Self {
            queues: broker
                .table
                .queues()
                .iter()
                .map(|queue| QueueSnapshot::of(queue))
                .collect(),
            dead_letters: broker.services.dead_letters.ledger(),
            scheduled: schedules.waiting,
            schedules,
            late_replies: broker.services.late_replies.load(Ordering::Relaxed),
            missed_events: broker.missed_events.load(Ordering::Relaxed),
        }
    }

    /// Whether every queue's books balance.
    #[must_use]
    pub fn books_balance(&self) -> bool {
        self.queues.iter().all(QueueSnapshot::balances)
    }

    /// One queue.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<&QueueSnapshot> {
        self.queues.iter().find(|queue| queue.name == name)
    }
}
