use std::fmt;
use std::time::{Duration, SystemTime};

use super::{MessageId, Metadata, Name};

/// Whether an address is a topic (events) or a queue (commands).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressKind {
    /// Any number of receivers.
    Topic,
    /// One receiver.
    Queue,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) kind: AddressKind,
    pub(crate) name: Name,
}

/// What accompanies a message: who it is, where it goes, what it follows from.
///
/// Small on purpose: what most messages do not carry is kept apart and allocated only when set.
#[derive(Clone)]
pub struct Envelope {
    pub(crate) id: MessageId,
    pub(crate) address: Address,
    pub(crate) metadata: Option<Box<Metadata>>,
}

impl Envelope {
    /// The message's identity: stable over every redelivery and replay.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Whether the address is a topic or a queue.
    #[must_use]
    pub fn kind(&self) -> AddressKind {
        self.address.kind
    }

    /// The topic or the queue's name.
    #[must_use]
    pub fn address(&self) -> &str {
        self.address.name.as_str()
    }

    /// When the message was published, in whole milliseconds of the publisher's clock. The id has it; of a
    /// message of another system, whose id may not, it is what that system said, in seconds, or else when
    /// the message arrived.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        let told = self.metadata.as_ref().and_then(|metadata| metadata.time_ms);
        SystemTime::UNIX_EPOCH + Duration::from_millis(told.unwrap_or(self.id.millis()))
    }

    /// The conversation that the message belongs to: what was set by the publisher, or else the message's own id.
    #[must_use]
    pub fn correlation_id(&self) -> String {
        self.metadata
            .as_ref()
            .and_then(|metadata| metadata.correlation.as_ref())
            .map_or_else(|| self.id.to_string(), ToString::to_string)
    }

    /// The message during whose handling this one was sent.
    #[must_use]
    pub fn causation_id(&self) -> Option<MessageId> {
        self.metadata
            .as_ref()
            .and_then(|metadata| metadata.causation)
    }

    /// The ordering key, when the publisher gave one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.metadata
            .as_ref()
            .and_then(|metadata| metadata.key.as_deref())
    }

    /// After this moment the message is not handed to a handler any more.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_ms()
            .map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
    }

    #[inline]
    pub(crate) fn expires_ms(&self) -> Option<u64> {
        self.metadata
            .as_ref()
            .and_then(|metadata| metadata.expires_ms)
    }

    /// The W3C trace context that the message carries.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.metadata
            .as_ref()
            .and_then(|metadata| metadata.traceparent.as_deref())
    }

    /// A user header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// All user headers, in the order in which they were set.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.metadata
            .iter()
            .flat_map(|metadata| &metadata.headers)
            .map(|(name, value)| (&**name, &**value))
    }

    #[inline]
    pub(crate) fn expects_reply(&self) -> bool {
        self.metadata
            .as_ref()
            .is_some_and(|metadata| metadata.reply.is_some())
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("id", &self.id)
            .field("address", &self.address())
            .field("key", &self.key())
            .finish_non_exhaustive()
    }
}
