use super::{BoxFuture, DeadLetter, DeadLetterId, Filter};

/// Where dead letters or delayed messages are kept did not answer, or not in time. What it was asked for may be asked again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store of messages failed: {0}")]
pub struct StoreError(pub(crate) String);

/// How many dead letters were made and where they went: their own ledger (contract, rule 13), as this process
/// has counted it.
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
    /// Kept now, of those that this process made. What other processes make, replay or discard on RabbitMQ is
    /// not in it: [`DeadLetters::len`](crate::DeadLetters::len) asks.
    pub kept: u64,
}

impl std::ops::AddAssign for DeadLetterLedger {
    fn add_assign(&mut self, other: Self) {
        self.made += other.made;
        self.replayed += other.replayed;
        self.discarded += other.discarded;
        self.evicted += other.evicted;
        self.kept += other.kept;
    }
}

/// Where a queue puts its dead letters, which may take a way outside of the process.
pub(crate) trait DeadLetterSink: Send + Sync {
    /// An answered `Ok` means kept: the original is settled after it.
    fn add(&self, letter: DeadLetter) -> BoxFuture<'static, Result<(), StoreError>>;
}

/// Keeps dead letters. What it is asked for may take a way outside of the process.
pub(crate) trait DeadLetterStore: Send + Sync {
    /// Oldest first.
    fn list(&self, filter: &Filter) -> BoxFuture<'static, Result<Vec<DeadLetter>, StoreError>>;
    fn get(&self, id: DeadLetterId) -> BoxFuture<'static, Result<Option<DeadLetter>, StoreError>>;
    fn count(&self) -> BoxFuture<'static, Result<u64, StoreError>>;
    /// Takes some out for a replay, one after another as they are asked for.
    fn claim(&self, wanted: Wanted) -> Box<dyn Claims>;
    /// Whether it was there.
    fn discard(&self, id: DeadLetterId) -> BoxFuture<'static, Result<bool, StoreError>>;
    fn ledger(&self) -> DeadLetterLedger;
}

/// Which dead letters are to be claimed.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    One(DeadLetterId),
    All(Filter),
}

#[cfg(feature = "amqp")]
impl Wanted {
    pub(crate) fn admits(&self, letter: &DeadLetter) -> bool {
        match self {
            Self::One(id) => letter.id == *id,
            Self::All(filter) => filter.admits(letter),
        }
    }

    pub(crate) fn most(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::All(filter) => filter.most(),
        }
    }
}

/// Dead letters that are taken out, oldest first: those that are there at the first call, and none that comes
/// meanwhile.
pub(crate) trait Claims: Send {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Box<dyn Claim>>, StoreError>>;
}

/// A dead letter that nobody else gets meanwhile. Dropped, it stays where it stood.
pub(crate) trait Claim: Send {
    fn letter(&self) -> &DeadLetter;
    /// Its queue has it: it is gone from here.
    fn replayed(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>>;
}
