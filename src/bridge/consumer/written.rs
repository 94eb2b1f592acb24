//! What a closing channel would lose of the last settlements.

use std::time::{Duration, Instant};

/// How many settlements a quorum queue takes from a channel at once.
const TAKEN_AT_ONCE: usize = 32;
/// How long many of them may take to their queue, on a busy machine. Those that follow each other faster may be on their way
/// together.
const SETTLED_IN: Duration = Duration::from_millis(500);

/// The settlements that were written last. A quorum queue takes 32 from a channel at once; what is more waits at the channel,
/// and is lost when that is closed, even in order (`SOFT_LIMIT` in RabbitMQ's `rabbit_fifo_client`).
#[derive(Default)]
pub(super) struct Written {
    last: Option<Instant>,
    at_once: usize,
}

impl Written {
    pub(super) fn note(&mut self, frames: usize, now: Instant) {
        if frames == 0 {
            return;
        }
        match self.last {
            Some(last) if now.duration_since(last) < SETTLED_IN => self.at_once += frames,
            _ => self.at_once = frames,
        }
        self.last = Some(now);
    }

    /// When RabbitMQ's queue will have them, if that is to be waited for. RabbitMQ tells nobody that it has.
    pub(super) fn settled_at(&self) -> Option<Instant> {
        let last = self.last.filter(|_| self.at_once > TAKEN_AT_ONCE)?;
        Some(last + SETTLED_IN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_queue_takes_at_once_is_not_waited_for() {
        let (mut written, now) = (Written::default(), Instant::now());
        assert_eq!(written.settled_at(), None);
        written.note(TAKEN_AT_ONCE, now);
        written.note(0, now + SETTLED_IN / 2);
        assert_eq!(written.settled_at(), None);
    }

    #[test]
    fn many_are_waited_for_from_the_last_on() {
        let (mut written, now) = (Written::default(), Instant::now());
        written.note(TAKEN_AT_ONCE, now);
        let last = now + SETTLED_IN / 2;
        written.note(1, last);
        assert_eq!(written.settled_at(), Some(last + SETTLED_IN));
    }

    #[test]
    fn a_pause_between_them_begins_anew() {
        let (mut written, now) = (Written::default(), Instant::now());
        written.note(1_000, now);
        written.note(TAKEN_AT_ONCE, now + SETTLED_IN);
        assert_eq!(written.settled_at(), None);
    }
}
