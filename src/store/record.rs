use std::sync::Arc;
use std::time::Duration;

use crate::delivery::NEVER;
use crate::message::{
    Address, AddressKind, CodecError, CorrelationId, Envelope, Metadata, Name, SharedParcel,
    received, validate_queue, validate_topic,
};

/// How many lanes there are: as many relays can share the work. A part of the schema, since rows are written with
/// their lane.
pub(crate) const LANES: u32 = 32;

/// A number for a text, the same in each process and version (FNV-1a, 64 bits).
pub(crate) fn number_of(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The lane of a key: the same in each process and version (the number of its text, folded).
pub(crate) fn lane_of(text: &str) -> u32 {
    let hash = number_of(text);
    ((hash ^ (hash >> 32)) as u32) % LANES
}

/// A message to be written as a row of the outbox, as text.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewRow {
    /// The message's id.
    pub id: String,
    /// `event` or `command`.
    pub kind: &'static str,
    /// The topic or the queue.
    pub address: String,
    /// The ordering key.
    pub key: Option<String>,
    /// Which lane it belongs to.
    pub lane: u32,
    /// The conversation.
    pub correlation: Option<String>,
    /// The message during whose handling it was sent.
    pub causation: Option<String>,
    /// The user's headers, as a JSON array of pairs.
    pub headers: Option<String>,
    /// The W3C trace context.
    pub traceparent: Option<String>,
    /// How long from now on it may be handled.
    pub expires_in: Option<Duration>,
    /// How long from now on it waits for its time.
    pub delay: Option<Duration>,
    /// The body as JSON.
    pub body: String,
}

/// A row as the relay reads it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoredRow {
    /// Where it stands; the database's own number.
    pub position: i64,
    /// Which lane it belongs to.
    pub lane: u32,
    /// The message's id.
    pub id: String,
    /// `event` or `command`.
    pub kind: String,
    /// The topic or the queue.
    pub address: String,
    /// The ordering key.
    pub key: Option<String>,
    /// The conversation.
    pub correlation: Option<String>,
    /// The message during whose handling it was sent.
    pub causation: Option<String>,
    /// The user's headers, as a JSON array of pairs.
    pub headers: Option<String>,
    /// The W3C trace context.
    pub traceparent: Option<String>,
    /// Milliseconds until it expires, by the database's clock; negative: it has expired.
    pub expires_in_ms: Option<i64>,
    /// Attempts that have failed.
    pub attempts: u32,
    /// The body as JSON.
    pub body: String,
}

impl StoredRow {
    /// A row with the parts that each has; the others are set one by one.
    #[must_use]
    pub fn new(position: i64, lane: u32, id: String, address: String, body: String) -> Self {
        Self {
            position,
            lane,
            id,
            kind: "event".to_owned(),
            address,
            key: None,
            correlation: None,
            causation: None,
            headers: None,
            traceparent: None,
            expires_in_ms: None,
            attempts: 0,
            body,
        }
    }
}

/// A delayed row, as it waits for its time.
#[derive(Clone, Debug)]
pub struct DelayedRow {
    /// The message.
    pub row: StoredRow,
    /// Milliseconds until it is due, by the database's clock; negative: it is.
    pub due_in_ms: i64,
}

/// What [`next_due`](super::StoreSession::next_due) answers. Apart, since what is due stays so for as long as nobody can take
/// it, and hides nothing that comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextDue {
    /// Whether a row is due by now.
    pub is_past: bool,
    /// How long until the next one is that is not; none: there is none.
    pub next: Option<Duration>,
}

