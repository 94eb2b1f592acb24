use std::time::{Duration, Instant};

/// Names a timer, so that it can be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerKey {
    pub(crate) at: Instant,
    pub(crate) number: u64,
}

/// Runs short actions later, on the bus's clock.
pub(crate) trait Timers: Send + Sync {
    fn now(&self) -> Instant;
    fn after(&self, delay: Duration, run: Box<dyn FnOnce() + Send>) -> TimerKey;
    fn cancel(&self, key: TimerKey);
}
