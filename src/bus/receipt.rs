use crate::broker::{Accepted, Schedule};
use crate::message::MessageId;
use crate::ports::{Bridged, Refusal};

/// What became of an accepted message.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Receipt {
    /// The message's id.
    pub id: MessageId,
    /// Over the queues of this process.
    pub local: Local,
    /// Over RabbitMQ.
    pub bridged: Bridged,
    /// For a delayed message: the handle to take it back. Nothing is accepted until it is due.
    pub schedule: Option<Schedule>,
}

/// How many local queues took a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Local {
    /// Queues that hold it now.
    pub accepted: u32,
    /// Full queues that applied their drop policy, to this message or to their oldest.
    pub dropped: u32,
}

/// A message that was not accepted, given back with the reason.
#[derive(Clone)]
pub struct PublishError<M>(Box<(Refusal, Option<M>)>);

impl<M> PublishError<M> {
    pub(super) fn new(why: Refusal, message: Option<M>) -> Self {
        Self(Box::new((why, message)))
    }

    /// Why.
    #[must_use]
    pub fn kind(&self) -> &Refusal {
        &self.0.0
    }

    /// The message. None only if it is shared by then, which no refusal of ours leaves it.
    #[must_use]
    pub fn into_message(self) -> Option<M> {
        self.0.1
    }

    /// Both.
    #[must_use]
    pub fn into_parts(self) -> (Refusal, Option<M>) {
        *self.0
    }
}

impl<M> std::fmt::Debug for PublishError<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PublishError").field(self.kind()).finish()
    }
}

impl<M> std::fmt::Display for PublishError<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.kind().fmt(f)
    }
}

impl<M> std::error::Error for PublishError<M> {}

/// Some of many messages were accepted.
#[non_exhaustive]
pub struct PublishAllError<E> {
    /// For those that were.
    pub receipts: Vec<Receipt>,
    /// Why the next was not.
    pub why: Refusal,
    /// Those that were not, the refused one first.
    pub rest: Vec<E>,
}

impl<E> std::fmt::Debug for PublishAllError<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublishAllError")
            .field("receipts", &self.receipts)
            .field("why", &self.why)
            .field("rest", &self.rest.len())
            .finish()
    }
}

impl<E> std::fmt::Display for PublishAllError<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (accepted, rest) = (self.receipts.len(), self.rest.len());
        write!(f, "{accepted} accepted, {rest} not: {}", self.why)
    }
}

impl<E> std::error::Error for PublishAllError<E> {}

#[inline]
pub(super) fn receipt(id: MessageId, accepted: Accepted) -> Receipt {
    Receipt {
        id,
        local: Local {
            accepted: accepted.accepted,
            dropped: accepted.dropped,
        },
        bridged: accepted.bridged,
        schedule: None,
    }
}