/// Which rows a relay wants.
#[derive(Clone, Debug, Default)]
pub struct TakeRows {
    /// The lanes that it holds.
    pub lanes: Vec<u32>,
    /// The most rows of those that wait; of retries and of delayed ones it may be a quarter of it each.
    pub most: u32,
    /// The most that are wanted of one lane: rows beyond it need not be looked at. They may be given all the same.
    pub most_of_lane: u32,
    /// Whether retries and delayed rows that are due are wanted too. They may be given all the same.
    pub due: bool,
    /// Positions that it has already.
    pub except: Vec<i64>,
    /// Addresses that take nothing now: their rows, and those behind them of the same key, stay.
    pub blocked: Vec<String>,
}

/// A lane that a relay holds, and the number of its taking over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldLane {
    /// The lane.
    pub lane: u32,
    /// Rises each time that another relay takes the lane over.
    pub fence: i64,
}

/// What a relay holds after it has renewed.
#[derive(Clone, Debug, Default)]
pub struct LaneLease {
    /// The lanes.
    pub held: Vec<HeldLane>,
    /// How many lanes each relay is to have now.
    pub share: u32,
    /// How many relays live.
    pub relays: u32,
}

/// A row that was published.
#[derive(Clone, Copy, Debug)]
pub struct PublishedRow {
    /// Where it stands.
    pub position: i64,
    /// Its lane.
    pub lane: u32,
    /// The fence of its lane when it was taken.
    pub fence: i64,
}

/// A row that could not be published.
#[derive(Clone, Debug)]
pub struct FailedRow {
    /// Where it stands.
    pub position: i64,
    /// The fence of its lane when it was taken.
    pub fence: i64,
    /// Attempts that have failed, this one too. To write the same again changes nothing.
    pub attempts: u32,
    /// Why.
    pub error: String,
    /// When it is tried again; none: it is given up.
    pub retry_in: Option<Duration>,
}

/// A row that was given up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeadRow {
    /// The message's id.
    pub id: String,
    /// `event` or `command`.
    pub kind: String,
    /// The topic or the queue.
    pub address: String,
    /// The ordering key.
    pub key: Option<String>,
    /// Attempts that have failed.
    pub attempts: u32,
    /// Why the last one did.
    pub last_error: Option<String>,
    /// When it was written, as the database says it.
    pub created_at: String,
    /// The body as JSON.
    pub body: String,
}

impl DeadRow {
    /// A row with the parts that each has.
    #[must_use]
    pub fn new(id: String, kind: String, address: String, body: String) -> Self {
        Self {
            id,
            kind,
            address,
            key: None,
            attempts: 0,
            last_error: None,
            created_at: String::new(),
            body,
        }
    }
}

/// A message as a row. `now_ms` is the time by the clock that its expiry was made with.
pub(crate) fn row_of(
    envelope: &Envelope,
    body: String,
    delay: Option<Duration>,
    now_ms: u64,
) -> NewRow {
    let id = envelope.id().to_string();
    let metadata = envelope.metadata.as_deref();
    let key = envelope.key().map(str::to_owned);
    let headers: Vec<_> = envelope.headers().collect();
    NewRow {
        lane: lane_of(key.as_deref().unwrap_or(&id)),
        id,
        kind: match envelope.kind() {
            AddressKind::Topic => "event",
            AddressKind::Queue => "command",
        },
        address: envelope.address().to_owned(),
        key,
        correlation: metadata
            .and_then(|metadata| metadata.correlation.as_ref())
            .map(ToString::to_string),
        causation: envelope.causation_id().map(|id| id.to_string()),
        headers: (!headers.is_empty())
            .then(|| serde_json::to_string(&headers).ok())
            .flatten(),
        traceparent: envelope.traceparent().map(str::to_owned),
        expires_in: envelope
            .expires_ms()
            .map(|at| Duration::from_millis(at.saturating_sub(now_ms)).min(NEVER)),
        delay: delay.map(|delay| delay.min(NEVER)),
        body,
    }
}

#[cfg(test)]
impl NewRow {
    /// An event without anything else, for tests.
    pub(crate) fn plain(body: String) -> Self {
        let envelope = Envelope {
            id: crate::message::MessageId::new(),
            address: Address {
                kind: AddressKind::Topic,
                name: Name::Static("a.b"),
            },
            metadata: None,
        };
        row_of(&envelope, body, None, 0)
    }
}

