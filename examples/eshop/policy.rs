//! How the services are supervised in this program.
//!
//! Faults are injected on purpose here, far more than a healthy service has. So a subscription may restart
//! very often before its supervisor suspends it, and waits are short, so that a run takes seconds.

use std::ops::Range;
use std::time::Duration;

use postroom::Retry;

/// How many orders a service works on at a time.
pub const LANES: usize = 16;

/// The bound of every queue.
pub const MAILBOX: usize = 8192;

/// More restarts than this in [`PERIOD`] suspend a subscription.
pub const RESTARTS: u32 = 100_000;
pub const PERIOD: Duration = Duration::from_secs(60);

/// The waits between restarts that follow each other closely.
pub const BACKOFF: Range<Duration> = Duration::from_millis(1)..Duration::from_millis(5);

/// A handler that takes longer is given up on.
pub const TIMEOUT: Duration = Duration::from_millis(60);

/// Three retries, the first of them at once; then the message is a dead letter.
pub fn retry() -> Retry {
    Retry::exponential(Duration::from_millis(2)..Duration::from_millis(50))
        .attempts(4)
        .immediate(1)
}
