use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::{CodecError, Envelope, Parcel, SharedParcel};

/// A JSON body without a Rust type of its own.
///
/// One that is nested deeper than 127 arrays and objects cannot be encoded: no JSON reader of ours would
/// take it, and writing it could use up the stack.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct RawBody(pub Value);

/// The deepest nesting that `serde_json` reads.
const DEEPEST: usize = 127;

impl Serialize for RawBody {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if is_deeper_than(DEEPEST, &self.0) {
            let why = format!("nested deeper than {DEEPEST} arrays and objects");
            return Err(serde::ser::Error::custom(why));
        }
        self.0.serialize(serializer)
    }
}

/// Without recursion, which is what a deep value would exhaust.
fn is_deeper_than(most: usize, value: &Value) -> bool {
    let mut left = vec![(value, 0)];
    while let Some((value, above)) = left.pop() {
        if above == most && (value.is_array() || value.is_object()) {
            return true;
        }
        match value {
            Value::Array(items) => left.extend(items.iter().map(|item| (item, above + 1))),
            Value::Object(fields) => left.extend(fields.values().map(|item| (item, above + 1))),
            _ => {}
        }
    }
    false
}

/// A message as a pattern subscriber sees it: any type, looked into on demand.
#[derive(Clone, Copy)]
pub struct RawMessage<'a> {
    parcel: &'a Parcel,
    #[cfg_attr(
        not(feature = "testing"),
        expect(dead_code, reason = "recorders keep messages")
    )]
    shared: Option<&'a SharedParcel>,
}

impl<'a> RawMessage<'a> {
    pub(crate) fn new(parcel: &'a Parcel) -> Self {
        Self {
            parcel,
            shared: None,
        }
    }

    pub(crate) fn of(parcel: &'a SharedParcel) -> Self {
        Self {
            parcel,
            shared: Some(parcel),
        }
    }

    /// For whom it outlives its delivery. None: it belongs to one queue alone, and cannot be encoded.
    #[cfg(feature = "testing")]
    pub(crate) fn shared(&self) -> Option<SharedParcel> {
        match self.shared {
            Some(parcel) => Some(SharedParcel::clone(parcel)),
            None => super::parcel::copied(self.parcel),
        }
    }

    /// Who the message is and where it was sent.
    #[must_use]
    pub fn envelope(&self) -> &'a Envelope {
        self.parcel.envelope()
    }

    /// The topic or the queue's name.
    #[must_use]
    pub fn address(&self) -> &'a str {
        self.parcel.envelope().address()
    }

    /// The body as JSON; encoded once for all who ask.
    ///
    /// # Errors
    /// When the sender's type cannot be encoded.
    pub fn json(&self) -> Result<&'a [u8], CodecError> {
        self.parcel.json()
    }

    /// The body decoded from JSON into `T`.
    ///
    /// # Errors
    /// When the body cannot be encoded, or is not a `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, CodecError> {
        self.parcel.decode()
    }

    /// The sender's own value, when it was sent in this process as a `T`.
    #[must_use]
    pub fn downcast_ref<T: 'static>(&self) -> Option<&'a T> {
        self.parcel.body_as()
    }
}

impl std::fmt::Debug for RawMessage<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RawMessage").field(self.envelope()).finish()
    }
}
