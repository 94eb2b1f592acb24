use super::Bus;
use crate::broker::DeadLetterSource;
use crate::ports::{
    Claim, DeadLetter, DeadLetterId, DeadLetterLedger, Filter, Refusal, StoreError, Wanted,
};

/// The messages that queues gave up: to look at, hand back, or throw away. Had from
/// [`Bus::dead_letters`](crate::Bus::dead_letters).
///
/// One of our own events, [`DeadLettered`](crate::DeadLettered), tells of each.
///
/// **A queue in memory** keeps them in memory, up to the bus's `dead_letter_capacity`; then the oldest is
/// evicted, and counted in the [`ledger`](Self::ledger). Nothing here waits for them, and none of it fails.
///
/// **With a store** those of all its queues, durable or in memory, are rows of one of its tables, whichever process made
/// them, up to the bound of [`Durable::dead_letters`](crate::Durable::dead_letters). The message is settled when its row is
/// committed. The database may be down, so all of it may fail. In memory stay those of subscribers to the bus's own events, and those whose message cannot be encoded.
///
/// **A queue on RabbitMQ** keeps them there, in `{service}.{group}.dead`, until they are replayed or discarded:
/// those of all replicas, those of earlier processes, and those that RabbitMQ gave up by itself. They are seen
/// for the queues that this process has subscribed, and, by [`Filter::queue`], for any other one of this service, whose
/// letters are found by their id from then on. To look at them takes them off that queue and puts them back where they were. While one process looks,
/// another does not see what it holds; nothing is lost by that, however it ends. RabbitMQ may be down, so all of it may fail
/// with a [`StoreError`], within 30 seconds.
///
/// ```
/// # async fn after_the_outage(bus: &postroom::Bus) -> Result<(), Box<dyn std::error::Error>> {
/// use postroom::{Filter, Reason};
///
/// let letters = bus.dead_letters();
/// for letter in letters.list(&Filter::all().queue("mailer").limit(10)).await? {
///     println!("{} after {} attempts: {:?}", letter.reason, letter.attempts, letter.errors);
/// }
/// let done = letters.replay_all(&Filter::all().reason(Reason::Exhausted)).await?;
/// for (letter, why) in &done.refused {
///     println!("{letter} is still there: {why}");
/// }
/// println!("{} replayed", done.replayed);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct DeadLetters(pub(super) Bus);

/// Why a dead letter was not handed back; it is still there, unless it was not found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// Replayed, discarded or evicted by now; or another process looks at it just now.
    #[error("no dead letter has the id {0}")]
    NotFound(DeadLetterId),
    /// The queue that gave it up is gone.
    #[error("the queue `{0}` does not exist any more")]
    NoQueue(String),
    /// The queue did not take it. After [`Refusal::Unconfirmed`] it may have it nevertheless.
    #[error(transparent)]
    Refused(Refusal),
    /// Where it is kept cannot be asked now.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its queue has it, and where it was kept does not answer: it may still be there too.
    #[error("the message was handed back, but its dead letter may still be kept: {0}")]
    Kept(StoreError),
}

/// What became of the dead letters that were to be replayed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "those that were refused are still dead letters"]
#[non_exhaustive]
pub struct Replayed {
    /// How many their queues have taken.
    pub replayed: usize,
    /// Those that their queues did not take, in the order in which they were asked, no more in all than the filter's limit: they
    /// are still there, as [`ReplayError`] says.
    pub refused: Vec<(DeadLetterId, ReplayError)>,
}

/// A replay of many that ended before its end: the next one would have failed too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the replay ended after {} dead letters", done.replayed)]
#[non_exhaustive]
pub struct ReplayAllError {
    /// What had been done by then. Those that it does not tell of were not tried, but for the one that failed.
    pub done: Replayed,
    /// The one that failed; none: the next one could not be looked for. Its queue may have it, as `why` says.
    pub failed: Option<DeadLetterId>,
    /// Why it ended.
    #[source]
    pub why: ReplayError,
}

impl DeadLetters {
    fn sources(&self, queue: Option<&str>) -> Vec<DeadLetterSource> {
        self.0.0.broker.dead_letter_sources(queue)
    }

