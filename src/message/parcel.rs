use std::any::Any;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(feature = "amqp")]
use super::ReplyPort;
use super::{Address, AddressKind, EncodedReply, Envelope, MessageId, Name};

/// A body that could not be turned into JSON, or JSON that is not the expected type.
#[derive(Debug, thiserror::Error)]
#[error("the body of a message on `{address}` {action}: {source}")]
pub struct CodecError {
    address: String,
    action: &'static str,
    source: serde_json::Error,
}

/// What a parcel carries: any value that can be sent.
pub(crate) trait Body: Any + Send + Sync {
    fn to_json(&self) -> serde_json::Result<Vec<u8>>;

    /// Drops the value, if another one can be put in its place. False: it can not, and nothing was dropped.
    fn empty(&mut self) -> bool {
        false
    }
}

impl<M: Serialize + Send + Sync + 'static> Body for M {
    fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }
}

/// A value in a parcel that is used again when the value is gone.
struct Kept<M>(Option<M>);

impl<M: Serialize + Send + Sync + 'static> Body for Kept<M> {
    fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&self.0)
    }

    #[inline]
    fn empty(&mut self) -> bool {
        let is_small = const { size_of::<M>() <= MOST_KEPT };
        if is_small {
            self.0 = None;
        }
        is_small
    }
}

/// A message on its way: envelope and body, shared by every queue that holds it.
///
/// The envelope stands at a fixed place before the body of unknown type, so that reading it is a load and
/// not a call.
pub(crate) struct Parcel<B: ?Sized = dyn Body> {
    envelope: Envelope,
    json: OnceLock<SharedBytes>,
    body: B,
}

pub(crate) type SharedParcel = Arc<Parcel>;

/// An encoded body. One word, as most messages are never encoded; shared, so that who writes the bytes does not keep the
/// message from its sender.
pub(crate) type SharedBytes = Arc<Box<[u8]>>;

pub(crate) fn parcel<M>(envelope: Envelope, body: M) -> SharedParcel
where
    M: Serialize + Send + Sync + 'static,
{
    Arc::new(Parcel::new(envelope, body))
}

/// A parcel in one queue. What only one queue has is not counted: two atomic operations less a message.
pub(crate) enum Held {
    Own(Box<Parcel>),
    Shared(SharedParcel),
}

/// An emptied parcel whose memory is there for the next message of its type.
pub(crate) struct Spent(Box<Parcel>);

/// The largest value whose parcel is kept for another one, in bytes.
const MOST_KEPT: usize = 512;

impl Held {
    /// Drops the message. What remains of one that nobody else has, that was never encoded and whose envelope
    /// is plain can carry another.
    #[inline]
    pub(crate) fn spend(self) -> Option<Spent> {
        let Self::Own(mut parcel) = self else {
            return None;
        };
        let can_carry_another = parcel.envelope.metadata.is_none()
            && parcel.json.get().is_none()
            && parcel.body.empty();
        can_carry_another.then_some(Spent(parcel))
    }

    pub(crate) fn share(self) -> SharedParcel {
        match self {
            Self::Own(parcel) => parcel.into(),
            Self::Shared(parcel) => parcel,
        }
    }
}

impl Deref for Held {
    type Target = Parcel;

    #[inline]
    fn deref(&self) -> &Parcel {
        match self {
            Self::Own(parcel) => parcel,
            Self::Shared(parcel) => parcel,
        }
    }
}

/// What can be put into queues: a new parcel, or one that others have already.
pub(crate) trait Payload {
    /// For one queue alone, where it can in the memory of a message that this queue has handled.
    fn own(self, spent: impl FnOnce() -> Option<Spent>) -> Held;
    fn shared(self) -> SharedParcel;
}

impl<M: Serialize + Send + Sync + 'static> Payload for Parcel<M> {
    fn own(self, _: impl FnOnce() -> Option<Spent>) -> Held {
        Held::Own(Box::new(self))
    }

    #[inline]
    fn shared(self) -> SharedParcel {
        Arc::new(self)
    }
}

/// A message of which nothing is set but where it goes.
///
/// It is put together in its place: a copy of what was just written would wait for it (measured: a twentieth
/// of a delivery).
pub(crate) struct Plain<M> {
    pub(crate) id: MessageId,
    pub(crate) kind: AddressKind,
    pub(crate) address: &'static str,
    pub(crate) message: M,
}

impl<M: Serialize + Send + Sync + 'static> Plain<M> {
    fn parcel<B>(self, body: impl FnOnce(M) -> B) -> Parcel<B> {
        let envelope = Envelope {
            id: self.id,
            address: Address {
                kind: self.kind,
                name: Name::Static(self.address),
            },
            metadata: None,
        };
        Parcel::new(envelope, body(self.message))
    }

    #[cold]
    fn boxed(self) -> Box<Parcel> {
        Box::new(self.parcel(|message| Kept(Some(message))))
    }
}

impl<M: Serialize + Send + Sync + 'static> Payload for Plain<M> {
    #[inline(always)]
    fn own(self, spent: impl FnOnce() -> Option<Spent>) -> Held {
        // A spent parcel has no metadata and no JSON.
        let parcel = match spent() {
            Some(Spent(mut parcel)) => match (&mut parcel.body as &mut dyn Any).downcast_mut() {
                Some(Kept(place)) => {
                    *place = Some(self.message);
                    parcel.envelope.id = self.id;
                    parcel.envelope.address.kind = self.kind;
                    parcel.envelope.address.name = Name::Static(self.address);
                    parcel
                }
                None => self.boxed(),
            },
            None => self.boxed(),
        };
        Held::Own(parcel)
    }

    fn shared(self) -> SharedParcel {
        Arc::new(self.parcel(|message| Kept(Some(message))))
    }
}

