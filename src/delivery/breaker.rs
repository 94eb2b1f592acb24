use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::NEVER;

/// Pauses a subscription while too large a share of its attempts fails, and probes until one succeeds.
///
/// Closed: attempts are counted over a sliding window. Open: nothing is handed out for `pause`, and no
/// attempts are spent. Then one message is handed out as a probe (it counts as an attempt): its success
/// closes the breaker, its failure opens it for another pause.
///
/// **Choosing the numbers.** `minimum` keeps a few unlucky attempts from stopping a quiet queue: set it to what
/// comes in a few seconds. `window` is how fast it reacts. `pause` is how long what the handler calls needs
/// to recover; while it lasts the mailbox fills, so it should be shorter than the mailbox is deep.
///
/// ```
/// use std::time::Duration;
/// use postroom::Breaker;
///
/// let breaker = Breaker::new().failure_ratio(0.8).minimum(50).pause(Duration::from_secs(5));
/// assert!(breaker.validate().is_ok());
/// assert!(Breaker::new().failure_ratio(1.5).validate().is_err());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Breaker {
    ratio: f64,
    minimum: u32,
    window: Duration,
    pause: Duration,
}

/// A breaker that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BreakerError {
    /// Outside of 0 (exclusive) to 1.
    #[error("the failure ratio must be above 0 and at most 1, not {0}")]
    Ratio(f64),
    /// A minimum, window or pause of zero.
    #[error("the minimum, the window and the pause of a breaker must be above zero")]
    Zero,
}

impl Breaker {
    /// Opens when half of at least 20 attempts in 30 s failed, for 10 s.
    #[must_use]
    pub fn new() -> Self {
        Self {
            ratio: 0.5,
            minimum: 20,
            window: Duration::from_secs(30),
            pause: Duration::from_secs(10),
        }
    }

