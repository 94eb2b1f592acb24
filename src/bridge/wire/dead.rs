use std::time::{Duration, SystemTime};

use lapin::types::{AMQPValue, FieldTable};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as TextError;

use super::format::WireFormat;
use super::headers::Headers;
use super::incoming::{Arrived, Decoded, Received, copy_body, decode_with, stable_id};
use super::plain::LAST_SECOND;
use super::{Exchanges, names, value};
use crate::delivery::Reason;
use crate::message::{MessageId, Parcel};
use crate::ports::DeadLetterId;

/// A message of a queue's dead letters, read back.
pub(in crate::bridge) struct DeadMessage {
    /// Its own id, the same each time it is read.
    pub(in crate::bridge) id: DeadLetterId,
    pub(in crate::bridge) reason: Reason,
    pub(in crate::bridge) errors: Vec<String>,
    pub(in crate::bridge) attempts: u32,
    pub(in crate::bridge) first_failed_at: SystemTime,
    pub(in crate::bridge) last_failed_at: SystemTime,
    pub(in crate::bridge) parcel: Parcel<Received>,
}

/// Reads a message of `{queue}.dead`: ours, or one that RabbitMQ itself gave up, because of a delivery limit.
pub(in crate::bridge) fn read_dead_letter(
    format: &dyn WireFormat,
    mut arrived: Arrived,
    queue: &str,
    exchanges: Exchanges<'_>,
) -> DeadMessage {
    let headers = Headers(arrived.properties.headers().as_ref());
    if let Some(reason) = headers.string(names::REASON) {
        let note = Note {
            id: headers.id(names::DEAD_LETTER_ID),
            reason: reason_from(&reason),
            errors: headers.errors(),
            attempts: headers.attempts(),
            first: headers.time(names::FIRST_FAILED),
            last: headers.time(names::LAST_FAILED),
        };
        // Only its own headers say where it came from first.
        arrived.exchange.clear();
        return note.of(decode_with(format, arrived, exchanges), queue);
    }
    let story = Story::of(headers, queue);
    let (reason, why) = story.reason(queue);
    let seconds = story.seconds;
    arrived.exchange = story.exchange;
    arrived.routing_key = story.routing_key.unwrap_or(arrived.routing_key);
    let decoded = decode_with(format, arrived, exchanges);
    let history = decoded.history.as_deref();
    let time = seconds.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    let mut errors = vec![why];
    errors.extend(
        history
            .into_iter()
            .flat_map(|history| history.errors.clone()),
    );
    let note = Note {
        id: None,
        reason,
        errors,
        attempts: decoded.attempts,
        first: history.map(|history| history.first_failed_at).or(time),
        last: time,
    };
    note.of(decoded, queue)
}

/// What is known of a dead letter beside the message.
struct Note {
    id: Option<MessageId>,
    reason: Reason,
    errors: Vec<String>,
    attempts: u32,
    first: Option<SystemTime>,
    last: Option<SystemTime>,
}

impl Note {
    fn of(self, decoded: Decoded, queue: &str) -> DeadMessage {
        let parcel = decoded.parcel;
        let known = self.last.or(self.first);
        let last = known.unwrap_or_else(|| parcel.about().time());
        DeadMessage {
            id: DeadLetterId::of(self.id.unwrap_or_else(|| identity(&parcel, queue, known))),
            reason: self.reason,
            errors: self.errors,
            attempts: self.attempts,
            first_failed_at: self.first.unwrap_or(last),
            last_failed_at: last,
            parcel,
        }
    }
}

/// Of what makes one dead letter another than the next, so that it is found again under the same id: nothing
/// that is of this reading.
fn identity(parcel: &Parcel<Received>, queue: &str, failed: Option<SystemTime>) -> MessageId {
    let named = parcel.kept().properties.message_id();
    let named = named.as_ref().map(ToString::to_string).unwrap_or_default();
    let body = String::from_utf8_lossy(copy_body(parcel).unwrap_or_default());
    let time = failed.map(super::millis).unwrap_or_default();
    stable_id(&[queue, &named, &time, &body])
}

/// What RabbitMQ wrote about how the message came into the queue of dead letters.
#[derive(Default)]
struct Story {
    exchange: String,
    routing_key: Option<String>,
    reason: Option<String>,
    seconds: Option<u64>,
}

impl Story {
    /// The entry of `x-death` that names the queue; there are others of the ladder of delays.
    fn of(headers: Headers<'_>, queue: &str) -> Self {
        let Some(AMQPValue::FieldArray(entries)) = headers.get("x-death") else {
            return Self::default();
        };
        let tables = entries
            .as_slice()
            .iter()
            .filter_map(AMQPValue::as_field_table);
        let of_queue =
            |table: &&FieldTable| Headers(Some(table)).string("queue").as_deref() == Some(queue);
        let Some(table) = tables.into_iter().find(of_queue) else {
            return Self::default();
        };
        let entry = Headers(Some(table));
        let routing_key = match entry.get("routing-keys") {
            Some(AMQPValue::FieldArray(keys)) => keys.as_slice().first().map(value::text),
            _ => None,
        };
        let seconds = match entry.get("time") {
            Some(AMQPValue::Timestamp(seconds)) => Some(*seconds),
            _ => None,
        };
        Self {
            exchange: entry.string("exchange").unwrap_or_default(),
            routing_key,
            reason: entry.string("reason"),
            seconds: seconds.filter(|seconds| *seconds <= LAST_SECOND),
        }
    }

    /// The nearest of our reasons, and RabbitMQ's own words.
    fn reason(&self, queue: &str) -> (Reason, String) {
        let said = self.reason.as_deref().unwrap_or("no reason given");
        let reason = match said {
            "delivery_limit" => Reason::Exhausted,
            _ => Reason::Rejected,
        };
        (reason, format!("RabbitMQ gave it up in `{queue}`: {said}"))
    }
}

/// A reason of a later version is read as the most general one.
fn reason_from(text: &str) -> Reason {
    let text = IntoDeserializer::<TextError>::into_deserializer(text);
    Reason::deserialize(text).unwrap_or(Reason::Rejected)
}
