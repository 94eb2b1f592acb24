use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::SystemTime;

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::ShortString;
use serde::Serialize;
use uuid::Uuid;

use super::format::{IncomingMessage, IncomingWire, Properties, WireFormat};
use super::headers::{Headers, is_name};
use super::plain::{LAST_SECOND, PlainJson};
use super::{Exchanges, names, value};
use crate::mailbox::History;
use crate::message::{
    Address, AddressKind, CodecError, CorrelationId, Envelope, MessageId, Metadata, Name, Parcel,
    coarse_now_ms, validate_key,
};

/// The most headers of one message that a format and a handler see; copies keep all.
const MOST_HEADERS: usize = 1_000;
/// The longest text of a property, and so of a conversation.
const LONGEST: usize = 255;
/// What a message is called whose sender, routing key and exchange give it no name that can be.
const UNNAMED: &str = "unnamed";

/// A message that came from RabbitMQ.
#[derive(Clone, Debug, Default)]
pub(in crate::bridge) struct Arrived {
    pub(in crate::bridge) exchange: String,
    pub(in crate::bridge) routing_key: String,
    pub(in crate::bridge) redelivered: bool,
    pub(in crate::bridge) properties: BasicProperties,
    pub(in crate::bridge) body: Vec<u8>,
}

impl From<Delivery> for Arrived {
    fn from(delivery: Delivery) -> Self {
        Self {
            exchange: delivery.exchange.as_str().to_owned(),
            routing_key: delivery.routing_key.as_str().to_owned(),
            redelivered: delivery.redelivered,
            properties: delivery.properties,
            body: delivery.data,
        }
    }
}

/// What a received message keeps beside its JSON, so that a copy of it is as it came.
#[derive(Debug, Serialize)]
pub(in crate::bridge) struct Received {
    #[serde(skip)]
    pub(in crate::bridge) properties: BasicProperties,
    /// The exchange and the routing key that it was first published with, not those of a retry.
    pub(in crate::bridge) exchange: String,
    pub(in crate::bridge) routing_key: String,
    pub(in crate::bridge) redelivered: bool,
    /// The body as it came, where the format made another of it.
    #[serde(skip)]
    body: Option<Vec<u8>>,
}

/// Where the reply to a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::bridge) struct ReplyAddress {
    pub(in crate::bridge) queue: String,
    /// What the requester knows its request by.
    pub(in crate::bridge) correlation: String,
}

/// A received message in our words.
pub(in crate::bridge) struct Decoded {
    pub(in crate::bridge) parcel: Parcel<Received>,
    /// Attempts that have finished.
    pub(in crate::bridge) attempts: u32,
    pub(in crate::bridge) history: Option<Box<History>>,
    pub(in crate::bridge) reply: Option<ReplyAddress>,
    /// Why its body cannot be read whatever the handler's type: it is to become a dead letter.
    pub(in crate::bridge) undecodable: Option<String>,
    /// Headers over the bound, which a handler does not see.
    pub(in crate::bridge) hidden_headers: usize,
}

