use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::message::MessageId;

/// Counts restarts in a sliding period (contract, rule 8). It remembers at most one more than is allowed.
#[derive(Clone, Debug)]
pub(crate) struct IntensityWindow {
    allowed: u32,
    period: Duration,
    restarts: VecDeque<(Instant, Option<MessageId>)>,
}

/// What a failure means to the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// It counts.
    New,
    /// A message that failed before in this period fails again: it is the poison, not the child.
    Again,
    /// It counts, and is one too many.
    Exceeded,
}

impl IntensityWindow {
    pub(crate) fn new(allowed: u32, period: Duration) -> Self {
        Self {
            allowed,
            period,
            restarts: VecDeque::new(),
        }
    }

    pub(crate) fn record(&mut self, now: Instant, message: Option<MessageId>) -> Counted {
        let period = self.period;
        self.restarts
            .retain(|(at, _)| now.saturating_duration_since(*at) < period);
        if message.is_some() && self.restarts.iter().any(|(_, known)| *known == message) {
            return Counted::Again;
        }
        self.restarts.push_back((now, message));
        if self.restarts.len() > self.allowed as usize {
            Counted::Exceeded
        } else {
            Counted::New
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_allowed_restarts_in_the_period_exceed() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut window = IntensityWindow::new(2, 10 * second);
        assert_eq!(window.record(now, None), Counted::New);
        assert_eq!(window.record(now + second, None), Counted::New);
        assert_eq!(window.record(now + 2 * second, None), Counted::Exceeded);
        assert_eq!(
            window.record(now + 20 * second, None),
            Counted::New,
            "the period slid on"
        );
    }

    #[test]
    fn one_message_counts_once() {
        let now = Instant::now();
        let mut window = IntensityWindow::new(1, Duration::from_secs(10));
        let poison = Some(MessageId::new());
        assert_eq!(window.record(now, poison), Counted::New);
        for _ in 0..100 {
            assert_eq!(window.record(now, poison), Counted::Again);
        }
        assert_eq!(
            window.record(now, Some(MessageId::new())),
            Counted::Exceeded
        );
    }
}
