use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::publication::{Content, Publication};
use super::queue::failures_of;
use super::shared::Shared;
use super::stored::body_of;
use crate::delivery::Reason;
use crate::message::MessageId;
use crate::ports::{
    BoxFuture, Claim, Claims, DeadLetter, DeadLetterId, DeadLetterLedger, DeadLetterSink,
    DeadLetterStore, Filter, StoreError, Wanted,
};
use crate::store::{LetterFilter, LetterRow, NewLetter, parcel_of, row_of, unreadable};

/// How many are read at once.
const PAGE: u32 = 200;

/// What this process did with dead letters.
#[derive(Default)]
pub(super) struct Ledger {
    made: AtomicU64,
    replayed: AtomicU64,
    discarded: AtomicU64,
    evicted: AtomicU64,
    /// Those that are being replayed.
    claimed: Mutex<HashSet<DeadLetterId>>,
}

impl Ledger {
    pub(super) fn count_evicted(&self, letters: u64) {
        self.evicted.fetch_add(letters, Ordering::Relaxed);
    }

    pub(super) fn count_replayed(&self) {
        self.replayed.fetch_add(1, Ordering::Relaxed);
    }
}

/// The dead letters of all queues of the store, in one of its tables.
#[derive(Clone)]
pub(super) struct StoreDeadLetters(pub(super) Weak<Shared>);

fn closed() -> StoreError {
    StoreError("the bus is shut down".to_owned())
}

impl StoreDeadLetters {
    fn shared(&self) -> Result<Arc<Shared>, StoreError> {
        self.0.upgrade().ok_or_else(closed)
    }

    fn page(&self, filter: LetterFilter) -> BoxFuture<'static, Result<Vec<LetterRow>, StoreError>> {
        let shared = self.shared();
        Box::pin(async move {
            let shared = shared?;
            let rows = shared
                .tree
                .with_session(async move |session| session.letters(&filter).await);
            Ok(rows.await?)
        })
    }
}

fn wanted(filter: &Filter) -> LetterFilter {
    LetterFilter {
        id: None,
        queue: filter.of_queue().map(str::to_owned),
        address: filter.of_address().map(str::to_owned),
        reason: filter.of_reason().map(|reason| reason.to_string()),
        after: 0,
        most: u32::try_from(filter.most()).unwrap_or(u32::MAX),
    }
}

fn letter(shared: &Shared, row: LetterRow) -> DeadLetter {
    let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    let now_ms = shared.tree.services.clock.wall_ms();
    let parcel = parcel_of(&row.message, now_ms).unwrap_or_else(|_| unreadable(&row.message));
    DeadLetter {
        // What somebody has written there by hand may have another one; it can still be discarded by SQL.
        id: row
            .id
            .parse()
            .unwrap_or_else(|_| DeadLetterId::of(MessageId::new())),
        queue: row.queue.into(),
        reason: reason_from(&row.reason),
        errors: row.failures.errors,
        attempts: row.failures.attempts,
        first_failed_at: at(row.failures.first_failed_ms),
        last_failed_at: at(row.failures.last_failed_ms),
        queue_id: 0,
        token: 0,
        parcel,
    }
}

/// What a newer version or somebody by hand has written there counts as rejected.
fn reason_from(text: &str) -> Reason {
    serde_json::from_value(text.into()).unwrap_or(Reason::Rejected)
}

impl DeadLetterSink for StoreDeadLetters {
    /// Stored, the row of its message is gone.
    fn add(&self, letter: DeadLetter) -> BoxFuture<'static, Result<(), StoreError>> {
        let shared = self.shared();
        Box::pin(async move {
            let shared = shared?;
            let gone = || StoreError("its queue was taken over by another process".to_owned());
            let queue = shared.queue(&letter.queue).ok_or_else(gone)?;
            let written = queue.bury(&letter).ok_or_else(gone)?;
            let is_done = written.await.map_err(|_| closed())?;
            queue.buried(letter.token, is_done);
            if !is_done {
                return Err(gone());
            }
            shared.letters.made.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    }
}

impl DeadLetterStore for StoreDeadLetters {
    fn list(&self, filter: &Filter) -> BoxFuture<'static, Result<Vec<DeadLetter>, StoreError>> {
        let this = self.clone();
        let mut filter = wanted(filter);
        Box::pin(async move {
            let shared = this.shared()?;
            let mut found = Vec::new();
            let mut left = filter.most;
            while left > 0 {
                filter.most = left.min(PAGE);
                let rows = this.page(filter.clone()).await?;
                let is_last = rows.len() < filter.most as usize;
                left -= filter.most;
                filter.after = rows.last().map_or(filter.after, |row| row.position);
                found.extend(rows.into_iter().map(|row| letter(&shared, row)));
                if is_last {
                    break;
                }
            }
            Ok(found)
        })
    }

