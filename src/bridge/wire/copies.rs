use lapin::BasicProperties;
use lapin::types::FieldTable;

use super::headers::kind_text;
use super::incoming::Received;
use super::outgoing::{PERSISTENT, outgoing, short};
use super::plain::PlainJson;
use super::size::{self, Way, fitted, insert, string};
use super::{millis, names, seconds};
use crate::mailbox::Slot;
use crate::message::Parcel;
use crate::ports::DeadLetter;
use crate::ports::Refusal;

/// The most bytes of a header of ours that is copied: a type, a length and what a name may have.
const MOST_OF_OURS: usize = 1 + 4 + 255;

/// The properties of a copy that waits for a retry: those of the original, with what failed so far.
///
/// However long its errors, a copy fits its frame. Without its `expiration`, or it would be dropped as it
/// waits, its `user_id`, which RabbitMQ compares with ours and refuses, and its `priority`: quorum queues obey it
/// from RabbitMQ 4.0 on, and in a delay queue, where only the first message expires, the rest would wait for it.
pub(in crate::bridge) fn retry_copy(
    slot: &Slot,
    frame_max: usize,
) -> Result<BasicProperties, Refusal> {
    let (properties, mut headers) = copy(slot.parcel())?;
    let mut set = |name, text: &str| insert(&mut headers, name, string(text));
    set(names::ATTEMPTS, &slot.record().attempts.to_string());
    let mut errors: &[String] = &[];
    if let Some(history) = &slot.record().history {
        set(names::FIRST_FAILED, &millis(history.first_failed_at));
        set(names::LAST_FAILED, &millis(history.last_failed_at));
        if history.awaited_handler {
            set(names::AWAITED_HANDLER, "1");
        }
        errors = &history.errors;
    }
    fitted(properties, headers, errors, frame_max, Way::Ladder)
}

/// The properties of a dead letter: as of a retry copy, and why, where and under which id it was given up.
pub(in crate::bridge) fn dead_letter(
    letter: &DeadLetter,
    frame_max: usize,
) -> Result<BasicProperties, Refusal> {
    let (properties, mut headers) = copy(&letter.parcel)?;
    let mut set = |name, text: &str| insert(&mut headers, name, string(text));
    set(names::DEAD_LETTER_ID, &letter.id.to_string());
    set(names::QUEUE, &letter.queue);
    set(names::REASON, &letter.reason.to_string());
    set(names::ATTEMPTS, &letter.attempts.to_string());
    set(names::FIRST_FAILED, &millis(letter.first_failed_at));
    set(names::LAST_FAILED, &millis(letter.last_failed_at));
    fitted(properties, headers, &letter.errors, frame_max, Way::Queue)
}

/// The properties of a dead letter that goes back to its queue, by the default exchange: its attempts begin
/// anew.
pub(in crate::bridge) fn replayed(
    parcel: &Parcel,
    frame_max: usize,
) -> Result<BasicProperties, Refusal> {
    let (properties, headers) = copy(parcel)?;
    fitted(properties, headers, &[], frame_max, Way::Queue)
}

/// The properties as they came, and the headers without the broker's and without what tells of failures; with
/// where it was first sent, since a copy comes by another way.
fn copy(parcel: &Parcel) -> Result<(BasicProperties, FieldTable), Refusal> {
    let envelope = parcel.envelope();
    let received = parcel.body_as::<Received>();
    let made;
    let original = match received {
        Some(received) => &received.properties,
        // Made in this process: as it would have been published, the frame's limit being the copy's.
        None => {
            made = outgoing(&PlainJson, parcel, "", None, 0)?.0;
            &made
        }
    };
    let mut headers = FieldTable::default();
    for (name, value) in original.headers().iter().flatten() {
        let text = name.as_str();
        // Ours are short, or forged.
        let is_short = !names::is_ours(text) || size::tagged(value) <= MOST_OF_OURS;
        if names::is_copied(text) && is_short {
            headers.insert(name.clone(), value.clone());
        }
    }
    let id = envelope.id().to_string();
    insert(&mut headers, names::ID, string(&id));
    insert(
        &mut headers,
        names::KIND,
        string(kind_text(envelope.kind())),
    );
    insert(&mut headers, names::ADDRESS, string(envelope.address()));
    if let Some(received) = received {
        insert(&mut headers, names::EXCHANGE, string(&received.exchange));
        insert(
            &mut headers,
            names::ROUTING_KEY,
            string(&received.routing_key),
        );
    }
    if let Some(user) = original.user_id() {
        insert(&mut headers, names::USER_ID, string(user.as_str()));
    }
    if let Some(priority) = original.priority() {
        insert(&mut headers, names::PRIORITY, string(&priority.to_string()));
    }
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    properties = match original.message_id() {
        Some(id) => properties.with_message_id(id.clone()),
        // From now on it has one.
        None => properties.with_message_id(short("message id", id)?),
    };
    if let Some(text) = original.content_type() {
        properties = properties.with_content_type(text.clone());
    }
    if let Some(text) = original.content_encoding() {
        properties = properties.with_content_encoding(text.clone());
    }
    if let Some(text) = original.correlation_id() {
        properties = properties.with_correlation_id(text.clone());
    }
    if let Some(text) = original.reply_to() {
        properties = properties.with_reply_to(text.clone());
    }
    // Nor does it grow younger by a retry.
    let sent_at = original.timestamp().or_else(|| seconds(envelope.time()));
    if let Some(seconds) = sent_at {
        properties = properties.with_timestamp(seconds);
    }
    if let Some(text) = original.kind() {
        properties = properties.with_type(text.clone());
    }
    if let Some(text) = original.app_id() {
        properties = properties.with_app_id(text.clone());
    }
    if let Some(text) = original.cluster_id() {
        properties = properties.with_cluster_id(text.clone());
    }
    Ok((properties, headers))
}
