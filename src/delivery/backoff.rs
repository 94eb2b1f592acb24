use std::time::{Duration, Instant};

/// The waits between restarts: the first after a quiet period is at once, then they double up to a cap.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    initial: Duration,
    cap: Duration,
    quiet: Duration,
    step: u32,
    last: Option<Instant>,
}

/// The share of a wait that is left to chance.
const JITTER: f64 = 0.2;

impl Backoff {
    pub(crate) fn new(initial: Duration, cap: Duration, quiet: Duration) -> Self {
        Self {
            initial,
            cap,
            quiet,
            step: 0,
            last: None,
        }
    }

    /// The wait before the next restart; `random` is in [0, 1).
    pub(crate) fn next(&mut self, now: Instant, random: f64) -> Duration {
        let quiet = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) > self.quiet);
        self.step = if quiet {
            0
        } else {
            self.step.saturating_add(1)
        };
        if self.step == 0 {
            self.last = Some(now);
            return Duration::ZERO;
        }
        let doublings = 1u32.checked_shl(self.step - 1).unwrap_or(u32::MAX);
        let longest = self.initial.saturating_mul(doublings).min(self.cap);
        let share = 1.0 - JITTER * random.clamp(0.0, 1.0);
        let wait = Duration::try_from_secs_f64(longest.as_secs_f64() * share).unwrap_or(longest);
        // Quiet counts from the restart, not from the failure before it.
        self.last = now.checked_add(wait).or(Some(now));
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_and_resets_after_quiet() {
        let second = Duration::from_secs(1);
        let mut now = Instant::now();
        let mut backoff = Backoff::new(second, 5 * second, 60 * second);
        let waits: Vec<_> = (0..6)
            .map(|_| {
                let wait = backoff.next(now, 0.0);
                now += wait;
                wait.as_secs()
            })
            .collect();
        assert_eq!(waits, [0, 1, 2, 4, 5, 5]);
        assert_eq!(backoff.next(now + 61 * second, 0.0), Duration::ZERO);
    }

    #[test]
    fn a_wait_without_end_is_a_wait() {
        let now = Instant::now();
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX, Duration::MAX);
        assert_eq!(backoff.next(now, 0.0), Duration::ZERO);
        assert_eq!(backoff.next(now, 0.0), Duration::MAX);
        assert!(backoff.next(now, 0.5) > Duration::MAX / 2);
    }
}