    fn get(&self, id: DeadLetterId) -> BoxFuture<'static, Result<Option<DeadLetter>, StoreError>> {
        let this = self.clone();
        Box::pin(async move {
            let shared = this.shared()?;
            let filter = LetterFilter {
                id: Some(id.to_string()),
                most: 1,
                ..LetterFilter::default()
            };
            let row = this.page(filter).await?.into_iter().next();
            Ok(row.map(|row| letter(&shared, row)))
        })
    }

    fn count(&self) -> BoxFuture<'static, Result<u64, StoreError>> {
        let shared = self.shared();
        Box::pin(async move {
            let shared = shared?;
            let counted = shared
                .tree
                .with_session(async |session| session.count_letters().await);
            let (count, _) = counted.await?;
            Ok(count)
        })
    }

    fn claim(&self, wanted: Wanted) -> Box<dyn Claims> {
        Box::new(Reading {
            store: self.clone(),
            wanted,
            page: VecDeque::new(),
            left: None,
            newest: 0,
            after: 0,
        })
    }

    fn discard(&self, id: DeadLetterId) -> BoxFuture<'static, Result<bool, StoreError>> {
        let shared = self.shared();
        Box::pin(async move {
            let shared = shared?;
            let id = id.to_string();
            let gone = shared
                .tree
                .with_session(async move |session| session.discard_letter(&id).await);
            let was_there = gone.await?;
            let discarded = u64::from(was_there);
            shared
                .letters
                .discarded
                .fetch_add(discarded, Ordering::Relaxed);
            Ok(was_there)
        })
    }

    fn ledger(&self) -> DeadLetterLedger {
        let Some(shared) = self.0.upgrade() else {
            return DeadLetterLedger::default();
        };
        let letters = &shared.letters;
        let [made, replayed, discarded, evicted] = [
            &letters.made,
            &letters.replayed,
            &letters.discarded,
            &letters.evicted,
        ]
        .map(|count| count.load(Ordering::Relaxed));
        DeadLetterLedger {
            made,
            replayed,
            discarded,
            evicted,
            kept: made.saturating_sub(replayed + discarded + evicted),
        }
    }
}

/// Those of queues in memory: there is no row of a message to take their place.
pub(super) struct MemoryLetters(pub(super) Weak<Shared>);

impl DeadLetterSink for MemoryLetters {
    fn add(&self, letter: DeadLetter) -> BoxFuture<'static, Result<(), StoreError>> {
        let shared = self.0.upgrade();
        Box::pin(async move {
            let shared = shared.ok_or_else(closed)?;
            let Ok(body) = body_of(&letter.parcel) else {
                // No database can keep what cannot be encoded, and a queue in memory has never asked for that.
                return shared.tree.services.memory.dead_letters.add(letter).await;
            };
            shared.start().await;
            let now_ms = shared.tree.services.clock.wall_ms();
            let row = row_of(letter.envelope(), body, None, now_ms);
            let (id, queue) = (letter.id.to_string(), letter.queue.to_string());
            let failures = failures_of(&letter);
            let letter = NewLetter::new(id, queue, letter.reason.to_string(), failures, row);
            let (publication, wait) = Publication::new(Content::Letter(Arc::new(letter)), None);
            if !shared.writes.publish(publication) {
                return Err(closed());
            }
            // However long that takes: it is written again until that is known to be done.
            let written = wait.await.map_err(|_| closed())?;
            written.map_err(|refusal| StoreError(refusal.to_string()))?;
            shared.letters.made.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    }
}

/// Reads dead letters as they are asked for. They stay where they are. Of a durable queue a replay takes the letter away
/// as it hands the message back, and of two at once one finds nothing. Of a queue in memory it is taken away after that:
/// meanwhile nobody else of this process gets it.
struct Reading {
    store: StoreDeadLetters,
    wanted: Wanted,
    page: VecDeque<DeadLetter>,
    /// How many more; none before the first look.
    left: Option<usize>,
    /// The newest at the first look.
    newest: i64,
    after: i64,
}

impl Reading {
    async fn next_letter(&mut self) -> Result<Option<DeadLetter>, StoreError> {
        if let Wanted::One(id) = self.wanted {
            if self.left.replace(0).is_some() {
                return Ok(None);
            }
            return self.store.get(id).await;
        }
        let Wanted::All(filter) = &self.wanted else {
            return Ok(None);
        };
        let mut filter = wanted(filter);
        let shared = self.store.shared()?;
        let left = match self.left {
            Some(left) => left,
            None => {
                let newest = shared
                    .tree
                    .with_session(async |session| session.count_letters().await);
                let (_, newest) = newest.await?;
                self.newest = newest;
                filter.most as usize
            }
        };
        self.left = Some(left);
        if left == 0 {
            return Ok(None);
        }
        if self.page.is_empty() {
            filter.after = self.after;
            filter.most = filter.most.min(PAGE);
            let rows = self.store.page(filter).await?;
            self.after = rows.last().map_or(self.after, |row| row.position);
            let rows = rows.into_iter().filter(|row| row.position <= self.newest);
            self.page.extend(rows.map(|row| letter(&shared, row)));
        }
        let next = self.page.pop_front();
        self.left = Some(left - usize::from(next.is_some()));
        Ok(next)
    }
}

impl Claims for Reading {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Box<dyn Claim>>, StoreError>> {
        Box::pin(async move {
            while let Some(letter) = self.next_letter().await? {
                let shared = self.store.shared()?;
                if !shared.letters.claimed.lock().insert(letter.id) {
                    continue;
                }
                let claim = Box::new(Read { shared, letter });
                // It may have been replayed since it was read.
                if claim.is_in_memory() && self.store.get(claim.letter.id).await?.is_none() {
                    continue;
                }
                return Ok(Some(claim as Box<dyn Claim>));
            }
            Ok(None)
        })
    }
}

struct Read {
    shared: Arc<Shared>,
    letter: DeadLetter,
}

impl Read {
    /// Whether its queue is none of the store's.
    fn is_in_memory(&self) -> bool {
        self.shared.queue(&self.letter.queue).is_none()
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        self.shared.letters.claimed.lock().remove(&self.letter.id);
    }
}

impl Claim for Read {
    fn letter(&self) -> &DeadLetter {
        &self.letter
    }

    fn replayed(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        if !self.is_in_memory() {
            // It went with its message.
            return Box::pin(std::future::ready(Ok(())));
        }
        Box::pin(async move {
            let id = self.letter.id.to_string();
            let gone = self
                .shared
                .tree
                .with_session(async move |session| session.discard_letter(&id).await);
            if gone.await? {
                self.shared.letters.count_replayed();
            }
            Ok(())
        })
    }
}
