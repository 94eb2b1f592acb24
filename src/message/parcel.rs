use std::any::Any;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(feature = "amqp")]
use super::ReplyPort;
use super::{EncodedReply, Envelope};

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
}

impl<M: Serialize + Send + Sync + 'static> Body for M {
    fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }
}

/// A message on its way: envelope and body, shared by every queue that holds it.
///
/// The envelope stands at a fixed place before the body of unknown type, so that reading it is a load and
/// not a call.
pub(crate) struct Parcel<B: ?Sized = dyn Body> {
    envelope: Envelope,
    /// Boxed twice to be one word: most messages are never encoded.
    json: OnceLock<Box<Box<[u8]>>>,
    body: B,
}

pub(crate) type SharedParcel = Arc<Parcel>;

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

impl Held {
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
    /// For one queue alone.
    fn own(self) -> Held;
    fn shared(self) -> SharedParcel;
}

impl<M: Serialize + Send + Sync + 'static> Payload for Parcel<M> {
    #[inline]
    fn own(self) -> Held {
        Held::Own(Box::new(self))
    }

    #[inline]
    fn shared(self) -> SharedParcel {
        Arc::new(self)
    }
}

impl Payload for SharedParcel {
    fn own(self) -> Held {
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
    #[cfg(feature = "amqp")]
    pub(crate) fn received(envelope: Envelope, json: Vec<u8>, body: B) -> Self {
        let cell = OnceLock::new();
        // A new cell takes what it is given.
        let _ = cell.set(Box::new(json.into_boxed_slice()));
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

    #[inline]
    pub(crate) fn body(&self) -> &dyn Any {
        &self.body
    }

    /// The JSON body, made at the first call and kept: only what needs bytes pays for them.
    pub(crate) fn json(&self) -> Result<&[u8], CodecError> {
        if let Some(json) = self.json.get() {
            return Ok(json);
        }
        let json = self.body.to_json().map_err(|source| CodecError {
            address: self.envelope.address().to_owned(),
            action: "cannot be encoded as JSON",
            source,
        })?;
        Ok(self.json.get_or_init(|| Box::new(json.into_boxed_slice())))
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
    let _ = json.set(Box::new(Box::from(parcel.json().ok()?)));
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
