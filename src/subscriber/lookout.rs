use std::time::{Duration, Instant};

use crate::mailbox::{Mailbox, Settled};

/// The longest that a worker which ran out of messages looks for more before it sleeps. To wake it costs a
/// publisher on another thread more than some twenty messages do.
const LONGEST: Duration = Duration::from_micros(50);
/// It looks no longer than this for every message that it handled since it last slept, so that the looking
/// costs no more than the work did: what comes one by one is not looked out for.
const PER_MESSAGE: Duration = Duration::from_micros(1);

/// A worker's look for more messages before it sleeps.
#[derive(Default)]
pub(super) struct Lookout {
    /// Messages since the worker last slept.
    handled: u32,
}

impl Lookout {
    pub(super) fn handled(&mut self, messages: usize) {
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        self.handled = self.handled.saturating_add(messages);
    }

    fn patience(&self) -> Duration {
        PER_MESSAGE.saturating_mul(self.handled).min(LONGEST)
    }

    /// Where there is nothing to take, settles what was finished and lets the thread do other things until
    /// there is something, or was not for a while. Cancel safe: what was finished is settled or still held.
    pub(super) async fn stand(&mut self, mailbox: &Mailbox, settled: &mut Settled) {
        if self.handled == 0 || !mailbox.settle_and_look(settled) {
            return;
        }
        let begun = Instant::now();
        loop {
            tokio::task::yield_now().await;
            if !mailbox.is_out() {
                return;
            }
            if begun.elapsed() >= self.patience() {
                self.handled = 0;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{Order, Overflow};

    #[test]
    fn looks_no_longer_than_the_work_took_and_then_sleeps() {
        let mut lookout = Lookout::default();
        assert_eq!(lookout.patience(), Duration::ZERO);
        lookout.handled(3);
        assert_eq!(lookout.patience(), 3 * PER_MESSAGE);
        lookout.handled(usize::MAX);
        lookout.handled(usize::MAX);
        assert_eq!(lookout.patience(), LONGEST);
    }

    #[tokio::test]
    async fn gives_up_on_an_empty_mailbox() {
        let mailbox = Mailbox::new(10, Overflow::Wait, Order::Fifo);
        let mut lookout = Lookout::default();
        lookout.handled(1);
        lookout.stand(&mailbox, &mut Settled::default()).await;
        assert_eq!(lookout.handled, 0);
    }
}
