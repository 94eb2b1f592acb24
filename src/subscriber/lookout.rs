use std::time::{Duration, Instant};

use crate::mailbox::Demand;

/// The longest that a worker which ran out of messages looks for more before it sleeps. To wake it costs a
/// publisher on another thread more than some twenty messages do.
const LONGEST: Duration = Duration::from_micros(50);
/// It looks no longer than this for every message that it handled since it last slept, so that the looking
/// costs no more than the work did: what comes one by one is not looked out for.
const PER_MESSAGE: Duration = Duration::from_micros(1);
/// What a worker that is busy takes at once. Fewer are left for one turn of its thread, until there are more:
/// to ask for each costs it and its publishers the memory of the mailbox, which goes from core to core.
const WORTH_TAKING: usize = 32;

/// A worker's look for more messages before it sleeps.
#[derive(Default)]
pub(super) struct Lookout {
    /// Messages since the worker last slept, or looked in vain.
    handled: u32,
    /// Since when it looks.
    since: Option<Instant>,
}

impl Lookout {
    /// What the worker asks the mailbox for. One whose handlers wait asks for `one`.
    #[inline]
    pub(super) fn demand(&self, one: bool) -> Demand {
        let is_looking = self.since.is_some();
        Demand {
            least: match self.handled == 0 || is_looking || one {
                true => 1,
                false => WORTH_TAKING,
            },
            or_sleep: self.handled == 0,
            one,
        }
    }

    /// There were so many, and they are in hand.
    pub(super) fn found(&mut self, messages: usize) {
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        self.handled = self.handled.saturating_add(messages);
        self.since = None;
    }

    /// There were too few: the thread does other things for a turn.
    pub(super) async fn wait(&mut self) {
        let since = *self.since.get_or_insert_with(Instant::now);
        tokio::task::yield_now().await;
        if since.elapsed() >= self.patience() {
            *self = Self::default();
        }
    }

    fn patience(&self) -> Duration {
        PER_MESSAGE.saturating_mul(self.handled).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn looks_no_longer_than_the_work_took_and_then_sleeps() {
        let mut lookout = Lookout::default();
        assert!(lookout.demand(false).or_sleep, "it has done nothing yet");
        lookout.found(3);
        assert_eq!(lookout.patience(), 3 * PER_MESSAGE);
        assert_eq!(lookout.demand(false).least, WORTH_TAKING);
        assert_eq!(lookout.demand(true).least, 1);
        lookout.wait().await;
        assert_eq!(lookout.demand(false).least, 1);
        while !lookout.demand(false).or_sleep {
            lookout.wait().await;
        }
        lookout.found(usize::MAX);
        lookout.found(usize::MAX);
        assert_eq!(lookout.patience(), LONGEST);
    }
}
