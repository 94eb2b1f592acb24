//! The rules of delivery as pure code: no I/O, no actors; time and chance are passed in.

mod attempt;
mod backoff;
mod breaker;
mod failure;
mod intensity;
mod lanes;
mod order;
mod restart;
mod retry;

pub use attempt::Reason;
pub(crate) use attempt::{NextStep, next_step};
pub(crate) use backoff::Backoff;
pub use breaker::{Breaker, BreakerError};
pub(crate) use breaker::{BreakerChange, BreakerState, Permit};
pub use failure::{Failure, Outcome, Verdict};
pub(crate) use intensity::{Counted, IntensityWindow};
pub(crate) use lanes::Lanes;
pub use order::{Order, Overflow};
pub(crate) use restart::{ExitKind, affected, should_restart};
pub use restart::{Restart, Strategy};
pub use retry::{Retry, RetryError};

/// What a clock cannot express, or nobody lives to see, never comes: 30 years stand for it.
pub(crate) const NEVER: std::time::Duration = std::time::Duration::from_secs(946_080_000);