/// Reads a message. Total: any properties and any body give a message, with the reason if it is undecodable.
///
/// Headers of ours are believed where only we publish: attempts on what came by the retry exchange; the id and
/// the first address there and on the default exchange, by which a dead letter is replayed.
pub(in crate::bridge) fn decode_with(
    format: &dyn WireFormat,
    arrived: Arrived,
    exchanges: Exchanges<'_>,
) -> Decoded {
    let Arrived {
        exchange,
        routing_key,
        redelivered,
        properties,
        body,
    } = arrived;
    let headers = Headers(properties.headers().as_ref());
    let retried = exchanges.is_retry(&exchange);
    let copied = retried || exchange.is_empty();
    let first = || {
        Some((
            headers.string(names::EXCHANGE)?,
            headers.string(names::ROUTING_KEY)?,
        ))
    };
    let (exchange, routing_key) = copied
        .then(first)
        .flatten()
        .unwrap_or((exchange, routing_key));
    let (neutral, hidden_headers) = neutral(&properties);
    let wire = IncomingWire {
        came_by: exchanges.kind_of(&exchange),
        exchange: &exchange,
        routing_key: &routing_key,
        properties: &neutral,
        body: &body,
    };
    let (mut message, mut undecodable) = read(format, &wire);
    if undecodable.is_none() && message.body.is_none() {
        undecodable = foreign_encoding(&neutral);
    }
    let known = copied.then(|| headers.address()).flatten();
    let address = known.unwrap_or_else(|| address(&message, &wire));
    let id = copied
        .then(|| headers.id(names::ID))
        .flatten()
        .unwrap_or_else(|| identity(&message, &neutral));
    let reply = reply_address(&neutral, id);
    let (attempts, history) = if retried {
        headers.failures()
    } else {
        (0, None)
    };
    let (json, original) = match message.body.take() {
        Some(json) => (json, Some(body)),
        None => (body, None),
    };
    let envelope = Envelope {
        id,
        address,
        metadata: metadata(message, id),
    };
    let received = Received {
        properties,
        exchange,
        routing_key,
        redelivered,
        body: original,
    };
    Decoded {
        parcel: Parcel::received(envelope, json, received),
        attempts,
        history,
        reply,
        undecodable,
        hidden_headers,
    }
}

/// The body of a copy: as it came.
pub(in crate::bridge) fn copy_body(parcel: &Parcel) -> Result<&[u8], CodecError> {
    let received = parcel.body_as::<Received>();
    match received.and_then(|received| received.body.as_deref()) {
        Some(body) => Ok(body),
        None => parcel.json(),
    }
}

/// What the format reads; where it cannot, what the properties say, and why.
fn read(format: &dyn WireFormat, wire: &IncomingWire<'_>) -> (IncomingMessage, Option<String>) {
    let why = match catch_unwind(AssertUnwindSafe(|| format.decode(wire))) {
        Ok(Ok(message)) => return (message, None),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the wire format panicked".to_owned(),
    };
    (PlainJson.read(wire), Some(why))
}

/// A body that is compressed, or encoded otherwise, which no handler can read.
fn foreign_encoding(properties: &Properties) -> Option<String> {
    let encoding = properties.content_encoding.as_deref()?;
    // Some senders name the character set here.
    let is_plain = ["", "identity", "utf-8", "utf8"]
        .iter()
        .any(|plain| encoding.eq_ignore_ascii_case(plain));
    (!is_plain).then(|| format!("the body has the content encoding `{encoding}`"))
}

/// The properties without lapin's types, and how many headers are over the bound.
fn neutral(properties: &BasicProperties) -> (Properties, usize) {
    let text = |text: &Option<ShortString>| text.as_ref().map(ToString::to_string);
    let mut headers = Vec::new();
    let (mut foreign, mut hidden) = (0, 0);
    for (name, value) in properties.headers().iter().flatten() {
        let name = name.as_str();
        if names::is_brokers(name) {
            continue;
        }
        if !names::is_ours(name) && name != names::TRACEPARENT {
            foreign += 1;
            if foreign > MOST_HEADERS {
                hidden += 1;
                continue;
            }
        }
        headers.push((name.to_owned(), value::text(value)));
    }
    let neutral = Properties {
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        message_id: text(properties.message_id()),
        correlation_id: text(properties.correlation_id()),
        message_type: text(properties.kind()),
        timestamp: *properties.timestamp(),
        app_id: text(properties.app_id()),
        reply_to: text(properties.reply_to()),
        priority: priority(properties),
        headers,
    };
    (neutral, hidden)
}

/// Of a copy, what its original had: it is published without.
fn priority(properties: &BasicProperties) -> Option<u8> {
    let kept = || {
        let headers = properties.headers().as_ref()?;
        let text = value::text(headers.inner().get(names::PRIORITY)?);
        text.parse().ok()
    };
    properties.priority().or_else(kept)
}

