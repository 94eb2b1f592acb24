//! The bridge to RabbitMQ: messages that cross the process, under the same contract.
//!
//! This room knows AMQP; the others reach it by the ports and by `Backing`, and know nothing of it.

mod acks;
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        unused_imports,
        reason = "the actors that use it are not there yet"
    )
)]
mod delay;
mod guard;
#[cfg(test)]
mod rabbit;
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        unused_imports,
        reason = "the actors that use it are not there yet"
    )
)]
mod topology;
mod wire;

pub use topology::{
    Argument, ExchangeKind, Plan, PlanObject, QueueType, TopologyError, TopologyMode,
};