    /// The share of failed attempts at which it opens: above 0, at most 1. Default 0.5.
    #[must_use]
    pub fn failure_ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
        self
    }

    /// The fewest attempts in the window that it judges by. Default 20.
    #[must_use]
    pub fn minimum(mut self, attempts: u32) -> Self {
        self.minimum = attempts;
        self
    }

    /// How far back it looks, to a sixteenth of it. Default 30 s.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// How long it stays open before a probe. Default 10 s.
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Whether it can work.
    ///
    /// # Errors
    /// The first number that makes no sense.
    pub fn validate(&self) -> Result<(), BreakerError> {
        if !(self.ratio > 0.0 && self.ratio <= 1.0) {
            return Err(BreakerError::Ratio(self.ratio));
        }
        if self.minimum == 0 || self.window.is_zero() || self.pause.is_zero() {
            return Err(BreakerError::Zero);
        }
        Ok(())
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permit {
    Yes,
    Probe,
    /// `until` is none while a probe is under way: its end decides.
    No {
        until: Option<Instant>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BreakerChange {
    Opened { until: Instant },
    Closed,
}

/// The window in this many buckets, so that memory is bounded whatever the rate.
const BUCKETS: u32 = 16;

pub(crate) struct BreakerState {
    breaker: Breaker,
    phase: Phase,
    buckets: VecDeque<Bucket>,
}

#[derive(Clone, Copy)]
enum Phase {
    Closed,
    Open { until: Instant },
    Probing,
}

struct Bucket {
    from: Instant,
    attempts: u64,
    failures: u64,
}

impl BreakerState {
    pub(crate) fn new(breaker: Breaker) -> Self {
        Self {
            breaker,
            phase: Phase::Closed,
            buckets: VecDeque::new(),
        }
    }

    pub(crate) fn allows(&mut self, now: Instant) -> Permit {
        match self.phase {
            Phase::Closed => Permit::Yes,
            Phase::Open { until } if now < until => Permit::No { until: Some(until) },
            Phase::Open { .. } => {
                self.phase = Phase::Probing;
                Permit::Probe
            }
            Phase::Probing => Permit::No { until: None },
        }
    }

    #[cfg(feature = "amqp")]
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    pub(crate) fn record(&mut self, now: Instant, success: bool) -> Option<BreakerChange> {
        match self.phase {
            // Attempts that were under way when it opened say nothing new.
            Phase::Open { .. } => None,
            Phase::Probing if success => {
                self.phase = Phase::Closed;
                self.buckets.clear();
                Some(BreakerChange::Closed)
            }
            Phase::Probing => Some(self.open(now)),
            Phase::Closed => {
                self.count(now, success);
                self.is_failing().then(|| self.open(now))
            }
        }
    }

    /// An attempt vanished without an end. True if it may have been the probe: another one may be made.
    pub(crate) fn abandon_probe(&mut self, now: Instant) -> bool {
        if matches!(self.phase, Phase::Probing) {
            self.phase = Phase::Open { until: now };
            return true;
        }
        false
    }

    fn open(&mut self, now: Instant) -> BreakerChange {
        let until = now
            .checked_add(self.breaker.pause)
            .unwrap_or_else(|| now + NEVER);
        self.phase = Phase::Open { until };
        self.buckets.clear();
        BreakerChange::Opened { until }
    }

    fn count(&mut self, now: Instant, success: bool) {
        let window = self.breaker.window;
        while let Some(first) = self.buckets.front() {
            if now.saturating_duration_since(first.from) < window {
                break;
            }
            self.buckets.pop_front();
        }
        let width = window / BUCKETS;
        let fits = |bucket: &Bucket| now.saturating_duration_since(bucket.from) < width;
        if !self.buckets.back().is_some_and(fits) {
            self.buckets.push_back(Bucket {
                from: now,
                attempts: 0,
                failures: 0,
            });
        }
        if let Some(bucket) = self.buckets.back_mut() {
            bucket.attempts += 1;
            bucket.failures += u64::from(!success);
        }
    }

    fn is_failing(&self) -> bool {
        let attempts: u64 = self.buckets.iter().map(|bucket| bucket.attempts).sum();
        let failures: u64 = self.buckets.iter().map(|bucket| bucket.failures).sum();
        attempts >= u64::from(self.breaker.minimum)
            && failures as f64 >= self.breaker.ratio * attempts as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker() -> BreakerState {
        BreakerState::new(
            Breaker::new()
                .minimum(4)
                .window(16 * SECOND)
                .pause(10 * SECOND),
        )
    }

    #[test]
    fn opens_at_the_ratio_probes_and_closes() {
        let now = Instant::now();
        let mut state = breaker();
        for success in [true, true, false] {
            assert_eq!(state.record(now, success), None);
        }
        let until = now + 10 * SECOND;
        assert_eq!(
            state.record(now, false),
            Some(BreakerChange::Opened { until })
        );
        assert_eq!(state.allows(now), Permit::No { until: Some(until) });
        assert_eq!(state.allows(until), Permit::Probe);
        assert_eq!(
            state.allows(until),
            Permit::No { until: None },
            "one probe at a time"
        );
        assert!(matches!(
            state.record(until, false),
            Some(BreakerChange::Opened { .. })
        ));
        let again = until + 10 * SECOND;
        assert_eq!(state.allows(again), Permit::Probe);
        assert_eq!(state.record(again, true), Some(BreakerChange::Closed));
        assert_eq!(state.allows(again), Permit::Yes);
    }

    #[test]
    fn a_vanished_probe_does_not_wedge_it() {
        let now = Instant::now();
        let mut state = breaker();
        for _ in 0..4 {
            state.record(now, false);
        }
        let later = now + 10 * SECOND;
        assert_eq!(state.allows(later), Permit::Probe);
        assert!(state.abandon_probe(later));
        assert_eq!(state.allows(later), Permit::Probe);
    }

    #[test]
    fn old_failures_leave_the_window() {
        let now = Instant::now();
        let mut state = breaker();
        for second in 0..100 {
            assert_eq!(state.record(now + second * 17 * SECOND, false), None);
        }
        assert!(state.buckets.len() <= BUCKETS as usize + 1);
    }
}
