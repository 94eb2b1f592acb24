use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;

use crate::message::MessageId;
use crate::ports::{BoxFuture, DeadLetter, DeadLetterLedger, DeadLetterStore, Filter, StoreError};

/// Dead letters in this process's memory: bounded, the oldest evicted and counted when full.
pub(crate) struct MemoryDeadLetters {
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By arrival: ids of one bus are not in order over its threads.
    letters: BTreeMap<u64, DeadLetter>,
    index: HashMap<MessageId, u64>,
    /// The places of letters that are being replayed: one that is put back stands where it stood.
    claimed: HashMap<MessageId, u64>,
    next: u64,
    ledger: DeadLetterLedger,
}

impl MemoryDeadLetters {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            state: Mutex::default(),
        }
    }
}

impl State {
    fn insert(&mut self, letter: DeadLetter) {
        let at = self.claimed.remove(&letter.id).unwrap_or(self.next);
        self.next = self.next.max(at + 1);
        self.index.insert(letter.id, at);
        self.letters.insert(at, letter);
    }

    fn remove(&mut self, id: MessageId) -> Option<DeadLetter> {
        let at = self.index.remove(&id)?;
        self.letters.remove(&at)
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

impl DeadLetterStore for MemoryDeadLetters {
    fn add(&self, letter: DeadLetter) -> BoxFuture<'static, Result<(), StoreError>> {
        let evicted = {
            let mut state = self.state.lock();
            state.ledger.made += 1;
            state.insert(letter);
            state.evict(self.capacity)
        };
        drop(evicted);
        Box::pin(std::future::ready(Ok(())))
    }

    fn list(&self, filter: &Filter) -> Vec<DeadLetter> {
        let state = self.state.lock();
        let admitted = state
            .letters
            .values()
            .filter(|letter| filter.admits(letter));
        admitted.take(filter.most()).cloned().collect()
    }

    fn get(&self, id: MessageId) -> Option<DeadLetter> {
        let state = self.state.lock();
        state
            .index
            .get(&id)
            .and_then(|at| state.letters.get(at))
            .cloned()
    }

    fn claim(&self, id: MessageId) -> Option<DeadLetter> {
        let mut state = self.state.lock();
        let at = state.index.get(&id).copied()?;
        state.claimed.insert(id, at);
        state.remove(id)
    }

    fn put_back(&self, letter: DeadLetter) {
        let evicted = {
            let mut state = self.state.lock();
            state.insert(letter);
            state.evict(self.capacity)
        };
        drop(evicted);
    }

    fn replayed(&self, id: MessageId) {
        let mut state = self.state.lock();
        state.claimed.remove(&id);
        state.ledger.replayed += 1;
    }

    fn discard(&self, id: MessageId) -> bool {
        let letter = {
            let mut state = self.state.lock();
            let letter = state.remove(id);
            state.ledger.discarded += u64::from(letter.is_some());
            letter
        };
        letter.is_some()
    }

    fn ledger(&self) -> DeadLetterLedger {
        let state = self.state.lock();
        DeadLetterLedger {
            kept: state.letters.len() as u64,
            ..state.ledger
        }
    }
}