    /// Those that the filter admits, oldest first; of each queue on RabbitMQ no more than 1,000, unless the
    /// filter has a limit of its own. Messages in memory are shared, not copied.
    ///
    /// # Errors
    /// When one of the stores that are concerned cannot be asked. A filter for a queue in memory concerns no
    /// other.
    ///
    /// # Cancel safety
    /// Dropped, everything stays where it was.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<DeadLetter>, StoreError> {
        let mut letters = Vec::new();
        let mut stores = 0;
        for source in self.sources(filter.of_queue()) {
            let some = source.store.list(filter).await?;
            stores += u32::from(!some.is_empty());
            letters.extend(some);
        }
        if stores > 1 {
            letters.sort_by_key(|letter| letter.last_failed_at);
            letters.truncate(filter.most());
        }
        Ok(letters)
    }

    /// One of them, by [`DeadLetter::id`] (not by the id of its message).
    ///
    /// # Errors
    /// When it is not in those stores that answer, and one does not.
    ///
    /// # Cancel safety
    /// Safe: it only reads. From RabbitMQ a letter is taken out to be looked at, and put back however this ends.
    pub async fn get(&self, id: DeadLetterId) -> Result<Option<DeadLetter>, StoreError> {
        let mut failed = None;
        for source in self.sources(None) {
            match source.store.get(id).await {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// How many are kept.
    ///
    /// # Errors
    /// When one of the stores cannot be asked.
    pub async fn len(&self) -> Result<usize, StoreError> {
        let mut kept = 0;
        for source in self.sources(None) {
            kept += source.store.count().await?;
        }
        Ok(usize::try_from(kept).unwrap_or(usize::MAX))
    }

    /// Whether none is kept.
    ///
    /// # Errors
    /// As [`len`](Self::len).
    pub async fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.len().await? == 0)
    }

    /// How many this process made, and where they went. Asks nobody.
    #[must_use]
    pub fn ledger(&self) -> DeadLetterLedger {
        self.0.0.broker.dead_letter_ledger()
    }

    /// Hands a dead letter back to the queue that gave it up, and to no other: the same message id, attempts
    /// from 1, behind what is queued. An expiry still stands. Waits for room, or for RabbitMQ's confirm, up to
    /// the publish timeout.
    ///
    /// The message is in its queue before the dead letter is gone. On RabbitMQ, and for a queue in memory whose dead
    /// letters are in a store, what happens in between (a crash, a lost connection, another process that replays the same
    /// one) leaves both: the message may then be handled twice, and is not lost. A durable queue takes it in the
    /// transaction that deletes the dead letter.
    ///
    /// # Errors
    /// The dead letter is kept when its queue does not take it, see [`ReplayError`].
    ///
    /// # Cancel safety
    /// Dropped while it waits for room, the dead letter is kept. Dropped while it waits for RabbitMQ, it is kept
    /// too, and may have been handed back.
    pub async fn replay(&self, id: DeadLetterId) -> Result<(), ReplayError> {
        let mut failed = None;
        for source in self.sources(None) {
            match source.store.claim(Wanted::One(id)).next().await {
                Ok(Some(claim)) => return self.hand_back(&source, claim).await,
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.map_or(ReplayError::NotFound(id), ReplayError::Store))
    }

    /// Replays all that the filter admits now, one after another, each as by [`replay`](Self::replay). One that its queue
    /// refuses stays, is told of in the answer, and the next one is tried. Each may wait for room.
    ///
    /// # Errors
    /// Ends at the first failure of a store, or of the connection to RabbitMQ, and when the bus has closed. The error tells
    /// what was done before it. Those replayed stay replayed.
    ///
    /// # Cancel safety
    /// Dropped, those replayed so far stay replayed and the others are kept.
    pub async fn replay_all(&self, filter: &Filter) -> Result<Replayed, ReplayAllError> {
        let mut done = Replayed::default();
        match self.replay_each(filter, &mut done).await {
            Ok(()) => Ok(done),
            Err((failed, why)) => Err(ReplayAllError { done, failed, why }),
        }
    }

    async fn replay_each(
        &self,
        filter: &Filter,
        done: &mut Replayed,
    ) -> Result<(), (Option<DeadLetterId>, ReplayError)> {
        for source in self.sources(filter.of_queue()) {
            let tried = done.replayed + done.refused.len();
            let rest = filter.clone().limit(filter.most().saturating_sub(tried));
            let mut claims = source.store.claim(Wanted::All(rest));
            while let Some(claim) = claims.next().await.map_err(|error| (None, error.into()))? {
                let id = claim.letter().id;
                match self.hand_back(&source, claim).await {
                    Ok(()) => done.replayed += 1,
                    Err(error) if ends_all(&error) => return Err((Some(id), error)),
                    Err(error) => done.refused.push((id, error)),
                }
            }
        }
        Ok(())
    }

    /// Throws one away. False: it was not there.
    ///
    /// # Errors
    /// When it is not in those stores that answer, and one does not.
    ///
    /// # Cancel safety
    /// Dropped before its end, it may be gone or not; it can be asked again.
    pub async fn discard(&self, id: DeadLetterId) -> Result<bool, StoreError> {
        let mut failed = None;
        for source in self.sources(None) {
            match source.store.discard(id).await {
                Ok(false) => {}
                Ok(true) => return Ok(true),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(false), Err)
    }

    /// Its queue has it before it is gone from where it is kept; until then it is put back however this ends.
    async fn hand_back(
        &self,
        source: &DeadLetterSource,
        claim: Box<dyn Claim>,
    ) -> Result<(), ReplayError> {
        let inner = &self.0.0;
        let queue = claim.letter().queue.to_string();
        let patience = inner.defaults.publish_timeout;
        let handed = inner.broker.hand_back(source, &*claim, patience);
        handed.await.map_err(|refusal| match refusal {
            Refusal::NoQueue { .. } => ReplayError::NoQueue(queue),
            other => ReplayError::Refused(other),
        })?;
        claim.replayed().await.map_err(ReplayError::Kept)
    }
}

/// Whether the next one would fail too, after a wait of its own.
fn ends_all(error: &ReplayError) -> bool {
    let ReplayError::Refused(refusal) = error else {
        return matches!(error, ReplayError::Store(_) | ReplayError::Kept(_));
    };
    matches!(
        refusal,
        Refusal::Closed
            | Refusal::Unreachable { .. }
            | Refusal::Unconfirmed { .. }
            | Refusal::NotStored { .. }
    )
}

impl std::fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetters")
            .field("ledger", &self.ledger())
            .finish()
    }
}
