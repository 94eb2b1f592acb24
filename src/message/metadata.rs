use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::MessageId;

/// The conversation a message belongs to: one of our ids, or what another system chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CorrelationId {
    Message(MessageId),
    Other(Arc<str>),
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(id) => id.fmt(f),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// What most messages do not carry.
#[derive(Clone, Default)]
pub(crate) struct Metadata {
    pub(crate) key: Option<Arc<str>>,
    pub(crate) expires_ms: Option<u64>,
    /// When it was sent, for a message of another system whose id does not tell.
    pub(crate) time_ms: Option<u64>,
    pub(crate) correlation: Option<CorrelationId>,
    pub(crate) causation: Option<MessageId>,
    pub(crate) traceparent: Option<Box<str>>,
    pub(crate) headers: Vec<(Box<str>, Box<str>)>,
    pub(crate) reply: Option<Arc<dyn ReplyPort>>,
}

impl Metadata {
    /// It is not handed over later than `time` after `now_ms`.
    pub(crate) fn expire_in(&mut self, now_ms: u64, time: Duration) {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.expires_ms = Some(now_ms.saturating_add(time));
    }
}

/// Why a request will not be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyRefusal {
    DeadLettered,
    Discarded,
    Expired,
    Abandoned,
    /// The reply is not what the requester's type can read.
    Undecodable,
}

/// Where the reply to a request goes.
pub(crate) trait ReplyPort: Send + Sync {
    /// The waiting requester's cell, for the typed way.
    fn cell(&self) -> &dyn Any;
    /// The encoded way, for a handler with a reply type of its own. False: nobody waits any more.
    fn reply_json(&self, body: &[u8]) -> bool;
    /// Whether the requester still waits.
    #[cfg(any(feature = "amqp", feature = "sqlite", feature = "postgres"))]
    fn is_awaited(&self) -> bool;
    /// Tells the requester that no reply will come.
    fn refuse(&self, why: ReplyRefusal);
}
