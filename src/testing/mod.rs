//! The testing kit, behind the feature `testing`: see what a bus did, make it fail on purpose, move its time,
//! and hold a backing to the delivery contract.
//!
//! | tool | what for |
//! |---|---|
//! | [`ManualClock`](crate::ManualClock) | time that stands still until a test moves it |
//! | [`Bus::settle`](crate::Bus::settle) | waits until nothing is left to do at the present time |
//! | [`advance`] | moves the time from one thing that is due to the next, and lets each be done |
//! | [`Recorder`] | what was published, handled, failed and dead-lettered |
//! | [`Faults`] | handlers that fail, panic or hang, at the attempts that a test chooses |
//! | [`conformance`] | the delivery contract as scenarios, for every backing |
//! | [`Builder::encode_always`](crate::Builder::encode_always) | every message goes through JSON, as over AMQP |
//!
//! ```
//! use std::time::Duration;
//! use postroom::testing::{Fault, Faults, Recorder, advance};
//! use postroom::{Bus, Context, Event, ManualClock, Retry};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! struct OrderPaid { order: u64 }
//! impl Event for OrderPaid { const TOPIC: &'static str = "ordering.order-paid"; }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let clock = ManualClock::new();
//! let recorder = Recorder::new();
//! let faults = Faults::new();
//! faults.add(Fault::panic("on purpose").queue("mailer").attempt(1));
//! let bus = Bus::builder("shop")
//!     .clock(clock.clock())
//!     .intercept(recorder.clone())
//!     .intercept(faults.clone())
//!     .start().await?;
//! bus.subscribe_fn::<OrderPaid, _>("mailer", async |_: &OrderPaid, _: &mut Context<'_>| Ok(()))
//!     .retry(Retry::fixed(Duration::from_secs(60)))
//!     .start().await?;
//!
//! bus.publish(OrderPaid { order: 7 }).await?;
//! bus.settle().await;
//! assert_eq!(recorder.published::<OrderPaid>(), [OrderPaid { order: 7 }]);
//! assert_eq!(recorder.failed().len(), 1);
//!
//! advance(&bus, &clock, Duration::from_secs(60)).await;
//! assert_eq!(recorder.handled::<OrderPaid>("mailer"), [OrderPaid { order: 7 }]);
//! assert_eq!(faults.injected().panicked, 1);
//! # bus.shutdown(Duration::from_secs(5)).await;
//! # Ok(()) }
//! ```

mod advance;
pub mod conformance;
mod faults;
mod recorder;

pub use advance::advance;
pub use faults::{Fault, Faults, Injected};
pub use recorder::{Record, Recorder};
