//! What a content header weighs on the wire, and how a copy is made to fit its frame.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use super::names;
use super::value::unsigned;
use crate::ports::Refusal;

/// Frame type, channel, length and end; class, weight, body size and property flags.
const AROUND: usize = (1 + 2 + 4 + 1) + (2 + 2 + 8 + 2);
/// What the broker may add to a message in a queue: a delivery count, the story of one dead-lettering.
const IN_A_QUEUE: usize = 4 * 1024;
/// What it may add on the ladder of delays: the story of each rung.
const ON_THE_LADDER: usize = 32 * 1024;
/// What a retry copy has more than the message: so what is published can be retried with all its headers.
const RETRY: usize = 8 * 1024;

/// How much room a content header must leave in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A message of ours, which may have to be retried.
    Published,
    /// A retry copy.
    Ladder,
    /// A dead letter or its replay, or a reply.
    Queue,
}

/// The most bytes that a content header may have. A `frame_max` of 0 means, as in AMQP, no limit.
pub(super) fn limit(frame_max: usize, way: Way) -> usize {
    if frame_max == 0 {
        return usize::MAX;
    }
    let reserve = match way {
        Way::Published => ON_THE_LADDER + RETRY,
        Way::Ladder => ON_THE_LADDER,
        Way::Queue => IN_A_QUEUE,
    };
    // A small frame is shared evenly.
    frame_max - reserve.min(frame_max / 2)
}

/// The bytes of a content header's frame.
pub(super) fn frame(properties: &BasicProperties) -> usize {
    let short = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.expiration(),
        properties.message_id(),
        properties.kind(),
        properties.user_id(),
        properties.app_id(),
        properties.cluster_id(),
    ];
    let texts: usize = short.into_iter().flatten().map(short_string).sum();
    let bytes = usize::from(properties.delivery_mode().is_some())
        + usize::from(properties.priority().is_some());
    let time = if properties.timestamp().is_some() {
        8
    } else {
        0
    };
    let headers = properties.headers().as_ref().map_or(0, table);
    AROUND + texts + bytes + time + headers
}

fn short_string(text: &ShortString) -> usize {
    1 + text.as_str().len()
}

fn entry(name: &ShortString, value: &AMQPValue) -> usize {
    short_string(name) + tagged(value)
}

fn table(fields: &FieldTable) -> usize {
    let entries = fields
        .into_iter()
        .map(|(name, value)| short_string(name) + 1 + flat(value));
    let within: usize = entries.sum();
    let nested: usize = fields.into_iter().map(|(_, value)| nested(value)).sum();
    4 + within + nested
}

pub(super) fn tagged(value: &AMQPValue) -> usize {
    1 + flat(value) + nested(value)
}

/// A value without what is within it.
fn flat(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
        AMQPValue::ShortString(text) => short_string(text),
        AMQPValue::LongString(text) => 4 + text.len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.len(),
        AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) => 4,
        AMQPValue::Void => 0,
    }
}

/// What is within a value. Without recursion, which is what a deep value would exhaust.
fn nested(value: &AMQPValue) -> usize {
    let mut sum = 0;
    let mut left = vec![value];
    while let Some(value) = left.pop() {
        match value {
            AMQPValue::FieldArray(items) => {
                for item in items.as_slice() {
                    sum += 1 + flat(item);
                    left.push(item);
                }
            }
            AMQPValue::FieldTable(fields) => {
                for (name, field) in fields {
                    sum += short_string(name) + 1 + flat(field);
                    left.push(field);
                }
            }
            _ => {}
        }
    }
    sum
}

/// Refuses what does not fit.
pub(super) fn check(
    properties: &BasicProperties,
    frame_max: usize,
    way: Way,
) -> Result<(), Refusal> {
    let (size, limit) = (frame(properties), limit(frame_max, way));
    if size > limit {
        return Err(Refusal::HeadersTooLarge { size, limit });
    }
    Ok(())
}

/// The errors that a copy carries, by how little room there is: how many, and the bytes of each.
const ERRORS: [(usize, usize); 4] = [(16, 2048), (8, 512), (1, 256), (0, 0)];

/// A copy's properties with its headers, made to fit: errors are shortened, and last of all the user's
/// headers are left out, the largest first, and counted in a header of ours.
pub(super) fn fitted(
    properties: BasicProperties,
    mut headers: FieldTable,
    errors: &[String],
    frame_max: usize,
    way: Way,
) -> Result<BasicProperties, Refusal> {
    let limit = limit(frame_max, way);
    let properties = properties.with_headers(FieldTable::default());
    let mut size = frame(&properties) - 4 + table(&headers);
    for (most, bytes) in ERRORS {
        let errors = shortened(errors, most, bytes);
        let more = errors
            .as_ref()
            .map_or(0, |errors| 1 + names::ERRORS.len() + tagged(errors));
        if size + more <= limit {
            if let Some(errors) = errors {
                insert(&mut headers, names::ERRORS, errors);
            }
            return Ok(properties.with_headers(headers));
        }
    }
    let mut kept: Vec<_> = headers.into_iter().collect();
    // Ours last, so that they are never reached; then the smallest.
    kept.sort_by_key(|(name, value)| {
        (
            names::is_ours(name.as_str()),
            std::cmp::Reverse(entry(name, value)),
        )
    });
    let mut dropped = headers
        .inner()
        .get(names::HEADERS_DROPPED)
        .and_then(unsigned)
        .unwrap_or(0);
    let marker = 1 + names::HEADERS_DROPPED.len() + 1 + 4 + 20;
    let mut kept = kept.into_iter().peekable();
    while size + marker > limit
        && let Some((name, value)) = kept.next_if(|(name, _)| !names::is_ours(name.as_str()))
    {
        size -= entry(name, value);
        dropped = dropped.saturating_add(1);
    }
    let mut fitting = FieldTable::default();
    for (name, value) in kept {
        fitting.insert(name.clone(), value.clone());
    }
    insert(
        &mut fitting,
        names::HEADERS_DROPPED,
        string(&dropped.to_string()),
    );
    let properties = properties.with_headers(fitting);
    check(&properties, frame_max, way)?;
    Ok(properties)
}

/// The errors as an array of strings. None: there are none to tell.
fn shortened(errors: &[String], most: usize, bytes: usize) -> Option<AMQPValue> {
    let texts: Vec<_> = errors
        .iter()
        .take(most)
        .map(|error| string(cut(error, bytes)))
        .collect();
    (!texts.is_empty()).then(|| AMQPValue::FieldArray(texts.into()))
}

/// At most so many bytes of a text, whole characters.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

pub(super) fn string(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

/// A header of ours: its name is short.
pub(super) fn insert(headers: &mut FieldTable, name: &'static str, value: AMQPValue) {
    headers.insert(ShortString::from(name), value);
}
