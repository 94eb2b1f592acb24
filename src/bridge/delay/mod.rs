//! Delays of any length without a plugin: a ladder of queues with a time to live.
//!
//! Level n has a topic exchange and a quorum queue, its rung, in which a message waits for 2ⁿ units and is then
//! dead-lettered to the exchange of level n-1; below level 0 is `{prefix}.due`. The routing key has the binary
//! digits of the delay as words, highest level first, then the address of the queue to come back to. The exchange
//! of a level looks at its own digit alone: 1 is the way into its rung, 0 the way past it.
//!
//! ```text
//! 500 ms = 5 units = 101₂          0.….0.1.0.1.{address}
//!
//! delay.2 ─1─► rung, 400 ms ─► delay.1 ─0─► delay.0 ─1─► rung, 100 ms ─► due ─► the queue of the address
//! ```
//!
//! One rung has one time to live, so that no message waits behind a longer one. A message enters at the level of
//! its highest digit, so that only the levels up to that need to be there.
//!
//! A copy that is sent through the ladder must have no `x-death` (the broker drops what it takes for a cycle), no
//! `expiration` (it would shorten a rung), and no `CC` or `BCC` (they are routing keys too).

mod address;
mod entry;
mod ladder;
#[cfg(test)]
mod rabbit;

pub(in crate::bridge) use address::Address;
#[cfg(feature = "testing")]
pub(in crate::bridge) use entry::LEVELS;
pub(in crate::bridge) use entry::entry;
pub(in crate::bridge) use ladder::{destination_plan, ladder_plan};
