use std::time::Duration;

use super::BoxFuture;
use crate::message::{NameError, ReplyRefusal, SharedParcel};

/// Why a message was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The mailbox of `queue` is full, and its policy or the caller does not wait.
    #[error("the mailbox of `{queue}` is full")]
    Full {
        /// The full queue.
        queue: String,
    },
    /// The mailbox of `queue` stayed full until the deadline.
    #[error("the mailbox of `{queue}` stayed full until the deadline")]
    Timeout {
        /// The full queue.
        queue: String,
    },
    /// The supervisor gave up on `queue`, and its mailbox is full.
    #[error("`{queue}` is suspended and its mailbox is full")]
    Suspended {
        /// The suspended queue.
        queue: String,
    },
    /// Nobody serves `queue` any more until it is resumed, and its mailbox is full.
    #[error("`{queue}` has ended and its mailbox is full")]
    Ended {
        /// The queue whose workers have ended.
        queue: String,
    },
    /// A command needs a queue, and there is none of this name.
    #[error("no queue is named `{queue}`")]
    NoQueue {
        /// The missing queue.
        queue: String,
    },
    /// The bus is shutting down or has stopped.
    #[error("the bus is shut down")]
    Closed,
    /// The topic, queue, key or a header is not a valid name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The encoded body is larger than the bus's limit.
    #[error("the body has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// Bytes of the body as JSON.
        size: usize,
        /// The bus's `body_limit`.
        limit: usize,
    },
    /// The headers are more than one frame of the connection to RabbitMQ carries.
    #[error("the headers have {size} bytes, the limit is {limit}")]
    HeadersTooLarge {
        /// Bytes of the headers and properties, as they are sent.
        size: usize,
        /// The frame, less what RabbitMQ may add on the way.
        limit: usize,
    },
    /// The body cannot be encoded as JSON.
    #[error("{0}")]
    Codec(String),
    /// The schedule holds as many messages as it may.
    #[error("the schedule is full: {capacity} messages wait")]
    ScheduleFull {
        /// The bus's `schedule_capacity`.
        capacity: usize,
    },
    /// An interceptor refused the message.
    #[error("refused by an interceptor: {0}")]
    Intercepted(String),
    /// The message leaves the process, or goes to a durable queue, and its confirm has to be waited for: publish it and
    /// await that.
    #[error(
        "messages to `{address}` leave the process or are stored: their confirm must be awaited"
    )]
    MustWait {
        /// The topic or the queue.
        address: String,
    },
    /// RabbitMQ was not there, or blocked publishers, until the deadline. Nothing was published.
    #[error("RabbitMQ could not be reached before the deadline: {why}")]
    Unreachable {
        /// What is wrong with the connection.
        why: String,
    },
    /// The message was written, and no confirm came before the deadline: it may have been published or not. Also an
    /// event that RabbitMQ has, and a durable queue of this process has not. Published again it is another message, unless
    /// it has the [same id](crate::Publish::id).
    #[error("no confirm came before the deadline; the message may have been published: {why}")]
    Unconfirmed {
        /// What was waited for.
        why: String,
    },
    /// The database of the store did not take the message before the deadline, or never will. Nothing was written, and
    /// RabbitMQ keeps nothing of it.
    #[error("the message was not stored for `{queue}`: {why}")]
    NotStored {
        /// The durable queue, or the first of several.
        queue: String,
        /// What is wrong with the database.
        why: String,
    },
    /// A queue on RabbitMQ is full and rejects, or failed. Another queue of the same event may have taken it.
    #[error("RabbitMQ did not take the message: {why}")]
    Nacked {
        /// What is known of it.
        why: String,
    },
    /// RabbitMQ refused the message, and closed the channel for it: the bridge's user may not publish there, or it is too
    /// large for RabbitMQ.
    #[error("RabbitMQ did not take the message: {why}")]
    Rejected {
        /// What it said.
        why: String,
    },
}

impl Refusal {
    /// Whether it may pass by itself: the same message may be accepted later. Most of these are answered at once, so wait
    /// before you publish it again, and not for ever: a database may never take it.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            // That of the call, not of the moment.
            Self::MustWait { .. } => false,
            Self::ScheduleFull { .. } => true,
            _ => self.is_of_its_target(),
        }
    }

    /// Whether the message may have been published, to all of its queues or to some. Published again, give it the
    /// [same id](crate::Publish::id).
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Self::Unconfirmed { .. } | Self::Nacked { .. })
    }

    /// Whether it says nothing of the message, but of where it goes now: it may be accepted when that has passed.
    pub(crate) fn is_of_its_target(&self) -> bool {
        matches!(
            self,
            Self::Full { .. }
                | Self::Timeout { .. }
                | Self::Suspended { .. }
                | Self::Ended { .. }
                | Self::MustWait { .. }
                | Self::Unreachable { .. }
                | Self::Unconfirmed { .. }
                | Self::NotStored { .. }
                | Self::Nacked { .. }
        )
    }
}

