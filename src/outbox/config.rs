use std::time::Duration;

use crate::delivery::NEVER;

/// How the outbox is relayed: a builder for [`Builder::relay`](crate::Builder::relay).
///
/// | setting | default | how to choose |
/// |---|---|---|
/// | `lease` | 10 s | how long rows wait after a crash of the process that held them; at least 1 s, and longer than your process may stand still |
/// | `window` | 1024 rows | rows on their way, or behind one of their key, at once; times the largest body it is the memory used. After a crash at most twice as many are published again |
/// | `slow_poll` | 1 s | how late a row may be seen that another process wrote |
/// | `attempts` | 10 | with the backoff, how long a row's own trouble may last: some 8 minutes by default |
/// | `backoff` | 1 s to 5 min | |
/// | `publish_timeout` | 10 s | longer than RabbitMQ takes to confirm when it is slow |
/// | `keep_published` | zero: a row is deleted as it is published | how far back you want to look with SQL; a row is written twice more then |
/// | `keep_handled` | 7 days | longer than the longest retry, delay and replay of a message: what is older is not known as a duplicate |
/// | `clean_batch` | 500 rows | the most that one deletion may lock |
#[derive(Clone, Debug)]
#[must_use]
pub struct Relay {
    pub(crate) lease: Duration,
    pub(crate) window: u32,
    pub(crate) slow_poll: Duration,
    pub(crate) attempts: u32,
    pub(crate) backoff: (Duration, Duration),
    pub(crate) publish_timeout: Duration,
    pub(crate) keep_published: Duration,
    pub(crate) keep_handled: Duration,
    pub(crate) clean_batch: u32,
    pub(crate) starts_with_bus: bool,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            window: 1024,
            slow_poll: Duration::from_secs(1),
            attempts: 10,
            backoff: (Duration::from_secs(1), Duration::from_secs(300)),
            publish_timeout: Duration::from_secs(10),
            keep_published: Duration::ZERO,
            keep_handled: Duration::from_secs(7 * 24 * 3600),
            clean_batch: 500,
            starts_with_bus: false,
        }
    }
}

impl Relay {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// For how long a relay holds its lanes without renewing them; it renews four times as often. At least 1 s. One deploy
    /// should shorten it by less than ten times: a lease with more of its lengths to go counts as run out.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.min(NEVER);
        self
    }

    /// The most rows in memory with their bodies: those on their way, and those behind one of their key. As many again
    /// may have been published and not be marked yet, each a few numbers, so after a crash of the process at most
    /// twice the window is published again, with the same ids.
    pub fn window(mut self, rows: u32) -> Self {
        self.window = rows;
        self
    }

    /// How often an outbox is looked at of which nothing was heard.
    pub fn slow_poll(mut self, period: Duration) -> Self {
        self.slow_poll = period.min(NEVER);
        self
    }

    /// How often a row is tried that fails for a reason of its own; then it is given up.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// The wait after the first failure, doubled after each further one up to the cap.
    pub fn backoff(mut self, waits: std::ops::Range<Duration>) -> Self {
        self.backoff = (waits.start.min(NEVER), waits.end.min(NEVER));
        self
    }

    /// How long RabbitMQ may take to confirm; a local queue that is full is waited for a second at most.
    pub fn publish_timeout(mut self, timeout: Duration) -> Self {
        self.publish_timeout = timeout.min(NEVER);
        self
    }

    /// How long a published row stays to be looked at; zero: it is deleted as it is published.
    pub fn keep_published(mut self, time: Duration) -> Self {
        self.keep_published = time.min(NEVER);
        self
    }

    /// How long the inbox knows what was handled.
    pub fn keep_handled(mut self, time: Duration) -> Self {
        self.keep_handled = time.min(NEVER);
        self
    }

    /// The most rows that one statement of the clean-up deletes.
    pub fn clean_batch(mut self, rows: u32) -> Self {
        self.clean_batch = rows;
        self
    }

    /// Starts relaying with the bus, before its subscribers are there. Only for a bus that publishes to RabbitMQ
    /// alone: an event that comes before its local subscribers is published to nobody.
    pub fn start_with_bus(mut self) -> Self {
        self.starts_with_bus = true;
        self
    }

    /// What is zero and must not be.
    pub(crate) fn zero(&self) -> Option<&'static str> {
        let zeros = [
            (self.lease < Duration::from_secs(1), "lease (in seconds)"),
            (self.window == 0, "window"),
            (self.attempts == 0, "attempts"),
            (self.clean_batch == 0, "clean_batch"),
            (self.slow_poll.is_zero(), "slow_poll"),
            (self.publish_timeout.is_zero(), "publish_timeout"),
        ];
        zeros.iter().find(|(zero, _)| *zero).map(|(_, what)| *what)
    }

    /// The wait after so many failures; none: there were enough.
    pub(crate) fn retry_in(&self, failures: u32) -> Option<Duration> {
        if failures >= self.attempts {
            return None;
        }
        let doubled = 1_u32
            .checked_shl(failures.saturating_sub(1))
            .unwrap_or(u32::MAX);
        Some(self.backoff.0.saturating_mul(doubled).min(self.backoff.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_end() {
        let relay = Relay::new()
            .attempts(5)
            .backoff(Duration::from_secs(1)..Duration::from_secs(5));
        let waits: Vec<_> = (1..=5).map(|failures| relay.retry_in(failures)).collect();
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(
            waits,
            [seconds(1), seconds(2), seconds(4), seconds(5), None]
        );
        assert_eq!(Relay::new().attempts(99).retry_in(70), seconds(300));
    }
}
