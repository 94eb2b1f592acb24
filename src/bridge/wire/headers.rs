//! A message's headers, read as what we write.

use std::time::{Duration, SystemTime};

use lapin::types::{AMQPValue, FieldTable};

use super::plain::LAST_SECOND;
use super::{names, size, value};
use crate::mailbox::History;
use crate::message::{Address, AddressKind, MessageId, Name, validate_queue, validate_topic};

/// The most errors that are read back of a copy, and the most bytes of each.
const MOST_ERRORS: usize = 16;
const LONGEST_ERROR: usize = 4 * 1024;

/// A message's headers, read as what we write.
#[derive(Clone, Copy)]
pub(super) struct Headers<'a>(pub(super) Option<&'a FieldTable>);

impl Headers<'_> {
    pub(super) fn get(&self, name: &str) -> Option<&AMQPValue> {
        self.0?.inner().get(name)
    }

    pub(super) fn string(&self, name: &str) -> Option<String> {
        match self.get(name)? {
            AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok(),
            _ => None,
        }
    }

    pub(super) fn id(&self, name: &str) -> Option<MessageId> {
        self.string(name)?.parse().ok()
    }

    /// Milliseconds since the Unix epoch.
    pub(super) fn time(&self, name: &str) -> Option<SystemTime> {
        let ms = value::unsigned(self.get(name)?)?;
        (ms / 1000 <= LAST_SECOND).then(|| SystemTime::UNIX_EPOCH + Duration::from_millis(ms))
    }

    pub(super) fn attempts(&self) -> u32 {
        let attempts = self.get(names::ATTEMPTS).and_then(value::unsigned);
        attempts
            .and_then(|attempts| u32::try_from(attempts).ok())
            .unwrap_or(0)
    }

    pub(super) fn errors(&self) -> Vec<String> {
        let Some(AMQPValue::FieldArray(errors)) = self.get(names::ERRORS) else {
            return Vec::new();
        };
        let errors = errors.as_slice().iter().take(MOST_ERRORS);
        errors
            .map(|error| size::cut(&value::text(error), LONGEST_ERROR).to_owned())
            .collect()
    }

    /// The attempts that have finished, and how they failed.
    pub(super) fn failures(&self) -> (u32, Option<Box<History>>) {
        let attempts = self.attempts();
        let last = self.time(names::LAST_FAILED);
        let first = self.time(names::FIRST_FAILED);
        let awaited_handler = self.get(names::AWAITED_HANDLER).is_some();
        let has_failed = attempts > 0 || awaited_handler;
        let history = last.or(first).filter(|_| has_failed).map(|known| {
            Box::new(History {
                errors: self.errors(),
                first_failed_at: first.unwrap_or(known),
                last_failed_at: last.unwrap_or(known),
                awaited_handler,
                unfit: None,
            })
        });
        (attempts, history)
    }

    /// The address that a copy was first received on.
    pub(super) fn address(&self) -> Option<Address> {
        let kind = kind_from(&self.string(names::KIND)?)?;
        let name = self
            .string(names::ADDRESS)
            .filter(|name| is_name(kind, name))?;
        Some(Address {
            kind,
            name: Name::Shared(name.into()),
        })
    }
}

pub(super) fn kind_text(kind: AddressKind) -> &'static str {
    match kind {
        AddressKind::Topic => "event",
        AddressKind::Queue => "command",
    }
}

fn kind_from(text: &str) -> Option<AddressKind> {
    match text {
        "event" => Some(AddressKind::Topic),
        "command" => Some(AddressKind::Queue),
        _ => None,
    }
}

pub(super) fn is_name(kind: AddressKind, name: &str) -> bool {
    match kind {
        AddressKind::Topic => validate_topic(name).is_ok(),
        AddressKind::Queue => validate_queue(name).is_ok(),
    }
}
