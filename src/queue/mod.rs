//! A queue: its mailbox, its rules, and the actor that waits for retries and makes dead letters.
//!
//! The happy path never comes here: publishers push into the mailbox and workers settle there. The actor
//! lives on the control thread and is started at the first failure.

mod actor;
mod backing;
mod breaker;
mod core;
mod health;
mod spec;
mod state;

pub(crate) use self::core::{QueueCore, Services};
pub(crate) use actor::CloseQueue;
pub(crate) use backing::{Backing, Foundation, Memory};
pub(crate) use breaker::BreakerGate;
pub(crate) use spec::QueueSpec;
pub use state::SubscriptionState;
