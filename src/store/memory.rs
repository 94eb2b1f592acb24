use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::ports::{
    BoxFuture, Claim, Claims, DeadLetter, DeadLetterId, DeadLetterLedger, DeadLetterSink,
    DeadLetterStore, Filter, StoreError, Wanted, drop_caught,
};

/// Dead letters in this process's memory: bounded, the oldest evicted and counted when full.
pub(crate) struct MemoryDeadLetters(Arc<Shelf>);

struct Shelf {
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By arrival: ids of one bus are not in order over its threads.
    letters: BTreeMap<u64, DeadLetter>,
    index: HashMap<DeadLetterId, u64>,
    next: u64,
    ledger: DeadLetterLedger,
}

impl MemoryDeadLetters {
    pub(crate) fn new(capacity: usize) -> Self {
        Self(Arc::new(Shelf {
            capacity: capacity.max(1),
            state: Mutex::default(),
        }))
    }
}

impl State {
    fn insert(&mut self, at: u64, letter: DeadLetter) {
        self.index.insert(letter.id, at);
        self.letters.insert(at, letter);
    }

    fn remove(&mut self, id: DeadLetterId) -> Option<(u64, DeadLetter)> {
        let at = self.index.remove(&id)?;
        Some((at, self.letters.remove(&at)?))
    }

    /// The evicted letters are returned, to be dropped outside the lock: they hold the user's values.
    fn evict(&mut self, capacity: usize) -> Vec<DeadLetter> {
        let mut evicted = Vec::new();
        while self.letters.len() > capacity {
            if let Some((_, letter)) = self.letters.pop_first() {
                self.index.remove(&letter.id);
                self.ledger.evicted += 1;
                evicted.push(letter);
            }
        }
        evicted
    }
}

impl Shelf {
    fn list(&self, filter: &Filter) -> Vec<DeadLetter> {
        let state = self.state.lock();
        let letters = state.letters.values();
        let admitted = letters.filter(|letter| filter.admits(letter));
        admitted.take(filter.most()).cloned().collect()
    }

    /// One that is put back stands where it stood.
    fn put_back(&self, at: u64, letter: DeadLetter) {
        let evicted = {
            let mut state = self.state.lock();
            state.insert(at, letter);
            state.evict(self.capacity)
        };
        drop_caught("a dead letter", evicted);
    }
}

fn answered<T: Send + 'static>(answer: T) -> BoxFuture<'static, Result<T, StoreError>> {
    Box::pin(std::future::ready(Ok(answer)))
}

impl DeadLetterSink for MemoryDeadLetters {
    fn add(&self, letter: DeadLetter) -> BoxFuture<'static, Result<(), StoreError>> {
        let evicted = {
            let mut state = self.0.state.lock();
            state.ledger.made += 1;
            let at = state.next;
            state.next += 1;
            state.insert(at, letter);
            state.evict(self.0.capacity)
        };
        drop_caught("a dead letter", evicted);
        answered(())
    }
}

impl DeadLetterStore for MemoryDeadLetters {
    fn list(&self, filter: &Filter) -> BoxFuture<'static, Result<Vec<DeadLetter>, StoreError>> {
        answered(self.0.list(filter))
    }

    fn get(&self, id: DeadLetterId) -> BoxFuture<'static, Result<Option<DeadLetter>, StoreError>> {
        let state = self.0.state.lock();
        let at = state.index.get(&id);
        answered(at.and_then(|at| state.letters.get(at)).cloned())
    }

    fn count(&self) -> BoxFuture<'static, Result<u64, StoreError>> {
        answered(self.0.state.lock().letters.len() as u64)
    }

    fn claim(&self, wanted: Wanted) -> Box<dyn Claims> {
        let wanted = match wanted {
            Wanted::One(id) => VecDeque::from([id]),
            Wanted::All(filter) => self.0.list(&filter).iter().map(|one| one.id).collect(),
        };
        let shelf = Arc::clone(&self.0);
        Box::new(Listed { shelf, wanted })
    }

    fn discard(&self, id: DeadLetterId) -> BoxFuture<'static, Result<bool, StoreError>> {
        let discarded = {
            let mut state = self.0.state.lock();
            let letter = state.remove(id);
            state.ledger.discarded += u64::from(letter.is_some());
            letter
        };
        answered(discarded.is_some())
    }

    fn ledger(&self) -> DeadLetterLedger {
        let state = self.0.state.lock();
        DeadLetterLedger {
            kept: state.letters.len() as u64,
            ..state.ledger
        }
    }
}

/// Ids that were there; some may be gone when their turn comes.
struct Listed {
    shelf: Arc<Shelf>,
    wanted: VecDeque<DeadLetterId>,
}

impl Claims for Listed {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Box<dyn Claim>>, StoreError>> {
        while let Some(id) = self.wanted.pop_front() {
            let taken = self.shelf.state.lock().remove(id);
            if taken.is_some() {
                let shelf = Arc::clone(&self.shelf);
                return answered(Some(Box::new(Taken { shelf, taken })));
            }
        }
        answered(None)
    }
}

struct Taken {
    shelf: Arc<Shelf>,
    taken: Option<(u64, DeadLetter)>,
}

impl Claim for Taken {
    fn letter(&self) -> &DeadLetter {
        match &self.taken {
            Some((_, letter)) => letter,
            None => unreachable!("it is taken out only at its end"),
        }
    }

    fn replayed(mut self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        self.shelf.state.lock().ledger.replayed += 1;
        drop(self.taken.take());
        answered(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some((at, letter)) = self.taken.take() {
            self.shelf.put_back(at, letter);
        }
    }
}
