//! The names of the headers that are not the user's.

use crate::message::NameError;

pub(super) const PREFIX: &str = "x-postroom-";
pub(super) const TRACEPARENT: &str = "traceparent";

// Of every message.
pub(super) const KEY: &str = "x-postroom-key";
pub(super) const CAUSATION: &str = "x-postroom-causation";
pub(super) const EXPIRES: &str = "x-postroom-expires";
pub(super) const CONVERSATION: &str = "x-postroom-conversation";

// Of a retry copy and of a dead letter.
pub(super) const ID: &str = "x-postroom-id";
pub(super) const ADDRESS: &str = "x-postroom-address";
pub(super) const KIND: &str = "x-postroom-kind";
pub(super) const EXCHANGE: &str = "x-postroom-exchange";
pub(super) const ROUTING_KEY: &str = "x-postroom-routing-key";
pub(super) const USER_ID: &str = "x-postroom-user-id";
pub(super) const PRIORITY: &str = "x-postroom-priority";
pub(super) const ATTEMPTS: &str = "x-postroom-attempts";
pub(super) const FIRST_FAILED: &str = "x-postroom-first-failed";
pub(super) const LAST_FAILED: &str = "x-postroom-last-failed";
pub(super) const ERRORS: &str = "x-postroom-errors";
pub(super) const AWAITED_HANDLER: &str = "x-postroom-awaited-handler";
pub(super) const HEADERS_DROPPED: &str = "x-postroom-headers-dropped";

// Of a dead letter alone.
pub(super) const DEAD_LETTER_ID: &str = "x-postroom-dead-letter-id";
pub(super) const REASON: &str = "x-postroom-reason";
pub(super) const QUEUE: &str = "x-postroom-queue";

// Of a reply.
pub(super) const REFUSAL: &str = "x-postroom-refusal";

/// What a copy keeps of ours; the rest it writes anew, or it tells of failures.
const KEPT: [&str; 6] = [KEY, CAUSATION, EXPIRES, CONVERSATION, USER_ID, PRIORITY];

/// Whether a copy keeps a header. Of ours only what is known: what anybody else wrote under our prefix has no bound, and is
/// never left out to make a copy fit.
pub(super) fn is_copied(name: &str) -> bool {
    if is_ours(name) {
        KEPT.contains(&name) || name == HEADERS_DROPPED
    } else {
        !is_brokers(name)
    }
}

/// What the broker reads or writes itself. On a copy it would route a second time, or tell an old story.
pub(super) fn is_brokers(name: &str) -> bool {
    matches!(
        name,
        "CC" | "BCC" | "x-death" | "x-delivery-count" | "x-acquired-count"
    ) || name.starts_with("x-first-death-")
        || name.starts_with("x-last-death-")
}

pub(super) fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Whether a user's message may have a header of this name.
pub(super) fn validate_user_header(name: &str) -> Result<(), NameError> {
    crate::message::validate_header(name)?;
    if is_ours(name) || is_brokers(name) || name == TRACEPARENT {
        return Err(NameError::Reserved {
            what: "header",
            name: name.to_owned(),
            purpose: "what it or RabbitMQ sets itself",
        });
    }
    Ok(())
}
