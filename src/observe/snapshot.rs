use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::Rates;
use crate::broker::{Broker, ScheduleLedger};
use crate::ports::{BridgeSnapshot, DeadLetterLedger, DurableSnapshot, OutboxSnapshot};
use crate::queue::{QueueCore, SubscriptionState};

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
    /// When it was taken, by the wall clock. Rates are taken from the monotonic one, see
    /// [`since`](Self::since).
    pub taken_at: SystemTime,
    #[serde(skip)]
    at: Instant,
    /// Every queue, in order of their making.
    pub queues: Vec<QueueSnapshot>,
    /// The dead letters' own ledger.
    pub dead_letters: DeadLetterLedger,
    /// Messages that wait in memory for their time, or are due and wait for room. With a store they wait there:
    /// [`Schedules::len`](crate::Schedules::len) asks.
    pub scheduled: u64,
    /// The delayed messages' own ledger.
    pub schedules: ScheduleLedger,
    /// Replies that came when nobody waited any more.
    pub late_replies: u64,
    /// Lifecycle and dead-letter events that a full subscriber missed, counted for each subscriber.
    pub missed_events: u64,
    /// The counts of the bridge to RabbitMQ, if there is one.
    pub bridge: Option<BridgeSnapshot>,
    /// The counts of the outbox, if there is a store.
    pub outbox: Option<OutboxSnapshot>,
    /// The counts of durable queues, if there is a store.
    pub durable: Option<DurableSnapshot>,
}

/// The counts and depths of one queue, all of one instant. Counts are messages since the queue was made.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct QueueSnapshot {
    /// The group's name.
    pub name: String,
    #[serde(skip)]
    id: u64,
    #[serde(skip)]
    at: Instant,
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
    /// Handed back to RabbitMQ: unstarted at a stop, lost with their channel, or as the copy that waits for a
    /// retry. Each comes again, and is accepted again.
    pub returned: u64,
    /// Attempts after a first one.
    pub retried: u64,
    /// Times that waiting retries held half of the credits and hand-over stopped.
    pub stalls: u64,
    /// Publishes, commands and requests that it refused for lack of room, by its policy or at the end of their
    /// wait; they were not accepted, so they are not in the balance. What handlers release is tried again
    /// and not counted here.
    pub refused: u64,
    /// Workers started again.
    pub restarts: u64,
    /// Times that a handler was found to block its thread.
    pub stuck: u64,
    /// Workers that run now; none while it is being restarted, suspended, or has ended.
    pub workers: u64,
}

impl QueueSnapshot {
    pub(crate) fn of(queue: &QueueCore) -> Self {
        let books = queue.mailbox.books();
        Self {
            name: queue.name.to_string(),
            id: queue.id,
            at: queue.services.clock.now(),
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
            returned: books.counts.returned,
            retried: books.counts.retried,
            stalls: books.stalls,
            refused: queue.refused.load(Ordering::Relaxed),
            restarts: queue.restarts.load(Ordering::Relaxed),
            stuck: u64::from(queue.stuck.load(Ordering::Relaxed)),
            workers: u64::from(queue.workers.load(Ordering::Relaxed)),
        }
    }

    /// How fast its counts rose since an earlier snapshot. Of a queue that was made anew in between, under the
    /// same name, everything is counted.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Rates {
        let known = Some(earlier).filter(|earlier| earlier.id == self.id);
        self.rates(known, self.at.saturating_duration_since(earlier.at))
    }

    fn rates(&self, earlier: Option<&Self>, over: Duration) -> Rates {
        let rate = |count: fn(&Self) -> u64| {
            let rise = count(self).saturating_sub(earlier.map_or(0, count));
            if over.is_zero() {
                0.0
            } else {
                rise as f64 / over.as_secs_f64()
            }
        };
        Rates {
            queue: self.name.clone(),
            over,
            accepted: rate(|queue| queue.accepted),
            acked: rate(|queue| queue.acked),
            retried: rate(|queue| queue.retried),
            dead_lettered: rate(|queue| queue.dead_lettered),
            discarded: rate(|queue| queue.discarded),
            expired: rate(|queue| queue.expired),
            dropped: rate(|queue| queue.dropped),
            refused: rate(|queue| queue.refused),
            restarts: rate(|queue| queue.restarts),
        }
    }

    /// Whether everything accepted is somewhere (contract, rule 13).
    #[must_use]
    pub fn balances(&self) -> bool {
        let ended = self.acked + self.dead_lettered + self.discarded + self.expired;
        let gone = self.dropped + self.purged + self.abandoned + self.returned;
        self.accepted == ended + gone + self.in_flight + self.queued + self.waiting
    }
}

impl Snapshot {
    pub(crate) fn take(broker: &Broker) -> Self {
        let schedules = broker.schedules.ledger();
        let clock = &broker.services.clock;
        Self {
            taken_at: SystemTime::UNIX_EPOCH + Duration::from_millis(clock.wall_ms()),
            at: clock.now(),
            queues: broker
                .table
                .queues()
                .iter()
                .map(|queue| QueueSnapshot::of(queue))
                .collect(),
            dead_letters: broker.dead_letter_ledger(),
            scheduled: schedules.waiting,
            schedules,
            late_replies: broker.services.late_replies.load(Ordering::Relaxed),
            missed_events: broker.missed_events.load(Ordering::Relaxed),
            bridge: broker.bridge.as_ref().map(|bridge| bridge.snapshot()),
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            outbox: broker.services.store.as_ref().map(|store| store.snapshot()),
            #[cfg(not(any(feature = "sqlite", feature = "postgres")))]
            outbox: None,
            durable: broker.stored.as_ref().map(|stored| stored.snapshot()),
        }
    }

    /// Whether every queue's books balance.
    #[must_use]
    pub fn books_balance(&self) -> bool {
        self.queues.iter().all(QueueSnapshot::balances)
    }

    /// How fast the counts of each queue rose since an earlier snapshot of the same bus. Of a queue that was
    /// made since, everything is counted.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Vec<Rates> {
        let over = self.at.saturating_duration_since(earlier.at);
        let known: HashMap<u64, &QueueSnapshot> = earlier
            .queues
            .iter()
            .map(|queue| (queue.id, queue))
            .collect();
        self.queues
            .iter()
            .map(|queue| match known.get(&queue.id) {
                Some(earlier) => queue.since(earlier),
                None => queue.rates(None, over),
            })
            .collect()
    }

    /// One queue.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<&QueueSnapshot> {
        self.queues.iter().find(|queue| queue.name == name)
    }
}
