use super::Bus;
use crate::broker::Gate;
use crate::message::MessageId;
use crate::ports::Refusal;
use crate::ports::{DeadLetter, DeadLetterLedger, Filter};

/// The messages that queues gave up: to look at, hand back, or throw away. Had from
/// [`Bus::dead_letters`](crate::Bus::dead_letters).
///
/// Kept in memory, up to the bus's `dead_letter_capacity`; then the oldest is evicted, and counted in the
/// [`ledger`](Self::ledger). One of our own events, [`DeadLettered`](crate::DeadLettered), tells of each.
///
/// ```
/// # async fn after_the_outage(bus: &postroom::Bus) {
/// use postroom::{Filter, Reason};
///
/// let letters = bus.dead_letters();
/// for letter in letters.list(&Filter::all().queue("mailer").limit(10)) {
///     println!("{} after {} attempts: {:?}", letter.reason, letter.attempts, letter.errors);
/// }
/// let replayed = letters.replay_all(&Filter::all().reason(Reason::Exhausted)).await;
/// # let _ = replayed; }
/// ```
#[derive(Clone)]
pub struct DeadLetters(pub(super) Bus);

/// Why a dead letter was not handed back; it is still there, unless it was not found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// Replayed, discarded or evicted by now.
    #[error("no dead letter has the id {0}")]
    NotFound(MessageId),
    /// The queue that gave it up is gone.
    #[error("the queue `{0}` does not exist any more")]
    NoQueue(String),
    /// The queue did not take it.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl DeadLetters {
    fn store(&self) -> &dyn crate::ports::DeadLetterStore {
        &*self.0.0.broker.services.dead_letters
    }

    /// Those that the filter admits, oldest first. Their messages are shared, not copied.
    #[must_use]
    pub fn list(&self, filter: &Filter) -> Vec<DeadLetter> {
        self.store().list(filter)
    }

    /// One of them, by [`DeadLetter::id`] (not by the id of its message).
    #[must_use]
    pub fn get(&self, id: MessageId) -> Option<DeadLetter> {
        self.store().get(id)
    }

    /// How many are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.ledger().kept).unwrap_or(usize::MAX)
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many were made and where they went.
    #[must_use]
    pub fn ledger(&self) -> DeadLetterLedger {
        self.store().ledger()
    }

    /// Hands a dead letter back to the queue that gave it up, and to no other: the same message id, attempts
    /// from 1, behind what is queued. An expiry still stands. Waits for room up to the publish timeout.
    ///
    /// # Errors
    /// The dead letter is kept when its queue does not take it.
    ///
    /// # Cancel safety
    /// Dropped while it waits for room, the dead letter is kept.
    pub async fn replay(&self, id: MessageId) -> Result<(), ReplayError> {
        let inner = &self.0.0;
        let broker = &inner.broker;
        let claimed = self.store().claim(id).ok_or(ReplayError::NotFound(id))?;
        // Puts it back however this ends, until it was accepted.
        let mut claim = Claim {
            letters: self,
            letter: Some(claimed),
        };
        let Some(letter) = &claim.letter else {
            return Err(ReplayError::NotFound(id));
        };
        let queue = broker
            .table
            .queue(letter.queue_id)
            .or_else(|| broker.table.queue_named(&letter.queue))
            .ok_or_else(|| ReplayError::NoQueue(letter.queue.to_string()))?;
        let parcel = std::sync::Arc::clone(&letter.parcel);
        broker
            .accept_at(&queue, parcel, inner.defaults.publish_timeout, Gate::Open)
            .await?;
        claim.letter = None;
        self.store().replayed(id);
        Ok(())
    }

    /// Replays all that the filter admits now, one after another; answers how many were. What is refused
    /// stays. Each may wait for room as [`replay`](Self::replay) does.
    ///
    /// # Cancel safety
    /// Dropped, those replayed so far stay replayed and the others are kept.
    pub async fn replay_all(&self, filter: &Filter) -> usize {
        let mut replayed = 0;
        for letter in self.list(filter) {
            replayed += usize::from(self.replay(letter.id).await.is_ok());
        }
        replayed
    }

    /// Throws one away. False: it was not there.
    pub fn discard(&self, id: MessageId) -> bool {
        self.store().discard(id)
    }
}

struct Claim<'a> {
    letters: &'a DeadLetters,
    letter: Option<DeadLetter>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(letter) = self.letter.take() {
            self.letters.store().put_back(letter);
        }
    }
}

impl std::fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetters")
            .field("ledger", &self.ledger())
            .finish()
    }
}
