//! How messages look on RabbitMQ: what is sent for a parcel, and what is read of anything that comes. Pure
//! code, without a connection. `docs/wire-format.md` describes it for other languages.
//!
//! Values of headers are dropped and copied by recursion, here as in lapin: what is nested too deeply for that
//! must not come so far.

mod copies;
mod dead;
mod format;
mod headers;
mod incoming;
mod names;
mod outgoing;
mod plain;
mod reply;
mod size;
#[cfg(test)]
mod tests;
mod value;

use std::time::SystemTime;

pub use format::{
    IncomingMessage, IncomingWire, OutgoingMessage, Properties, WireFormat, WireFormatError,
    WireMessage,
};
pub use plain::PlainJson;
pub(in crate::bridge) use {
    copies::{dead_letter, replayed, retry_copy},
    dead::{DeadMessage, read_dead_letter},
    incoming::{Arrived, ReplyAddress, copy_body, decode_with},
    outgoing::outgoing,
    reply::{NO_REPLY, read_reply, refusal, reply},
};

use crate::message::AddressKind;

/// The bridge's own exchanges that a message may come by.
#[derive(Clone, Copy, Debug)]
pub(in crate::bridge) struct Exchanges<'a> {
    pub(in crate::bridge) events: &'a str,
    pub(in crate::bridge) commands: &'a str,
    /// What is due comes by this one, or by a level of the delay ladder: a message keeps the exchange that it was
    /// last published to, whatever exchanges are bound behind it.
    pub(in crate::bridge) due: &'a str,
    /// How the names of the ladder's levels begin.
    pub(in crate::bridge) ladder: &'a str,
}

impl Exchanges<'_> {
    /// Whether only the bridge publishes there.
    fn is_retry(&self, exchange: &str) -> bool {
        exchange == self.due || exchange.starts_with(self.ladder)
    }

    fn kind_of(&self, exchange: &str) -> Option<AddressKind> {
        if exchange == self.events {
            Some(AddressKind::Topic)
        } else if exchange == self.commands {
            Some(AddressKind::Queue)
        } else {
            None
        }
    }
}

/// Seconds since the Unix epoch. None: before it.
fn seconds(time: SystemTime) -> Option<u64> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.ok().map(|since| since.as_secs())
}

/// Milliseconds since the Unix epoch in decimal digits, as a header of ours has them.
fn millis(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_millis().to_string()
}
