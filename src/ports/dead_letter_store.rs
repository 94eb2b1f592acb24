use super::{BoxFuture, DeadLetter, Filter};
use crate::message::MessageId;

/// A store that did not do as it was asked; what it was asked for may be asked again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the dead-letter store failed: {0}")]
pub(crate) struct StoreError(pub(crate) String);

/// How many dead letters were made and where they went: their own ledger (contract, rule 13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct DeadLetterLedger {
    /// Stored since the bus started.
    pub made: u64,
    /// Handed back to their queue.
    pub replayed: u64,
    /// Discarded on request.
    pub discarded: u64,
    /// Evicted, oldest first, by a full in-memory store.
    pub evicted: u64,
    /// Kept now.
    pub kept: u64,
}

/// Keeps dead letters. An answered `Ok` means kept: the original is settled after it.
pub(crate) trait DeadLetterStore: Send + Sync {
    fn add(&self, letter: DeadLetter) -> BoxFuture<'static, Result<(), StoreError>>;
    fn list(&self, filter: &Filter) -> Vec<DeadLetter>;
    fn get(&self, id: MessageId) -> Option<DeadLetter>;
    /// Takes one out for a replay; `put_back` undoes it, `replayed` completes it.
    fn claim(&self, id: MessageId) -> Option<DeadLetter>;
    fn put_back(&self, letter: DeadLetter);
    fn replayed(&self, id: MessageId);
    fn discard(&self, id: MessageId) -> bool;
    fn ledger(&self) -> DeadLetterLedger;
}
