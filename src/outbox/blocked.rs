use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The first wait of an address that takes nothing, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long after its turn one is remembered that no row was there to try.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// The most addresses whose rows are left out one by one; with more of them nothing is taken for a while.
pub(super) const MOST: usize = 256;

/// Addresses that took nothing when they were tried last: a full queue, RabbitMQ out of reach. No row is to blame, so
/// no attempt is counted; their rows stay in the database, and one of them at a time is sent to see. Pure: the time is
/// passed in.
#[derive(Default)]
pub(super) struct Blocked(HashMap<String, Block>);

struct Block {
    until: Instant,
    wait: Duration,
    /// The row that is on its way to see.
    probe: Option<i64>,
}

impl Blocked {
    /// A row found that its address takes nothing.
    pub(super) fn refused(&mut self, address: &str, position: i64, now: Instant) {
        match self.0.get_mut(address) {
            None => {
                // The rows of others may have been published by another relay.
                self.0.retain(|_, block| {
                    block.probe.is_some() || now < block.until + FORGOTTEN_AFTER
                });
                let block = Block {
                    until: now + WAITS.0,
                    wait: WAITS.0,
                    probe: None,
                };
                self.0.insert(address.to_owned(), block);
            }
            Some(block) if block.probe == Some(position) => {
                block.wait = (block.wait * 2).min(WAITS.1);
                block.until = now + block.wait;
                block.probe = None;
            }
            // One that was on its way before the address was found out.
            Some(_) => {}
        }
    }

    /// A row came through, or was refused for its own sake: its address takes messages.
    pub(super) fn passed(&mut self, address: &str) {
        self.0.remove(address);
    }

    /// A row did not get as far as to find out.
    pub(super) fn forget_probe(&mut self, address: &str, position: i64) {
        if let Some(block) = self.0.get_mut(address)
            && block.probe == Some(position)
        {
            block.probe = None;
        }
    }

    /// Whether a row may be sent: its address is open, or this is the row that sees.
    pub(super) fn admits(&mut self, address: &str, position: i64, now: Instant) -> bool {
        match self.0.get_mut(address) {
            None => true,
            Some(block) if block.probe.is_none() && now >= block.until => {
                block.probe = Some(position);
                true
            }
            Some(block) => block.probe == Some(position),
        }
    }

    /// The addresses of which nothing is to be taken.
    pub(super) fn closed(&self, now: Instant) -> Vec<String> {
        let closed = self
            .0
            .iter()
            .filter(|(_, block)| now < block.until || block.probe.is_some());
        closed.map(|(address, _)| address.clone()).collect()
    }

    /// When one of them is to be tried next. One whose time has come is tried by the first row of it that is read; there may
    /// be none.
    pub(super) fn next_try(&self, now: Instant) -> Option<Instant> {
        let waiting = self.0.values().filter(|block| block.probe.is_none());
        waiting
            .map(|block| block.until)
            .filter(|until| *until > now)
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_at_a_time_sees_whether_an_address_takes_messages_again() {
        let start = Instant::now();
        let mut blocked = Blocked::default();
        assert!(blocked.admits("a", 1, start));
        blocked.refused("a", 1, start);
        blocked.refused("a", 2, start);
        assert!(!blocked.admits("a", 3, start));
        assert_eq!(blocked.closed(start), ["a"]);
        assert_eq!(blocked.next_try(start), Some(start + WAITS.0));
        let later = start + WAITS.0;
        // Its rows may have been published by another relay.
        assert_eq!(blocked.next_try(later), None);
        assert!(blocked.closed(later).is_empty());
        assert!(blocked.admits("a", 3, later));
        assert!(!blocked.admits("a", 4, later));
        assert_eq!(blocked.closed(later), ["a"], "its rows stay while one sees");
        blocked.refused("a", 3, later);
        assert_eq!(blocked.next_try(later), Some(later + WAITS.0 * 2));
        blocked.passed("a");
        assert!(blocked.admits("a", 4, later));
        assert!(blocked.closed(later).is_empty());
    }

    #[test]
    fn an_address_that_nobody_tries_any_more_is_forgotten() {
        let start = Instant::now();
        let mut blocked = Blocked::default();
        blocked.refused("a", 1, start);
        blocked.refused("b", 2, start);
        let later = start + WAITS.0 + FORGOTTEN_AFTER;
        assert!(blocked.admits("b", 3, later));
        blocked.refused("c", 4, later);
        let mut known: Vec<_> = blocked.0.keys().map(String::as_str).collect();
        known.sort_unstable();
        assert_eq!(known, ["b", "c"], "what is tried is not forgotten");
    }

    #[test]
    fn a_probe_that_did_not_get_there_leaves_its_place_to_another() {
        let start = Instant::now();
        let mut blocked = Blocked::default();
        blocked.refused("a", 1, start);
        let later = start + WAITS.0;
        assert!(blocked.admits("a", 2, later));
        blocked.forget_probe("a", 2);
        assert!(blocked.admits("a", 3, later));
    }
}