impl Payload for SharedParcel {
    fn own(self, _: impl FnOnce() -> Option<Spent>) -> Held {
        Held::Shared(self)
    }

    fn shared(self) -> SharedParcel {
        self
    }
}

impl<M> Parcel<M> {
    #[inline]
    pub(crate) fn new(envelope: Envelope, body: M) -> Self {
        Self {
            envelope,
            json: OnceLock::new(),
            body,
        }
    }

    /// The way back to whoever asked, from another process.
    #[cfg(feature = "amqp")]
    pub(crate) fn set_reply(&mut self, port: Arc<dyn ReplyPort>) {
        self.envelope.metadata.get_or_insert_default().reply = Some(port);
    }
}

impl<B> Parcel<B> {
    /// A message that came as JSON; the body is what its receiver keeps beside it.
    #[cfg(any(feature = "amqp", feature = "sqlite", feature = "postgres"))]
    pub(crate) fn received(envelope: Envelope, json: Vec<u8>, body: B) -> Self {
        let cell = OnceLock::new();
        // A new cell takes what it is given.
        let _ = cell.set(Arc::new(json.into_boxed_slice()));
        Self {
            envelope,
            json: cell,
            body,
        }
    }

    /// The envelope, while the body's type is known.
    #[cfg(feature = "amqp")]
    pub(crate) fn about(&self) -> &Envelope {
        &self.envelope
    }

    /// The body, while its type is known.
    #[cfg(feature = "amqp")]
    pub(crate) fn kept(&self) -> &B {
        &self.body
    }
}

impl Parcel {
    #[inline]
    pub(crate) fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// For what is set after the parcel was made and before it is shared.
    pub(crate) fn envelope_mut(&mut self) -> &mut Envelope {
        &mut self.envelope
    }

    /// The body, if the sender's own value is a `T`.
    #[inline]
    pub(crate) fn body_as<T: 'static>(&self) -> Option<&T> {
        let body: &dyn Any = &self.body;
        match body.downcast_ref::<Kept<T>>() {
            // The usual case.
            Some(kept) => kept.0.as_ref(),
            None => body.downcast_ref(),
        }
    }

    /// The JSON body, made at the first call and kept: only what needs bytes pays for them.
    pub(crate) fn json(&self) -> Result<&[u8], CodecError> {
        self.shared_json().map(|json| &***json)
    }

    /// The same, for who keeps it longer than the message.
    pub(crate) fn shared_json(&self) -> Result<&SharedBytes, CodecError> {
        if let Some(json) = self.json.get() {
            return Ok(json);
        }
        let json = self.body.to_json().map_err(|source| CodecError {
            address: self.envelope.address().to_owned(),
            action: "cannot be encoded as JSON",
            source,
        })?;
        Ok(self.json.get_or_init(|| Arc::new(json.into_boxed_slice())))
    }

    pub(crate) fn decode<M: DeserializeOwned>(&self) -> Result<M, CodecError> {
        serde_json::from_slice(self.json()?).map_err(|source| CodecError {
            address: self.envelope.address().to_owned(),
            action: "is not the expected type",
            source,
        })
    }
}

/// The body of a message that is only its JSON, and nothing of the sender's.
#[derive(Serialize)]
struct Encoded;

/// A parcel's JSON as a parcel of its own, as it would come out of the wire. None: it cannot be encoded.
pub(super) fn copied(parcel: &Parcel) -> Option<SharedParcel> {
    let json = OnceLock::new();
    // A new cell takes what it is given.
    let _ = json.set(Arc::clone(parcel.shared_json().ok()?));
    let mut envelope = parcel.envelope.clone();
    if let Some(metadata) = &mut envelope.metadata {
        metadata.reply = metadata.reply.take().map(EncodedReply::port);
    }
    Some(Arc::new(Parcel {
        envelope,
        json,
        body: Encoded,
    }))
}

/// A message that is only its JSON, as a database keeps it.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) fn received(envelope: Envelope, json: Vec<u8>) -> SharedParcel {
    Arc::new(Parcel::received(envelope, json, Encoded))
}

/// What cannot be encoded is returned as it is.
pub(crate) fn encoded(parcel: SharedParcel) -> SharedParcel {
    copied(&parcel).unwrap_or(parcel)
}

/// A parcel whose sender keeps its type, so that it gets the message back when nobody took it.
pub(crate) struct Recoverable<M>(Arc<Parcel<M>>);

impl<M: Serialize + Send + Sync + 'static> Recoverable<M> {
    pub(crate) fn new(envelope: Envelope, body: M) -> Self {
        Self(Arc::new(Parcel::new(envelope, body)))
    }

    pub(crate) fn shared(&self) -> SharedParcel {
        Arc::<Parcel<M>>::clone(&self.0)
    }

    /// None while anyone else has it.
    pub(crate) fn into_message(self) -> Option<M> {
        Arc::into_inner(self.0).map(|parcel| parcel.body)
    }
}
