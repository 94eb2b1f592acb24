//! The bridge to RabbitMQ: messages that cross the process, under the same contract.
//!
//! This room knows AMQP; the others reach it by the ports and by `Backing`, and know nothing of it.

mod acks;
mod delay;
mod guard;
mod topology;
mod wire;

pub use wire::{
    IncomingMessage, IncomingWire, OutgoingMessage, PlainJson, Properties, WireFormat,
    WireFormatError, WireMessage,
};
