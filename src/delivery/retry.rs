use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::Verdict;

type Classifier = dyn Fn(&(dyn Error + 'static)) -> Option<Verdict> + Send + Sync;

/// How a queue redelivers what failed (contract, rules 4 and 6).
///
/// First the immediate retries, in hand; then waits that grow exponentially up to a cap, with jitter, which
/// hold no worker; after the last attempt a dead letter.
///
/// **Choosing the numbers.** `attempts` bounds the work that a poison message costs. Immediate retries help
/// against a lost race (a lock, a serialization failure), not against a service that is down. The waits
/// should outlast the usual outage of what the handler depends on.
///
/// ```
/// use std::time::Duration;
/// use postroom::Retry;
///
/// let policy = Retry::exponential(Duration::from_millis(100)..Duration::from_secs(30))
///     .attempts(8)
///     .immediate(1);
/// assert!(policy.validate().is_ok());
/// ```
#[derive(Clone)]
pub struct Retry {
    initial: Duration,
    cap: Duration,
    factor: f64,
    jitter: f64,
    attempts: u32,
    immediate: u32,
    classifier: Option<Arc<Classifier>>,
}

/// A retry policy that cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RetryError {
    /// No attempt at all.
    #[error("a retry policy needs at least 1 attempt")]
    NoAttempts,
    /// The first wait is longer than the longest.
    #[error("the first wait, {initial:?}, is longer than the cap, {cap:?}")]
    InitialOverCap {
        /// The first wait.
        initial: Duration,
        /// The longest wait.
        cap: Duration,
    },
    /// The factor is below 1 or not a number.
    #[error("the factor must be at least 1 and finite, not {0}")]
    Factor(f64),
    /// The jitter is outside of 0 to 1 or not a number.
    #[error("the jitter must be from 0 to 1, not {0}")]
    Jitter(f64),
}

impl Retry {
    /// Waits from `range.start`, doubling up to `range.end`.
    #[must_use]
    pub fn exponential(range: Range<Duration>) -> Self {
        Self {
            initial: range.start,
            cap: range.end,
            factor: 2.0,
            jitter: 0.2,
            attempts: 5,
            immediate: 0,
            classifier: None,
        }
    }

    /// The same wait each time, without jitter.
    #[must_use]
    pub fn fixed(wait: Duration) -> Self {
        Self {
            jitter: 0.0,
            factor: 1.0,
            ..Self::exponential(wait..wait)
        }
    }

    /// One attempt, then a dead letter.
    #[must_use]
    pub fn none() -> Self {
        Self::fixed(Duration::ZERO).attempts(1)
    }

    /// How many times the handler is started before the message is a dead letter. Default 5.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// How many of the retries follow at once. Default 0.
    #[must_use]
    pub fn immediate(mut self, retries: u32) -> Self {
        self.immediate = retries;
        self
    }

    /// By what each wait is longer than the one before. Default 2.
    #[must_use]
    pub fn factor(mut self, factor: f64) -> Self {
        self.factor = factor;
        self
    }

    /// The share of a wait that is left to chance: a wait is between `(1 - jitter)` and the whole of it, so
    /// that messages that failed together do not come back together. Default 0.2.
    #[must_use]
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// Decides by the error, where the handler itself did not (by [`Failure::reject`](crate::Failure::reject)
    /// and the like); `None` means: again, by this policy. So does a classifier that panics. It sees the error that
    /// the handler gave, and finds what is behind it by [`source`](Error::source).
    ///
    /// ```
    /// use postroom::{Retry, Verdict};
    ///
    /// let retry = Retry::default().classify(|error| {
    ///     // What is no number now will be none the next time.
    ///     error.is::<std::num::ParseIntError>().then_some(Verdict::Reject)
    /// });
    /// # let _ = retry;
    /// ```
    #[must_use]
    pub fn classify(
        mut self,
        classifier: impl Fn(&(dyn Error + 'static)) -> Option<Verdict> + Send + Sync + 'static,
    ) -> Self {
        self.classifier = Some(Arc::new(classifier));
        self
    }

    /// Whether the policy can be followed.
    ///
    /// # Errors
    /// The first number that cannot.
    pub fn validate(&self) -> Result<(), RetryError> {
        if self.attempts == 0 {
            return Err(RetryError::NoAttempts);
        }
        if self.initial > self.cap {
            return Err(RetryError::InitialOverCap {
                initial: self.initial,
                cap: self.cap,
            });
        }
        if !self.factor.is_finite() || self.factor < 1.0 {
            return Err(RetryError::Factor(self.factor));
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return Err(RetryError::Jitter(self.jitter));
        }
        Ok(())
    }

    /// How many times the handler is started.
    #[must_use]
    pub fn max_attempts(&self) -> u32 {
        self.attempts
    }

    /// How many of the retries follow at once.
    #[must_use]
    pub fn immediate_retries(&self) -> u32 {
        self.immediate
    }

    /// The wait after the attempt numbered `finished`; `random` is in [0, 1).
    #[must_use]
    pub fn delay(&self, finished: u32, random: f64) -> Duration {
        let longest = self.longest_delay(finished);
        let share = 1.0 - self.jitter * random.clamp(0.0, 1.0);
        Duration::try_from_secs_f64(longest.as_secs_f64() * share)
            .unwrap_or(longest)
            .min(longest)
    }

    fn longest_delay(&self, finished: u32) -> Duration {
        let step = finished.saturating_sub(self.immediate).saturating_sub(1);
        let grown = self.initial.as_secs_f64() * self.factor.powf(f64::from(step));
        Duration::try_from_secs_f64(grown).map_or(self.cap, |delay| delay.min(self.cap))
    }

    /// The longest that a message can spend waiting, over all of its attempts. Saturates.
    #[must_use]
    pub fn longest_hold(&self) -> Duration {
        let first = self.immediate.saturating_add(1);
        let mut hold = Duration::ZERO;
        for finished in first..self.attempts {
            let delay = self.longest_delay(finished);
            if delay == self.cap {
                let rest = self.attempts - finished;
                return hold.saturating_add(self.cap.saturating_mul(rest));
            }
            hold = hold.saturating_add(delay);
        }
        hold
    }

    pub(crate) fn classified(&self, error: &(dyn Error + 'static)) -> Option<Verdict> {
        let classifier = self.classifier.as_ref()?;
        let said = catch_unwind(AssertUnwindSafe(|| classifier(error)));
        said.unwrap_or_else(|_| {
            tracing::error!("the classifier of a retry policy panicked");
            None
        })
    }

    /// Whether two members of a group follow the same policy. Classifiers are the same only if shared.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        let numbers = |policy: &Self| {
            (
                policy.initial,
                policy.cap,
                policy.attempts,
                policy.immediate,
            )
        };
        let shares = |policy: &Self| (policy.factor.to_bits(), policy.jitter.to_bits());
        let classifier = match (&self.classifier, &other.classifier) {
            (None, None) => true,
            (Some(one), Some(two)) => Arc::ptr_eq(one, two),
            _ => false,
        };
        numbers(self) == numbers(other) && shares(self) == shares(other) && classifier
    }
}

impl Default for Retry {
    /// 5 attempts, waits from 100 ms to 30 s.
    fn default() -> Self {
        Self::exponential(Duration::from_millis(100)..Duration::from_secs(30))
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("waits", &(self.initial..self.cap))
            .field("factor", &self.factor)
            .field("jitter", &self.jitter)
            .field("attempts", &self.attempts)
            .field("immediate", &self.immediate)
            .field("classifies", &self.classifier.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_delay_stays_within_jitter_and_cap(
            initial in 0u64..10_000, more in 0u64..1_000_000, factor in 1.0f64..10.0,
            jitter in 0.0f64..=1.0, finished in 1u32.., random in 0.0f64..1.0,
        ) {
            let cap = Duration::from_millis(initial + more);
            let policy = Retry::exponential(Duration::from_millis(initial)..cap).factor(factor).jitter(jitter);
            prop_assert!(policy.validate().is_ok());
            let longest = policy.longest_delay(finished);
            let delay = policy.delay(finished, random);
            prop_assert!(delay <= longest && longest <= cap);
            prop_assert!(delay.as_secs_f64() >= longest.as_secs_f64() * (1.0 - jitter) - 1e-6);
        }

        #[test]
        fn the_hold_is_the_sum_of_the_longest_delays(attempts in 1u32..60, immediate in 0u32..5) {
            let policy = Retry::exponential(Duration::from_millis(7)..Duration::from_secs(9))
                .attempts(attempts).immediate(immediate);
            let sum: Duration = (immediate + 1..attempts).map(|n| policy.longest_delay(n)).sum();
            prop_assert_eq!(policy.longest_hold(), sum);
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let second = Duration::from_secs(1);
        assert_eq!(
            Retry::default().attempts(0).validate(),
            Err(RetryError::NoAttempts)
        );
        assert!(
            Retry::exponential(second..Duration::ZERO)
                .validate()
                .is_err()
        );
        assert!(Retry::default().factor(f64::NAN).validate().is_err());
        assert!(Retry::default().jitter(1.5).validate().is_err());
    }

    #[test]
    fn the_longest_hold_saturates() {
        let policy = Retry::fixed(Duration::MAX).attempts(u32::MAX);
        assert_eq!(policy.longest_hold(), Duration::MAX);
    }
}
