use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::DeadLetterId;
use crate::delivery::Reason;
use crate::message::{CodecError, Envelope, Event, MessageId, SharedParcel};

/// A message given up: kept with the reason until it is replayed or discarded.
#[derive(Clone)]
pub struct DeadLetter {
    /// The dead letter's own id: one event may be given up by several queues.
    pub id: DeadLetterId,
    /// The queue that gave it up, and that a replay goes to.
    pub queue: Arc<str>,
    /// Why it was given up.
    pub reason: Reason,
    /// The last error, followed by its sources.
    pub errors: Vec<String>,
    /// How many attempts finished.
    pub attempts: u32,
    /// When the first attempt failed.
    pub first_failed_at: SystemTime,
    /// When the last attempt failed.
    pub last_failed_at: SystemTime,
    pub(crate) queue_id: u64,
    /// The delivery that was given up, as its backing names it; 0 for one that is read back.
    #[cfg_attr(
        not(any(feature = "sqlite", feature = "postgres")),
        expect(dead_code, reason = "only a store settles with it")
    )]
    pub(crate) token: u64,
    pub(crate) parcel: SharedParcel,
}

impl DeadLetter {
    /// The message's envelope: its id, topic, key and headers.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        self.parcel.envelope()
    }

    /// The message's body as JSON.
    ///
    /// # Errors
    /// When the sender's type cannot be encoded.
    pub fn json(&self) -> Result<&[u8], CodecError> {
        self.parcel.json()
    }

    pub(crate) fn announcement(&self) -> DeadLettered {
        DeadLettered {
            id: self.id,
            message: self.envelope().id,
            address: self.envelope().address().to_owned(),
            queue: self.queue.to_string(),
            reason: self.reason,
            attempts: self.attempts,
            error: self.errors.first().cloned(),
        }
    }
}

impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("id", &self.id)
            .field("message", &self.envelope().id)
            .field("queue", &self.queue)
            .field("reason", &self.reason)
            .field("attempts", &self.attempts)
            .field("errors", &self.errors)
            .finish_non_exhaustive()
    }
}

/// The event that tells of a new dead letter, on the topic `postroom.dead-lettered`.
///
/// Published without waiting. A subscriber of this event that fails makes dead letters too, but those are
/// not announced: an announcement never begets another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLettered {
    /// The dead letter, as [`DeadLetter::id`].
    pub id: DeadLetterId,
    /// The message that was given up.
    pub message: MessageId,
    /// Its topic or queue.
    pub address: String,
    /// The queue that gave it up.
    pub queue: String,
    /// Why.
    pub reason: Reason,
    /// How many attempts finished.
    pub attempts: u32,
    /// The last error.
    pub error: Option<String>,
}

impl Event for DeadLettered {
    const TOPIC: &'static str = "postroom.dead-lettered";
}

/// Which dead letters are meant; an empty filter means all of them, and all conditions must hold.
///
/// ```
/// use postroom::{Filter, Reason};
///
/// let filter = Filter::all().queue("mailer").reason(Reason::Exhausted).limit(100);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Filter {
    queue: Option<String>,
    address: Option<String>,
    reason: Option<Reason>,
    limit: Option<usize>,
}

impl Filter {
    /// All dead letters.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Only those of this queue.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// Only those that were sent to this topic or queue.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Only those given up for this reason.
    #[must_use]
    pub fn reason(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }

    /// At most this many, oldest first.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    pub(crate) fn of_queue(&self) -> Option<&str> {
        self.queue.as_deref()
    }

    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) fn of_address(&self) -> Option<&str> {
        self.address.as_deref()
    }

    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) fn of_reason(&self) -> Option<Reason> {
        self.reason
    }

    pub(crate) fn most(&self) -> usize {
        self.limit.unwrap_or(usize::MAX)
    }

    pub(crate) fn admits(&self, letter: &DeadLetter) -> bool {
        self.queue
            .as_deref()
            .is_none_or(|queue| *queue == *letter.queue)
            && self
                .address
                .as_deref()
                .is_none_or(|address| address == letter.envelope().address())
            && self.reason.is_none_or(|reason| reason == letter.reason)
    }
}
