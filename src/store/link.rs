use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{DatabaseError, Store};
use crate::ports::{Condition, OutboxSnapshot, Problem};

/// The store of a bus, as those see it who write into transactions.
pub(crate) struct StoreLink {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) bell: Bell,
    pub(crate) counts: OutboxCounts,
    /// Workers that hold their messages because of the database, by a number of their own.
    held_up: Mutex<BTreeMap<u64, HeldUp>>,
}

struct HeldUp {
    queue: Arc<str>,
    error: DatabaseError,
    since: Instant,
}

impl StoreLink {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            bell: Bell::default(),
            counts: OutboxCounts::default(),
            held_up: Mutex::default(),
        }
    }

    /// The store, if it is one of this type.
    pub(crate) fn store_as<S: Store>(&self) -> Option<&S> {
        let store: &dyn Any = &*self.store;
        store.downcast_ref()
    }

    /// The queues whose messages are held because of the database, each once.
    pub(crate) fn examine(&self, found: &mut Vec<Condition>) {
        let held_up = self.held_up.lock();
        let mut queues = BTreeMap::new();
        for held in held_up.values() {
            let first = queues.entry(&held.queue).or_insert(held);
            if held.since < first.since {
                *first = held;
            }
        }
        found.extend(queues.into_values().map(|held| Condition {
            detail: Some(held.error.to_string()),
            lasts: Some(held.since.elapsed()),
            ..Condition::new(&held.queue, Problem::Database)
        }));
    }

    pub(crate) fn snapshot(&self) -> OutboxSnapshot {
        let counts = &self.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        OutboxSnapshot {
            written: read(&counts.written),
            taken: read(&counts.taken),
            published: read(&counts.published),
            failed: read(&counts.failed),
            given_up: read(&counts.given_up),
            held_back: read(&counts.held_back),
            fenced_out: read(&counts.fenced_out),
            cleaned: read(&counts.cleaned),
            duplicates: read(&counts.duplicates),
            database_errors: read(&counts.database_errors),
            lanes: read(&counts.lanes),
            relays: read(&counts.relays),
            in_memory: read(&counts.in_memory),
            waiting: read(&counts.waiting),
            dead: read(&counts.dead),
        }
    }
}

/// A worker that holds its messages because of the database. Dropped, it does not any more, or has ended.
pub(crate) struct InTrouble {
    link: Arc<StoreLink>,
    number: u64,
}

impl InTrouble {
    pub(crate) fn new(link: &Arc<StoreLink>, queue: &Arc<str>, error: DatabaseError) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let held_up = HeldUp {
            queue: Arc::clone(queue),
            error,
            since: Instant::now(),
        };
        link.held_up.lock().insert(number, held_up);
        Self {
            link: Arc::clone(link),
            number,
        }
    }

    /// The reason is another one by now.
    pub(crate) fn because(&self, error: DatabaseError) {
        if let Some(held_up) = self.link.held_up.lock().get_mut(&self.number) {
            held_up.error = error;
        }
    }
}

impl Drop for InTrouble {
    fn drop(&mut self) {
        self.link.held_up.lock().remove(&self.number);
    }
}

/// What is counted, see [`OutboxSnapshot`].
#[derive(Default)]
pub(crate) struct OutboxCounts {
    pub(crate) written: AtomicU64,
    pub(crate) taken: AtomicU64,
    pub(crate) published: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) given_up: AtomicU64,
    pub(crate) held_back: AtomicU64,
    pub(crate) fenced_out: AtomicU64,
    pub(crate) cleaned: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) database_errors: AtomicU64,
    pub(crate) lanes: AtomicU64,
    pub(crate) relays: AtomicU64,
    pub(crate) in_memory: AtomicU64,
    pub(crate) waiting: AtomicU64,
    pub(crate) dead: AtomicU64,
}

/// Wakes the relay. Rings that come while one is not heard yet are one with it.
#[derive(Default)]
pub(crate) struct Bell {
    rung: AtomicU8,
    notify: Notify,
}

/// What is known of the row that the bell was rung for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ring {
    /// It was written, and its transaction may commit at any time.
    Written = 1,
    /// It was committed.
    Committed = 2,
}

impl Bell {
    pub(crate) fn ring(&self, what: Ring) {
        if self.rung.fetch_max(what as u8, Ordering::AcqRel) < what as u8 {
            self.notify.notify_one();
        }
    }

    /// Waits for the next ring. Cancel safe.
    pub(crate) async fn heard(&self) -> Ring {
        loop {
            match self.rung.swap(0, Ordering::AcqRel) {
                0 => self.notify.notified().await,
                1 => return Ring::Written,
                _ => return Ring::Committed,
            }
        }
    }
}
