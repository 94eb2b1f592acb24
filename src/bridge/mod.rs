//! The bridge to RabbitMQ: messages that cross the process, under the same contract.
//!
//! This room knows AMQP; the others reach it by the ports and by `Backing`, and know nothing of it.
//!
//! A tree of actors under a supervisor of their own, on the bridge's own thread: two connections (`link`), the
//! `publisher`, the `consumer` of each queue, the `replies`. Each lives one life after another (`part`): it
//! waits for what it stands on, works until that fails, and is started again with backoff. What has to outlive
//! them, the messages that wait for a confirm and the deliveries in hand, is kept beside them.

mod acks;
mod admin;
mod config;
mod consumer;
mod dead_letters;
mod delay;
mod export;
mod flights;
mod guard;
mod health;
mod link;
mod port;
mod publisher;
mod queue;
#[cfg(test)]
mod rabbit;
mod replies;
mod shared;
#[cfg(feature = "testing")]
mod sweep;
mod topology;
mod tree;
mod url;
mod wire;

pub use admin::AmqpAdmin;
pub use config::{Amqp, BridgeError};
pub use topology::{
    Argument, DeleteOnly, ExchangeKind, Plan, PlanObject, QueueType, TopologyError, TopologyMode,
};

pub use wire::{
    IncomingMessage, IncomingWire, OutgoingMessage, PlainJson, Properties, WireFormat,
    WireFormatError, WireMessage,
};

#[cfg(feature = "testing")]
pub(crate) use sweep::Sweep;
pub(crate) use tree::start;

use shared::Shared;

/// The most bytes of a frame, and so of a content header, where a broker allows more or says nothing: RabbitMQ's default.
const FRAME_MAX: usize = 131_072;

/// A failure as it is told: without the user's name, which RabbitMQ says where a permission is missing.
fn explained(error: impl std::fmt::Display) -> String {
    const USER: &str = " for user '";
    let mut text = error.to_string();
    if let Some(from) = text.find(USER) {
        let name = from + USER.len();
        let to = text[name..]
            .rfind('\'')
            .map_or(text.len(), |at| name + at + 1);
        text.replace_range(from..to, "");
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_refusal_does_not_say_which_user() {
        let told = |text| super::explained(text);
        let refused = "access to queue 'q' in vhost '/' refused for user 'o'neill' (403)";
        assert_eq!(
            told(refused),
            "access to queue 'q' in vhost '/' refused (403)"
        );
        assert_eq!(told("refused for user 'cut of"), "refused");
        assert_eq!(told("another"), "another");
    }
}
