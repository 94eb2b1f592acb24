use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use lapin::BasicProperties;
use lapin::types::{FieldTable, MAX_SHORT_STRING_LENGTH, ShortString};

use super::format::{OutgoingMessage, Properties, WireFormat};
use super::size::{Way, check, insert, string};
use super::{names, size};
use crate::message::{NameError, Parcel, SharedBytes};
use crate::ports::Refusal;

/// Survives a restart of the broker.
pub(super) const PERSISTENT: u8 = 2;

/// What a parcel is published with, and its body. Refused: what cannot be encoded, a text too long for its
/// property, a header that is not the user's to set, headers over a frame.
pub(in crate::bridge) fn outgoing(
    format: &dyn WireFormat,
    parcel: &Parcel,
    service: &str,
    reply_to: Option<&str>,
    frame_max: usize,
) -> Result<(BasicProperties, SharedBytes), Refusal> {
    let envelope = parcel.envelope();
    for (name, _) in envelope.headers() {
        names::validate_user_header(name)?;
    }
    let body = parcel
        .shared_json()
        .map_err(|error| Refusal::Codec(error.to_string()))?;
    let message = OutgoingMessage {
        envelope,
        body,
        service,
    };
    let wire = catch_unwind(AssertUnwindSafe(|| format.encode(&message)))
        .map_err(|_| Refusal::Codec("the wire format panicked".to_owned()))?
        .map_err(|error| Refusal::Codec(error.to_string()))?;
    let mut neutral = wire.properties;
    let id = || envelope.id().to_string();
    let mut conversation = None;
    if reply_to.is_some() {
        // A requester's correlation_id names the request; the conversation stands beside it.
        conversation = neutral.correlation_id.replace(id());
    }
    neutral.message_id.get_or_insert_with(id);
    let texts = std::mem::take(&mut neutral.headers);
    let mut properties = basic(neutral)?.with_delivery_mode(PERSISTENT);
    let mut headers = FieldTable::default();
    for (name, value) in &texts {
        let name = short("header", name.as_str())?;
        // The first of a name counts, as in the envelope.
        if !headers.contains_key(name.as_str()) {
            headers.insert(name, string(value));
        }
    }
    if let Some(reply_to) = reply_to {
        properties = properties.with_reply_to(short("reply queue", reply_to)?);
        if let Some(conversation) = conversation {
            short("correlation id", conversation.as_str())?;
            insert(&mut headers, names::CONVERSATION, string(&conversation));
        }
    }
    if !headers.inner().is_empty() {
        properties = properties.with_headers(headers);
    }
    check(&properties, frame_max, Way::Published)?;
    let body = match wire.body {
        None => Arc::clone(body),
        Some(bytes) => Arc::new(bytes.into_boxed_slice()),
    };
    Ok((properties, body))
}

pub(super) fn basic(neutral: Properties) -> Result<BasicProperties, Refusal> {
    let mut properties = BasicProperties::default();
    if let Some(text) = neutral.content_type {
        properties = properties.with_content_type(short("content type", text)?);
    }
    if let Some(text) = neutral.content_encoding {
        properties = properties.with_content_encoding(short("content encoding", text)?);
    }
    if let Some(text) = neutral.message_id {
        properties = properties.with_message_id(short("message id", text)?);
    }
    if let Some(text) = neutral.correlation_id {
        properties = properties.with_correlation_id(short("correlation id", text)?);
    }
    if let Some(text) = neutral.message_type {
        properties = properties.with_type(short("type", text)?);
    }
    if let Some(text) = neutral.app_id {
        properties = properties.with_app_id(short("service", text)?);
    }
    if let Some(seconds) = neutral.timestamp {
        properties = properties.with_timestamp(seconds);
    }
    if let Some(priority) = neutral.priority {
        properties = properties.with_priority(priority);
    }
    Ok(properties)
}

/// A text of at most 255 bytes.
pub(super) fn short(what: &'static str, text: impl Into<String>) -> Result<ShortString, NameError> {
    let text = text.into();
    if text.len() > MAX_SHORT_STRING_LENGTH {
        return Err(NameError::TooLong {
            what,
            length: text.len(),
            most: MAX_SHORT_STRING_LENGTH,
            name: size::cut(&text, 40).to_owned(),
        });
    }
    Ok(ShortString::from(text))
}
