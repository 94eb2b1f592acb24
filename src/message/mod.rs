//! What is sent: typed messages, their envelope, their names and their bytes.
//!
//! This room imports nothing of ours.

mod envelope;
mod id;
mod metadata;
mod name;
mod parcel;
mod pattern;
mod raw;
#[cfg(feature = "amqp")]
mod relation;
mod reply;

use std::borrow::Cow;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use envelope::Address;
pub use envelope::{AddressKind, Envelope};
pub(crate) use id::coarse_now_ms;
pub use id::{MessageId, ParseIdError};
pub(crate) use metadata::{CorrelationId, Metadata, ReplyPort, ReplyRefusal};
pub use name::NameError;
pub(crate) use name::{Name, validate_header, validate_key, validate_queue, validate_topic};
#[cfg(feature = "amqp")]
pub(crate) use name::{validate_length, validate_part};
pub use parcel::CodecError;
#[cfg(feature = "amqp")]
pub(crate) use parcel::SharedBytes;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use parcel::received;
pub(crate) use parcel::{
    Held, Parcel, Payload, Plain, Recoverable, SharedParcel, Spent, encoded, parcel,
};
pub use pattern::Pattern;
#[cfg(test)]
pub(crate) use pattern::tests::words as pattern_words;
pub use raw::{RawBody, RawMessage};
#[cfg(feature = "amqp")]
pub(crate) use relation::Relation;
pub(crate) use reply::{EncodedReply, Reply, ReplyCell, TypedReply};

/// Something that happened, told to any number of receivers.
///
/// The topic is the message's stable wire name: dot-separated words, at most 255 bytes, without the
/// wildcards `*` and `#`. A breaking change of the type gets a new topic.
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct OrderPaid { order: u64 }
/// impl postroom::Event for OrderPaid { const TOPIC: &'static str = "ordering.order-paid"; }
/// ```
///
/// One whose order matters says of what, so that no place that publishes it can forget it:
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct OrderPaid { order: u64 }
/// use std::borrow::Cow;
///
/// impl postroom::Event for OrderPaid {
///     const TOPIC: &'static str = "ordering.order-paid";
///
///     fn key(&self) -> Option<Cow<'_, str>> {
///         Some(self.order.to_string().into()) // a text of its own: `Some(self.user.as_str().into())`
///     }
/// }
/// ```
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Where the event is published.
    const TOPIC: &'static str;

    /// The ordering key of this event, for [keyed](crate::Order::Keyed) subscribers. Asked once, when it is given to be
    /// published; a key chosen there goes before it. Default: none.
    ///
    /// 1 to 255 bytes, no control characters: any other is refused at the publish, and fails the attempt of a handler.
    fn key(&self) -> Option<Cow<'_, str>> {
        None
    }
}

/// Something to be done, by exactly one receiver, which may answer.
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Charge { cents: u64 }
/// impl postroom::Command for Charge {
///     const QUEUE: &'static str = "payment.charge";
///     type Reply = bool;
/// }
/// ```
pub trait Command: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The queue that holds the command for its receiver.
    const QUEUE: &'static str;
    /// What the receiver answers; `()` when nothing.
    type Reply: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The ordering key of this command, for a [keyed](crate::Order::Keyed) handler: as [`Event::key`].
    fn key(&self) -> Option<Cow<'_, str>> {
        None
    }
}
