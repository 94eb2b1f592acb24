//! What a bus tells of itself: counts, depths and rates; its health; handlers that block their thread.

mod health;
mod rates;
mod snapshot;
mod watchdog;

pub use health::Health;
pub use rates::Rates;
pub use snapshot::{QueueSnapshot, Snapshot};
pub(crate) use watchdog::Watchdog;
