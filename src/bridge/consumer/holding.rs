//! For how long a consumer may keep what it does not hand out.

use std::time::{Duration, Instant};

/// How long a queue may hand nothing out before what was not started goes back to RabbitMQ.
const AT_MOST: Duration = Duration::from_secs(30);
/// The same where a breaker stands in the way, which ends by itself: all replicas have theirs, and each return counts
/// towards the delivery limit. Well below RabbitMQ's consumer timeout of 30 minutes.
const BY_BREAKER: Duration = Duration::from_secs(600);

/// Whether a queue hands out its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bridge) enum HandOver {
    Goes,
    /// A breaker lets one message through at a time, to see whether it is well again.
    Probes,
    /// A breaker lets none through.
    Broken,
    /// Somebody has to resume it.
    Halted,
}

/// Since when nothing is handed out, over all channels; and whether it was so for too long.
#[derive(Default)]
pub(in crate::bridge) struct Holding {
    since: Option<Instant>,
    rests: bool,
}

impl Holding {
    /// Whether to give back what was not started, and to consume nothing more.
    pub(super) fn look(&mut self, hand_over: HandOver, now: Instant) -> bool {
        // Where all went back a probe needs one again.
        if hand_over == HandOver::Goes || hand_over == HandOver::Probes && self.rests {
            *self = Self::default();
            return false;
        }
        let at_most = match hand_over {
            HandOver::Halted => AT_MOST,
            _ => BY_BREAKER,
        };
        let since = *self.since.get_or_insert(now);
        self.rests = now.saturating_duration_since(since) >= at_most;
        self.rests
    }

    /// What the last look answered.
    pub(in crate::bridge) fn rests(&self) -> bool {
        self.rests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_paused_for_long_goes_back_until_it_is_resumed() {
        let (mut holding, start) = (Holding::default(), Instant::now());
        assert!(!holding.look(HandOver::Goes, start));
        assert!(!holding.look(HandOver::Halted, start));
        assert!(!holding.look(HandOver::Halted, start + 29 * SECOND));
        assert!(holding.look(HandOver::Halted, start + 30 * SECOND));
        assert!(holding.look(HandOver::Halted, start + 3_000 * SECOND));
        assert!(!holding.look(HandOver::Goes, start + 3_001 * SECOND));
        assert!(!holding.look(HandOver::Halted, start + 3_002 * SECOND));
    }

    /// A probe every 15 s that fails is no hand-over: what is held behind it comes to RabbitMQ's consumer timeout.
    #[test]
    fn a_breaker_that_only_probes_holds_for_ten_minutes() {
        let (mut holding, start) = (Holding::default(), Instant::now());
        let mut now = start;
        let mut rested = Vec::new();
        while now < start + 1_300 * SECOND {
            for hand_over in [HandOver::Probes, HandOver::Broken] {
                if holding.look(hand_over, now) {
                    rested.push((now - start).as_secs());
                }
                now += 5 * SECOND;
            }
        }
        // It goes back, the next probe has one again, and the time begins anew.
        assert_eq!(rested, [600, 605, 1_215]);
    }

    #[test]
    fn a_breaker_that_closes_begins_anew() {
        let (mut holding, start) = (Holding::default(), Instant::now());
        assert!(!holding.look(HandOver::Broken, start));
        assert!(!holding.look(HandOver::Goes, start + 500 * SECOND));
        assert!(!holding.look(HandOver::Broken, start + 501 * SECOND));
        assert!(!holding.look(HandOver::Broken, start + 1_100 * SECOND));
        assert!(holding.look(HandOver::Broken, start + 1_101 * SECOND));
    }
}
