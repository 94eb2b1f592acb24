use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use tokio::sync::Notify;

use super::Store;
use crate::ports::OutboxSnapshot;

/// The store of a bus, as those see it who write into transactions.
pub(crate) struct StoreLink {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) bell: Bell,
    pub(crate) counts: OutboxCounts,
}

impl StoreLink {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            bell: Bell::default(),
            counts: OutboxCounts::default(),
        }
    }

    /// The store, if it is one of this type.
    pub(crate) fn store_as<S: Store>(&self) -> Option<&S> {
        let store: &dyn Any = &*self.store;
        store.downcast_ref()
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
