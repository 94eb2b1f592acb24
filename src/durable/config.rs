use std::time::Duration;

use crate::delivery::NEVER;

/// How durable queues are kept: a builder for [`Builder::durable_settings`](crate::Builder::durable_settings).
///
/// | setting | default | how to choose |
/// |---|---|---|
/// | `lease` | 10 s | how long a queue waits after a crash of the process that consumed it; at least 1 s, and longer than your process may stand still |
/// | `slow_poll` | 1 s | how late a message may be seen that another process wrote |
/// | `rows` | 1,000,000 | the bound of each queue: what fits on the disk, and what may wait before publishers do |
/// | `dead_letters` | 100,000 | how many failures you want to be able to replay; beyond it the oldest are deleted, and counted |
#[derive(Clone, Debug)]
#[must_use]
pub struct Durable {
    pub(crate) lease: Duration,
    pub(crate) slow_poll: Duration,
    pub(crate) rows: u64,
    pub(crate) dead_letters: u64,
}

impl Default for Durable {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            slow_poll: Duration::from_secs(1),
            rows: 1_000_000,
            dead_letters: 100_000,
        }
    }
}

impl Durable {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// For how long a process holds its queues without renewing them; it renews four times as often. At least 1 s. One deploy
    /// should shorten it by less than ten times: a lease with more of its lengths to go counts as run out.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.min(NEVER);
        self
    }

    /// How often a queue is looked at of which nothing was heard.
    pub fn slow_poll(mut self, period: Duration) -> Self {
        self.slow_poll = period.min(NEVER);
        self
    }

    /// The most rows of one queue: those that wait in the table and those that are handed out. Beyond it the queue's
    /// overflow policy says what becomes of a message. It may be exceeded by what is being
    /// written at the same moment, and by what other processes have written since the last count (30 s; 1 s while it is
    /// full).
    pub fn rows(mut self, rows: u64) -> Self {
        self.rows = rows;
        self
    }

    /// The most dead letters of all queues that keep them in the store; the oldest beyond it are deleted within some seconds.
    pub fn dead_letters(mut self, letters: u64) -> Self {
        self.dead_letters = letters;
        self
    }

    /// What is zero and must not be.
    pub(crate) fn zero(&self) -> Option<&'static str> {
        let zeros = [
            (
                self.lease < Duration::from_secs(1),
                "lease of durable queues (in seconds)",
            ),
            (self.slow_poll.is_zero(), "slow_poll of durable queues"),
            (self.rows == 0, "rows of durable queues"),
            (self.dead_letters == 0, "dead_letters of durable queues"),
        ];
        zeros.iter().find(|(zero, _)| *zero).map(|(_, what)| *what)
    }
}