/// Whether a message left the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bridged {
    /// No bridge exports it.
    #[default]
    NotExported,
    /// RabbitMQ confirmed it in at least one queue.
    Routed,
    /// RabbitMQ confirmed that no queue is bound to it.
    Unrouted,
}

/// A message recorded by a handler, to be released when the handler has succeeded.
pub(crate) struct Draft {
    pub(crate) parcel: SharedParcel,
    pub(crate) delay: Option<Duration>,
    /// Its names are checked and the interceptors have seen it: once, however often it is offered.
    pub(crate) checked: bool,
}

/// The queue whose credit the releasing handler holds.
#[derive(Clone, Copy)]
pub(crate) struct Own {
    pub(crate) queue: u64,
}

/// What became of a released draft.
#[derive(Clone, Copy, Default)]
pub(crate) struct Offered {
    /// It took over the credit of the message in hand.
    pub(crate) reused_own: bool,
}

/// How a worker sends, without knowing the broker.
pub(crate) trait Outgoing: Send + Sync {
    /// Checks what will go out by another way, and shows it to the interceptors, as `offer` does.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    fn check(&self, draft: &mut Draft) -> Result<(), Refusal>;

    /// Accepts now or says why not.
    fn offer(&self, draft: &mut Draft, own: Option<Own>) -> Result<Offered, Refusal>;

    /// Accepts, waiting up to `patience` for full mailboxes.
    fn offer_waiting<'a>(
        &'a self,
        draft: &'a mut Draft,
        own: Option<Own>,
        patience: Duration,
    ) -> BoxFuture<'a, Result<Offered, Refusal>>;

    /// Sends at once what waits for a reply. `from` is the queue whose worker asks.
    fn send_request(
        &self,
        parcel: SharedParcel,
        patience: Duration,
        from: Own,
    ) -> BoxFuture<'_, Result<(), Refusal>>;

    /// Whether only the asking worker serves the queue of this name.
    fn serves_alone(&self, queue: &str, from: Own) -> bool;
}

/// Why a request has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No reply came before the deadline. The command may still be handled; its reply is then late.
    #[error("no reply from `{queue}` before the deadline")]
    Timeout {
        /// The command's queue.
        queue: String,
    },
    /// Every attempt failed, or the handler rejected the command: it is a dead letter.
    #[error("the command to `{queue}` became a dead letter")]
    DeadLettered {
        /// The command's queue.
        queue: String,
    },
    /// The handler discarded the command, a full queue dropped it, or it was purged.
    #[error("the command to `{queue}` was discarded")]
    Discarded {
        /// The command's queue.
        queue: String,
    },
    /// The command expired before it was handed over.
    #[error("the command to `{queue}` expired")]
    Expired {
        /// The command's queue.
        queue: String,
    },
    /// No queue has this name.
    #[error("no queue is named `{queue}`")]
    NoQueue {
        /// The missing queue.
        queue: String,
    },
    /// The queue stayed full.
    #[error("the mailbox of `{queue}` is full")]
    Full {
        /// The full queue.
        queue: String,
    },
    /// The queue was closed with the command in it: the reply can not come any more.
    #[error("the reply path from `{queue}` is lost")]
    ReplyPathLost {
        /// The command's queue.
        queue: String,
    },
    /// The reply is not what the command's reply type can read.
    #[error("the reply from `{queue}` cannot be decoded")]
    Undecodable {
        /// The command's queue.
        queue: String,
    },
    /// The asked queue is served by nobody but the asking worker.
    #[error("waiting here for `{queue}` would wait for itself")]
    WouldDeadlock {
        /// The handler's own queue.
        queue: String,
    },
    /// The command was not accepted.
    #[error(transparent)]
    Refused(Refusal),
}

impl RequestError {
    pub(crate) fn refused(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoQueue { queue } => Self::NoQueue { queue },
            Refusal::Full { queue }
            | Refusal::Timeout { queue }
            | Refusal::Suspended { queue }
            | Refusal::Ended { queue } => Self::Full { queue },
            other => Self::Refused(other),
        }
    }

    pub(crate) fn without_reply(why: ReplyRefusal, queue: &str) -> Self {
        let queue = queue.to_owned();
        match why {
            ReplyRefusal::DeadLettered => Self::DeadLettered { queue },
            ReplyRefusal::Discarded => Self::Discarded { queue },
            ReplyRefusal::Expired => Self::Expired { queue },
            ReplyRefusal::Abandoned => Self::ReplyPathLost { queue },
            ReplyRefusal::Undecodable => Self::Undecodable { queue },
        }
    }
}
