//! Time as something passed in: the bus's clock, the manual clock of tests, and the one timer service
//! that every delay, deadline and schedule of a bus runs on.

mod clock;
mod timers;

pub use clock::{Clock, ManualClock};
pub(crate) use timers::{Deadline, TimerService, within};
