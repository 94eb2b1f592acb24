use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
    state: Mutex<BellState>,
    notify: Notify,
}

#[derive(Default)]
struct BellState {
    rung: Option<Ring>,
    /// The least that is waited for.
    least: Option<Ring>,
}

/// What is known of the row that the bell was rung for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ring {
    /// It was written, and its transaction may commit at any time.
    Written,
    /// It was committed.
    Committed,
}

impl Bell {
    pub(crate) fn ring(&self, what: Ring) {
        let wakes = {
            let mut state = self.state.lock();
            let is_more = state.rung < Some(what);
            state.rung = state.rung.max(Some(what));
            is_more && state.least <= Some(what)
        };
        if wakes {
            self.notify.notify_one();
        }
    }

    /// The rings since the last time.
    pub(crate) fn rung(&self) -> Option<Ring> {
        self.state.lock().rung.take()
    }

    /// Waits for the next ring of at least this. A wake costs the one who rings more than all else he does: who looks soon
    /// in any case waits only for what cannot wait for that. Cancel safe.
    pub(crate) async fn heard(&self, least: Ring) -> Ring {
        loop {
            {
                let mut state = self.state.lock();
                state.least = Some(least);
                if let Some(rung) = state.rung.take_if(|rung| *rung >= least) {
                    return rung;
                }
            }
            self.notify.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Not yet: nobody has been woken.
    async fn is_asleep(hearing: impl Future<Output = Ring>) -> bool {
        tokio::time::timeout(Duration::ZERO, hearing).await.is_err()
    }

    #[tokio::test]
    async fn rings_are_one_until_they_are_heard_and_the_larger_one_counts() {
        let bell = Bell::default();
        bell.ring(Ring::Written);
        bell.ring(Ring::Committed);
        bell.ring(Ring::Written);
        assert_eq!(bell.heard(Ring::Written).await, Ring::Committed);
        assert_eq!(bell.rung(), None);
        assert!(is_asleep(bell.heard(Ring::Written)).await);
    }

    #[tokio::test]
    async fn who_looks_soon_is_not_woken_for_what_was_written_and_finds_it_when_he_looks() {
        let bell = Bell::default();
        assert!(is_asleep(bell.heard(Ring::Committed)).await);
        bell.ring(Ring::Written);
        assert!(is_asleep(bell.heard(Ring::Committed)).await);
        assert_eq!(bell.rung(), Some(Ring::Written));
        bell.ring(Ring::Written);
        assert_eq!(bell.heard(Ring::Written).await, Ring::Written);
        bell.ring(Ring::Written);
        bell.ring(Ring::Committed);
        assert_eq!(bell.heard(Ring::Committed).await, Ring::Committed);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_ring_is_lost_between_one_who_rings_and_one_who_hears() {
        let bell = Arc::new(Bell::default());
        let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
        let rings = tokio::spawn({
            let bell = Arc::clone(&bell);
            async move {
                for at in 0..20_000_u32 {
                    let what = [Ring::Written, Ring::Committed][at as usize % 2];
                    bell.ring(what);
                    // The next one only when this one was heard.
                    assert_eq!(tells.recv().await, Some(what));
                }
            }
        });
        for at in 0..20_000_u32 {
            // Waits for less than comes, for the same, and after a wait for more that was given up.
            if at % 3 == 0 {
                let more = bell.heard(Ring::Committed);
                if let Ok(heard) = tokio::time::timeout(Duration::ZERO, more).await {
                    told.send(heard).unwrap();
                    continue;
                }
            }
            told.send(bell.heard(Ring::Written).await).unwrap();
        }
        tokio::time::timeout(Duration::from_secs(20), rings)
            .await
            .unwrap()
            .unwrap();
    }
}
