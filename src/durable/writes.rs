use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::publication::{Content, Publication};
use super::settlement::Settlement;
use crate::ports::Refusal;
use crate::store::{QueueWrite, QueueWritten, RetriedRow};

/// How long settlements are gathered that nobody waits for.
const GATHER: Duration = Duration::from_millis(5);
/// From so many settlements on they are written at once.
const ENOUGH: usize = 256;
/// The most that one transaction writes, in messages, in bytes of their bodies, and in settlements.
const MOST_NEW: usize = 512;
const MOST_BYTES: usize = 4 << 20;
const MOST_SETTLED: usize = 2048;

/// What is to be written, from all publishers and workers of this process. Outlives every connection.
pub(super) struct Writes {
    state: Mutex<State>,
    pub(super) changed: Notify,
    pub(super) counts: Counts,
}

/// See [`DurableSnapshot`](crate::DurableSnapshot).
#[derive(Default)]
pub(super) struct Counts {
    pub(super) written: AtomicU64,
    pub(super) settled: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) lost: AtomicU64,
}

#[derive(Default)]
struct State {
    new: VecDeque<Arc<Publication>>,
    settled: VecDeque<Settlement>,
    /// Somebody waits for a settlement.
    is_urgent: bool,
    /// Since when the oldest settlement waits.
    since: Option<Instant>,
    /// So many are written one by one: something in a batch of them was refused.
    one_by_one: usize,
    /// So many settlements were put back of which it is not known whether they were written.
    uncertain: usize,
    is_closed: bool,
}

/// What one transaction writes. Dropped before its end, it goes back to where it was taken from, or is refused after the
/// end of that.
pub(super) struct Batch<'a> {
    writes: &'a Writes,
    pub(super) write: QueueWrite,
    new: Vec<Arc<Publication>>,
    settled: Vec<Settlement>,
    /// Nothing of it was done.
    is_rolled_back: bool,
    /// Part of it may have been done before.
    pub(super) is_repeated: bool,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let mut state = self.writes.state.lock();
        if state.is_closed {
            drop(state);
            self.writes
                .give_up(self.new.drain(..), self.settled.drain(..));
            return;
        }
        for publication in self.new.drain(..).rev() {
            state.new.push_front(publication);
        }
        if !self.is_rolled_back || self.is_repeated {
            state.uncertain += self.settled.len();
        }
        for settlement in self.settled.drain(..).rev() {
            state.settled.push_front(settlement);
        }
    }
}

impl Batch<'_> {
    fn len(&self) -> usize {
        self.new.len() + self.settled.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nothing of it was done.
    pub(super) fn rolled_back(&mut self) {
        self.is_rolled_back = true;
        for publication in &self.new {
            publication.rolled_back();
        }
    }

    /// Messages that were settled too late: their queue was taken over. Of a repeated batch nobody knows, since what is
    /// gone may have been settled before.
    pub(super) fn count_late(&self, written: &QueueWritten) -> u64 {
        let done = self.write.done.len() as u64;
        match self.is_repeated {
            true => 0,
            false => done.saturating_sub(written.done),
        }
    }

    /// It is committed.
    pub(super) fn finish(mut self, written: &QueueWritten) {
        let counts = &self.writes.counts;
        let add = |count: &AtomicU64, more: usize| count.fetch_add(more as u64, Ordering::Relaxed);
        add(&counts.commits, 1);
        add(&counts.written, self.write.new.len());
        add(&counts.settled, self.settled.len());
        for publication in self.new.drain(..) {
            if let Content::Queued { queues, .. } = &publication.content {
                for queue in queues {
                    queue.count_rows(1);
                    queue.has_come();
                }
            }
            publication.answer(Ok(()));
        }
        let mut lost = self.count_late(written);
        for settlement in self.settled.drain(..) {
            lost += u64::from(settlement.finish(written));
        }
        self.writes.count_lost(lost);
        let mut state = self.writes.state.lock();
        state.one_by_one = state.one_by_one.saturating_sub(1);
    }

    /// The database does not take something of it, and never will. A message alone is refused; of many it is found which.
    pub(super) fn refused(mut self, why: &str) {
        let one_by_one = self.len();
        if one_by_one > 1 {
            self.rolled_back();
            self.writes.state.lock().one_by_one = one_by_one;
            return;
        }
        for publication in self.new.drain(..) {
            publication.answer(Err(Refusal::NotStored {
                queue: publication.content.target(),
                why: why.to_owned(),
            }));
        }
        // A settlement stays: its message must not be lost. Others come before it.
        let mut state = self.writes.state.lock();
        state.settled.extend(self.settled.drain(..));
        state.one_by_one = state.one_by_one.saturating_sub(1);
    }
}

/// Of several notes of one message the last one counts, which a statement over all of them would not promise.
fn keep_last(retried: &mut Vec<RetriedRow>) {
    let mut known = HashSet::with_capacity(retried.len());
    retried.reverse();
    retried.retain(|retried| known.insert(retried.row.position));
    retried.reverse();
}