/// A row that is no message: somebody has written into the table.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the id is no UUID: {0}")]
    Id(#[from] crate::message::ParseIdError),
    #[error(transparent)]
    Name(#[from] crate::message::NameError),
    #[error("the kind is neither `event` nor `command`")]
    Kind,
    #[error("the headers are no JSON array of pairs: {0}")]
    Headers(serde_json::Error),
    #[error("the body is no JSON: {0}")]
    Body(serde_json::Error),
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// The message that a row is, as it would come out of the wire. `now_ms` is the time by the clock that its expiry is
/// to be read by.
pub(crate) fn parcel_of(row: &StoredRow, now_ms: u64) -> Result<SharedParcel, Unreadable> {
    let id: crate::message::MessageId = row.id.parse()?;
    let kind = match row.kind.as_str() {
        "event" => AddressKind::Topic,
        "command" => AddressKind::Queue,
        _ => return Err(Unreadable::Kind),
    };
    match kind {
        AddressKind::Topic => validate_topic(&row.address)?,
        AddressKind::Queue => validate_queue(&row.address)?,
    }
    // Looked through and not built: a handler decodes it into its own type.
    serde_json::from_str::<serde::de::IgnoredAny>(&row.body).map_err(Unreadable::Body)?;
    let headers: Vec<(Box<str>, Box<str>)> = match &row.headers {
        Some(text) => serde_json::from_str(text).map_err(Unreadable::Headers)?,
        None => Vec::new(),
    };
    let causation = row.causation.as_deref().map(str::parse).transpose()?;
    let metadata = Metadata {
        key: row.key.as_deref().map(Arc::from),
        expires_ms: row.expires_in_ms.map(|left| {
            let left_ms = left.unsigned_abs();
            if left < 0 {
                now_ms.saturating_sub(left_ms)
            } else {
                now_ms.saturating_add(left_ms)
            }
        }),
        time_ms: None,
        correlation: row.correlation.as_deref().map(|text| {
            match text.parse::<crate::message::MessageId>() {
                Ok(id) if id.to_string() == text => CorrelationId::Message(id),
                _ => CorrelationId::Other(text.into()),
            }
        }),
        causation,
        traceparent: row.traceparent.as_deref().map(Box::from),
        headers,
        reply: None,
    };
    let is_plain = row.key.is_none()
        && row.expires_in_ms.is_none()
        && row.correlation.is_none()
        && row.causation.is_none()
        && row.traceparent.is_none()
        && row.headers.is_none();
    let envelope = Envelope {
        id,
        address: Address {
            kind,
            name: Name::Shared(row.address.as_str().into()),
        },
        metadata: (!is_plain).then(|| Box::new(metadata)),
    };
    Ok(received(envelope, row.body.clone().into_bytes()))
}

/// A row that cannot be read, as a message that no handler is to see: so that it can be looked at.
pub(crate) fn unreadable(row: &StoredRow) -> SharedParcel {
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&row.body).is_ok();
    let body = match is_json {
        true => row.body.clone(),
        // A text can always be encoded.
        false => serde_json::to_string(&row.body).unwrap_or_default(),
    };
    let envelope = Envelope {
        id: row
            .id
            .parse()
            .unwrap_or_else(|_| crate::message::MessageId::new()),
        address: Address {
            kind: match row.kind.as_str() {
                "command" => AddressKind::Queue,
                _ => AddressKind::Topic,
            },
            name: Name::Shared(row.address.as_str().into()),
        },
        metadata: None,
    };
    received(envelope, body.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_a_part_of_the_schema_and_never_change() {
        let lanes = ["", "7", "order-7"].map(lane_of);
        assert_eq!((LANES, lanes), (32, [1, 26, 4]));
    }
}
