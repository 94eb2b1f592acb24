use std::any::Any;
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{EncodedReply, Envelope};

/// A body that could not be turned into JSON, or JSON that is not the expected type.
#[derive(Debug, thiserror::Error)]
#[error("the body of a message on `{address}` {action}: {source}")]
pub struct CodecError {
    address: String,
    action: &'static str,
    source: serde_json::Error,
}

/// A message on its way: envelope and body, shared by every queue that holds it.
pub(crate) trait Parcel: Send + Sync {
    fn envelope(&self) -> &Envelope;
    /// For what is set after the parcel was made and before it is shared.
    fn envelope_mut(&mut self) -> &mut Envelope;
    fn body(&self) -> &dyn Any;
    /// The JSON body, made at the first call and kept: only what needs bytes pays for them.
    fn json(&self) -> Result<&[u8], CodecError>;
}

pub(crate) type SharedParcel = Arc<dyn Parcel>;

struct Typed<M> {
    envelope: Envelope,
    json: OnceLock<Box<[u8]>>,
    body: M,
}

pub(crate) fn parcel<M>(envelope: Envelope, body: M) -> SharedParcel
where
    M: Serialize + Send + Sync + 'static,
{
    Arc::new(Typed {
        envelope,
        json: OnceLock::new(),
        body,
    })
}

impl<M: Serialize + Send + Sync + 'static> Parcel for Typed<M> {
    fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    fn envelope_mut(&mut self) -> &mut Envelope {
        &mut self.envelope
    }

    fn body(&self) -> &dyn Any {
        &self.body
    }

    fn json(&self) -> Result<&[u8], CodecError> {
        if let Some(json) = self.json.get() {
            return Ok(json);
        }
        let json = encode(&self.envelope, &self.body)?;
        Ok(self.json.get_or_init(|| json.into_boxed_slice()))
    }
}

fn encode<M: Serialize>(envelope: &Envelope, body: &M) -> Result<Vec<u8>, CodecError> {
    serde_json::to_vec(body).map_err(|source| CodecError {
        address: envelope.address().to_owned(),
        action: "cannot be encoded as JSON",
        source,
    })
}

impl dyn Parcel {
    pub(crate) fn decode<M: DeserializeOwned>(&self) -> Result<M, CodecError> {
        serde_json::from_slice(self.json()?).map_err(|source| CodecError {
            address: self.envelope().address().to_owned(),
            action: "is not the expected type",
            source,
        })
    }
}

/// A message as it comes out of the wire: its JSON, and nothing of the sender's.
struct Encoded {
    envelope: Envelope,
    json: Box<[u8]>,
}

/// A parcel's JSON as a parcel of its own. What cannot be encoded is returned as it is.
pub(crate) fn encoded(parcel: SharedParcel) -> SharedParcel {
    let Ok(json) = parcel.json().map(Box::from) else {
        return parcel;
    };
    let mut envelope = parcel.envelope().clone();
    if let Some(metadata) = &mut envelope.metadata {
        metadata.reply = metadata.reply.take().map(EncodedReply::port);
    }
    Arc::new(Encoded { envelope, json })
}

impl Parcel for Encoded {
    fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    fn envelope_mut(&mut self) -> &mut Envelope {
        &mut self.envelope
    }

    fn body(&self) -> &dyn Any {
        &()
    }

    fn json(&self) -> Result<&[u8], CodecError> {
        Ok(&self.json)
    }
}

/// A parcel whose sender keeps its type, so that it gets the message back when nobody took it.
pub(crate) struct Recoverable<M>(Arc<Typed<M>>);

impl<M: Serialize + Send + Sync + 'static> Recoverable<M> {
    pub(crate) fn new(envelope: Envelope, body: M) -> Self {
        Self(Arc::new(Typed {
            envelope,
            json: OnceLock::new(),
            body,
        }))
    }

    pub(crate) fn shared(&self) -> SharedParcel {
        Arc::<Typed<M>>::clone(&self.0)
    }

    /// None while anyone else has it.
    pub(crate) fn into_message(self) -> Option<M> {
        Arc::into_inner(self.0).map(|typed| typed.body)
    }
}