/// The name that the sender gave it, if it can be one; else the routing key; else the exchange.
fn address(message: &IncomingMessage, wire: &IncomingWire<'_>) -> Address {
    let kind = message.kind.or(wire.came_by).unwrap_or(AddressKind::Topic);
    let names = [
        message.address.as_deref(),
        Some(wire.routing_key),
        Some(wire.exchange),
    ];
    let name = names.into_iter().flatten().find(|name| is_name(kind, name));
    Address {
        kind,
        name: name.map_or(Name::Static(UNNAMED), |name| Name::Shared(name.into())),
    }
}

/// A UUID as it is. Another text gives a UUID of version 5 of the sender's application and that text: the
/// same for every delivery. None: a new id.
fn identity(message: &IncomingMessage, properties: &Properties) -> MessageId {
    let Some(text) = message.id.as_deref().filter(|text| !text.is_empty()) else {
        return MessageId::new();
    };
    match Uuid::parse_str(text) {
        // What senders write who have none.
        Ok(id) if id.is_nil() => MessageId::new(),
        Ok(id) => id.into(),
        Err(_) => {
            let sender = properties.app_id.as_deref().unwrap_or_default();
            stable_id(&[sender, text])
        }
    }
}

/// A UUID of version 5 of some texts.
pub(super) fn stable_id(texts: &[&str]) -> MessageId {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, texts.join("\n").as_bytes()).into()
}

fn reply_address(properties: &Properties, id: MessageId) -> Option<ReplyAddress> {
    let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    Some(ReplyAddress {
        queue: some(&properties.reply_to)?,
        correlation: some(&properties.correlation_id)
            .or_else(|| some(&properties.message_id))
            .unwrap_or_else(|| id.to_string()),
    })
}

fn metadata(message: IncomingMessage, id: MessageId) -> Option<Box<Metadata>> {
    let time_ms = match Uuid::from(id).get_version_num() {
        7 => None,
        _ => Some(message.time.map_or_else(coarse_now_ms, millis)),
    };
    let metadata = Metadata {
        key: message
            .key
            .filter(|key| validate_key(key).is_ok())
            .map(Arc::from),
        expires_ms: message.expires_at.map(millis),
        time_ms,
        correlation: message.correlation.and_then(|text| conversation(&text, id)),
        causation: message.causation,
        traceparent: message
            .traceparent
            .filter(|text| is_traceparent(text))
            .map(Box::from),
        headers: message
            .headers
            .into_iter()
            .filter(|(name, _)| names::validate_user_header(name).is_ok())
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        reply: None,
    };
    let is_empty = metadata.key.is_none()
        && metadata.expires_ms.is_none()
        && metadata.time_ms.is_none()
        && metadata.correlation.is_none()
        && metadata.causation.is_none()
        && metadata.traceparent.is_none()
        && metadata.headers.is_empty();
    (!is_empty).then(|| Box::new(metadata))
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).map_or(LAST_SECOND * 1000, |ms| ms.min(LAST_SECOND * 1000))
    })
}

/// None: it is the message's own id, or none that could be sent on.
fn conversation(text: &str, own: MessageId) -> Option<CorrelationId> {
    if text.is_empty() || text.len() > LONGEST {
        return None;
    }
    match text.parse::<MessageId>() {
        Ok(id) if id == own => None,
        // Only in the spelling that it would be sent on in.
        Ok(id) if id.to_string() == text => Some(CorrelationId::Message(id)),
        _ => Some(CorrelationId::Other(text.into())),
    }
}

/// W3C Trace Context, section 3.2.2: version, trace id, parent id, flags, in lower-case hexadecimal.
fn is_traceparent(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.len() < 55 || text.len() > LONGEST || !text.is_ascii() {
        return false;
    }
    let is_hex = |part: &[u8]| {
        part.iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    let (version, trace, parent, flags) =
        (&bytes[..2], &bytes[3..35], &bytes[36..52], &bytes[53..55]);
    // A later version may have more behind a dash; version 00 has not.
    let end_is_right = bytes.len() == 55 || (version != b"00" && bytes[55] == b'-');
    [version, trace, parent, flags].into_iter().all(is_hex)
        && [2, 35, 52].into_iter().all(|dash| bytes[dash] == b'-')
        && version != b"ff"
        && !is_zero(trace)
        && !is_zero(parent)
        && end_is_right
}
