use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Failure, Retry, Verdict};

/// Why a message was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reason {
    /// Every attempt failed.
    Exhausted,
    /// The handler or the policy's classifier rejected it.
    Rejected,
    /// Its body is not what the handler's type can read.
    Undecodable,
    /// No handler of the queue takes it.
    UnknownType,
    /// The handler succeeded each time, and what it sent could not be released.
    ReleaseFailed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exhausted => "exhausted",
            Self::Rejected => "rejected",
            Self::Undecodable => "undecodable",
            Self::UnknownType => "unknown-type",
            Self::ReleaseFailed => "release-failed",
        })
    }
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextStep {
    Immediate,
    After(Duration),
    DeadLetter(Reason),
    Discard,
}

/// Decides by the contract's rules 4 and 6. `finished` counts the attempt that just failed; `random` is in
/// [0, 1). An explicit verdict wins over the policy's classifier, which wins over a plain retry.
pub(crate) fn next_step(policy: &Retry, finished: u32, failure: &Failure, random: f64) -> NextStep {
    let verdict = failure
        .verdict()
        .or_else(|| policy.classified(failure.error()))
        .unwrap_or(Verdict::Retry);
    match verdict {
        Verdict::Discard => NextStep::Discard,
        Verdict::Reject => NextStep::DeadLetter(Reason::Rejected),
        _ if finished >= policy.max_attempts() => NextStep::DeadLetter(Reason::Exhausted),
        Verdict::RetryAfter(delay) => NextStep::After(delay),
        Verdict::Retry if finished <= policy.immediate_retries() => NextStep::Immediate,
        Verdict::Retry => NextStep::After(policy.delay(finished, random)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Rule 4: the handler is started exactly `attempts` times, then there is one dead letter.
        #[test]
        fn starts_exactly_max_attempts(
            attempts in 1u32..40, immediate in 0u32..50, random in 0.0f64..1.0, after in any::<bool>(),
        ) {
            let policy = Retry::exponential(Duration::from_millis(1)..Duration::from_secs(1))
                .attempts(attempts).immediate(immediate);
            let mut starts = 0;
            let last = loop {
                starts += 1;
                let failure = if after && starts % 2 == 0 {
                    Failure::retry_after(Duration::from_secs(3), "later")
                } else {
                    Failure::retry("again")
                };
                match next_step(&policy, starts, &failure, random) {
                    NextStep::Immediate | NextStep::After(_) => {}
                    end => break end,
                }
            };
            prop_assert_eq!(starts, attempts);
            prop_assert_eq!(last, NextStep::DeadLetter(Reason::Exhausted));
        }
    }

    #[test]
    fn an_explicit_verdict_wins_over_the_classifier() {
        let policy = Retry::default().classify(|_| Some(Verdict::Discard));
        let explicit = Failure::reject("no");
        let plain = Failure::from(std::io::Error::other("io"));
        assert_eq!(
            next_step(&policy, 1, &explicit, 0.0),
            NextStep::DeadLetter(Reason::Rejected)
        );
        assert_eq!(next_step(&policy, 1, &plain, 0.0), NextStep::Discard);
    }

    #[test]
    fn the_classifier_sees_what_a_boxed_error_is() {
        let policy = Retry::default()
            .classify(|error| error.is::<std::io::Error>().then_some(Verdict::Reject));
        let boxed: Box<dyn std::error::Error + Send + Sync> = std::io::Error::other("io").into();
        assert_eq!(
            next_step(&policy, 1, &Failure::new(boxed), 0.0),
            NextStep::DeadLetter(Reason::Rejected)
        );
    }
}
