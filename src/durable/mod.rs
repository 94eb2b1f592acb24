//! Durable queues: local queues whose messages, attempts, waiting retries and dead letters are rows of the store. Delayed
//! messages of a bus with a store are written here too, into the outbox.
//!
//! Three parts, each an actor with a connection of its own, on the thread of the store: one holds the queues by lease,
//! one writes (many publishers and settlements in one transaction), one reads what is to be handed out. A fourth one listens,
//! where the database tells of what is written. They start with
//! the first durable queue or delayed message.

mod agenda;
mod backing;
mod config;
mod consumer;
mod hand;
mod lease;
mod letters;
mod listener;
mod publication;
mod queue;
mod replies;
mod schedules;
mod settlement;
mod shared;
mod stored;
mod writer;
mod writes;

pub use config::Durable;
pub(crate) use shared::Shared;
