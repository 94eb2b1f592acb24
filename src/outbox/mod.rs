//! The outbox's relay: it publishes what was written in transactions, after they committed.
//!
//! Three parts, each an actor with a connection of its own, on a thread of their own: one renews the lease over the
//! lanes, one publishes, one cleans up and counts. A fourth one listens, where the database tells of what is written.

mod blocked;
mod config;
mod flight;
mod flights;
mod handle;
mod keeper;
mod landing;
mod lanes;
mod lease;
mod listener;
mod memory;
mod pace;
mod relay;
mod shared;
mod spread;

pub use config::Relay;
pub use handle::Outbox;
pub(crate) use shared::{Settings, Shared, start};