impl Writes {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            counts: Counts::default(),
        }
    }

    /// False: the bus is shut down.
    pub(super) fn publish(&self, publication: Arc<Publication>) -> bool {
        {
            let mut state = self.state.lock();
            if state.is_closed {
                return false;
            }
            state.new.push_back(publication);
        }
        self.changed.notify_one();
        true
    }

    /// After the end a settlement is not written: its message comes again.
    pub(super) fn settle(&self, settlement: Settlement, is_urgent: bool) {
        let wakes = {
            let mut state = self.state.lock();
            if state.is_closed {
                drop(state);
                self.count_lost(1);
                settlement.lose();
                return;
            }
            let is_first = state.since.is_none();
            state.since.get_or_insert_with(Instant::now);
            state.settled.push_back(settlement);
            let was_urgent = state.is_urgent;
            state.is_urgent |= is_urgent || state.settled.len() >= ENOUGH;
            is_first || (state.is_urgent && !was_urgent)
        };
        if wakes {
            self.changed.notify_one();
        }
    }

    pub(super) fn count_lost(&self, lost: u64) {
        self.counts.lost.fetch_add(lost, Ordering::Relaxed);
    }

    /// When something is to be written; none: nothing is.
    pub(super) fn due(&self) -> Option<Instant> {
        let state = self.state.lock();
        match state.since {
            _ if !state.new.is_empty() || state.is_urgent => Some(Instant::now()),
            Some(since) => Some(since + GATHER),
            // Put back by a batch that failed.
            None if !state.settled.is_empty() => Some(Instant::now()),
            None => None,
        }
    }

    /// Takes what one transaction writes: publications, and settlements when they are due, or `all`. One publication
    /// alone is one statement, which costs less than a transaction of several.
    pub(super) fn batch(&self, all: bool) -> Batch<'_> {
        let mut batch = Batch {
            writes: self,
            write: QueueWrite::default(),
            new: Vec::new(),
            settled: Vec::new(),
            is_rolled_back: false,
            is_repeated: false,
        };
        let mut state = self.state.lock();
        let (most_new, most_settled) = match state.one_by_one {
            0 => (MOST_NEW, MOST_SETTLED),
            _ => (1, 1),
        };
        let mut bytes = 0;
        while batch.new.len() < most_new
            && bytes < MOST_BYTES
            && let Some(publication) = state.new.pop_front()
        {
            if publication.begin() {
                bytes += publication.content.row().body.len();
                publication.content.add_to(&mut batch.write);
                batch.new.push(publication);
            }
        }
        let is_alone = state.one_by_one > 0 && !batch.new.is_empty();
        let now = Instant::now();
        let are_due = all || state.is_urgent || state.since.is_none_or(|at| now >= at + GATHER);
        while !is_alone
            && are_due
            && batch.settled.len() < most_settled
            && let Some(settlement) = state.settled.pop_front()
        {
            settlement.add_to(&mut batch.write);
            batch.settled.push(settlement);
        }
        if state.settled.is_empty() {
            state.is_urgent = false;
            state.since = None;
        }
        batch.is_repeated = state.uncertain > 0;
        state.uncertain = state.uncertain.saturating_sub(batch.settled.len());
        drop(state);
        keep_last(&mut batch.write.retried);
        batch
    }

    /// Whether nobody waits for anything to be written.
    pub(super) fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.new.is_empty() && state.settled.is_empty()
    }

    /// Takes nothing more. What is not written is refused, and settlements are lost: their messages come again.
    pub(super) fn close(&self) {
        let (new, settled) = {
            let mut state = self.state.lock();
            state.is_closed = true;
            (
                std::mem::take(&mut state.new),
                std::mem::take(&mut state.settled),
            )
        };
        self.give_up(new.into_iter(), settled.into_iter());
    }

    fn give_up(
        &self,
        new: impl Iterator<Item = Arc<Publication>>,
        settled: impl ExactSizeIterator<Item = Settlement>,
    ) {
        for publication in new {
            let answer = match publication.withdraw() {
                true => Refusal::Closed,
                false => Refusal::Unconfirmed {
                    why: "the bus is shut down".to_owned(),
                },
            };
            publication.answer(Err(answer));
        }
        self.count_lost(settled.len() as u64);
        settled.for_each(Settlement::lose);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;
    use crate::store::{Failures, NewRow, TakenRow};

    fn publication(places: &Arc<Semaphore>) -> Arc<Publication> {
        let content = Content::Delayed(Arc::new(NewRow::plain("{}".to_owned())));
        let place = Arc::clone(places).try_acquire_owned().unwrap();
        Publication::new(content, Some(place)).0
    }

    #[test]
    fn what_its_publisher_has_left_keeps_its_place_until_it_is_out_of_memory() {
        let places = Arc::new(Semaphore::new(2));
        let writes = Writes::new();
        for _ in 0..2 {
            let publication = publication(&places);
            assert!(publication.withdraw());
            assert!(writes.publish(publication));
        }
        // The database does not answer: nobody takes them out.
        assert_eq!(places.available_permits(), 0);
        assert!(writes.batch(true).is_empty());
        assert_eq!(places.available_permits(), 2);
        assert!(writes.publish(publication(&places)));
        writes.close();
        assert_eq!(places.available_permits(), 2);
    }

    #[test]
    fn of_several_notes_of_one_message_the_last_one_is_written() {
        let note = |position, attempts| RetriedRow {
            row: TakenRow { position, fence: 1 },
            failures: Failures {
                attempts,
                ..Failures::default()
            },
            delay: None,
        };
        let mut retried = vec![note(7, 1), note(8, 1), note(7, 2), note(7, 3), note(9, 1)];
        keep_last(&mut retried);
        let left = retried
            .iter()
            .map(|note| (note.row.position, note.failures.attempts));
        assert_eq!(left.collect::<Vec<_>>(), [(8, 1), (7, 3), (9, 1)]);
    }
}
