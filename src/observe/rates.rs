use std::time::Duration;

use serde::Serialize;

/// How fast one queue's counts rose between two snapshots, each per second.
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let bus = postroom::Bus::builder("shop").start().await?;
/// let earlier = bus.snapshot();
/// // … some seconds later …
/// for rates in bus.snapshot().since(&earlier) {
///     println!("{}: {:.1} in, {:.1} handled a second", rates.queue, rates.accepted, rates.acked);
/// }
/// # bus.shutdown(Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Rates {
    /// The queue's name.
    pub queue: String,
    /// The time between the two, by the bus's clock. All rates are 0 where it is.
    pub over: Duration,
    /// Taken, replays included.
    pub accepted: f64,
    /// Handled with success.
    pub acked: f64,
    /// Attempts after a first one.
    pub retried: f64,
    /// Given up.
    pub dead_lettered: f64,
    /// Thrown away by a handler's verdict.
    pub discarded: f64,
    /// Too old when their turn came.
    pub expired: f64,
    /// Dropped by the overflow policy.
    pub dropped: f64,
    /// Refused for lack of room.
    pub refused: f64,
    /// Workers started again.
    pub restarts: f64,
}
