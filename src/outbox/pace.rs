use std::time::{Duration, Instant};

/// The first interval at which an outbox is looked at that something was written into.
const FAST: Duration = Duration::from_millis(1);
/// How often it is looked at so fast, before the intervals double.
const FAST_LOOKS: u32 = 8;

/// When the outbox is looked at next. Pure: the time is passed in.
pub(super) struct Pace {
    pub(super) next: Instant,
    interval: Duration,
    looks: u32,
    slow: Duration,
    /// When something is due that is known of.
    due: Option<Instant>,
    /// How often something was due, and not for us: of lanes that another one holds, or behind something else.
    late: u32,
    /// When rows were read last.
    read_at: Instant,
}

impl Pace {
    pub(super) fn new(slow: Duration, now: Instant) -> Self {
        Self {
            next: now,
            interval: FAST.min(slow),
            looks: 0,
            slow,
            due: None,
            late: 0,
            read_at: now,
        }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// Whether rows are to be read though nothing is heard of a change.
    pub(super) fn must_read(&self, now: Instant) -> bool {
        now >= self.read_at + self.slow || self.due.is_some_and(|due| due <= now)
    }

    pub(super) fn at_once(&mut self, now: Instant) {
        self.next = now;
    }

    /// Whether the next look is as soon as it would be after something was written.
    pub(super) fn is_fast(&self, now: Instant) -> bool {
        self.next <= now + FAST.min(self.slow)
    }

    /// Something was written, and may be committed at any time.
    pub(super) fn fast(&mut self, now: Instant) {
        self.interval = FAST.min(self.slow);
        self.looks = 0;
        self.next = self.next.min(now + self.interval);
    }

    /// Not before.
    pub(super) fn look_at(&mut self, at: Instant) {
        self.next = at;
    }

    /// Something is due then.
    pub(super) fn due_at(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
        self.next = self.next.min(at);
    }

    /// There is nothing that we could do for what is due.
    pub(super) fn forget_due(&mut self) {
        self.due = None;
    }

    /// Rows were read. Whether some are due though nothing was `found`, and when the next ones are.
    pub(super) fn read(
        &mut self,
        found: bool,
        is_past: bool,
        next_due: Option<Instant>,
        now: Instant,
    ) {
        self.read_at = now;
        let is_late = !found && is_past;
        self.late = if is_late { self.late + 1 } else { 0 };
        let again = is_late.then(|| now + self.patience());
        self.due = again.into_iter().chain(next_due).min();
        if found {
            self.fast(now);
            self.next = now + self.interval;
        } else {
            self.found_nothing(now);
        }
    }

    /// For what is due and not for us: it may be by the time that we look again, or may not for long.
    fn patience(&self) -> Duration {
        let doublings = self.late.saturating_sub(FAST_LOOKS).min(16);
        (FAST * 2_u32.pow(doublings)).min(self.slow)
    }

    pub(super) fn found_nothing(&mut self, now: Instant) {
        self.looks = self.looks.saturating_add(1);
        if self.looks > FAST_LOOKS {
            self.interval = (self.interval * 2).min(self.slow);
        }
        self.next = now + self.interval;
        if let Some(due) = self.due {
            self.next = self.next.min(due.max(now + FAST));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_secs(600);

    /// At rest: nothing was found for long.
    fn at_rest(now: Instant) -> Pace {
        let mut pace = Pace::new(SLOW, now);
        for _ in 0..40 {
            pace.read(false, false, None, now);
        }
        assert_eq!(pace.next, now + SLOW);
        pace
    }

    #[test]
    fn what_is_due_and_not_for_us_is_looked_for_less_and_less() {
        let now = Instant::now();
        let mut pace = Pace::new(SLOW, now);
        pace.read(false, true, None, now);
        assert_eq!(pace.next, now + FAST);
        for _ in 0..40 {
            pace.read(false, true, None, now);
        }
        assert!(pace.next > now + Duration::from_secs(60));
        // Ours again: at once.
        pace.read(true, false, None, now);
        pace.read(false, true, None, now);
        assert_eq!(pace.next, now + FAST);
    }

    #[test]
    fn what_is_due_and_not_for_us_hides_nothing_that_comes() {
        let now = Instant::now();
        let later = now + Duration::from_secs(2);
        let mut pace = at_rest(now);
        for _ in 0..40 {
            pace.read(false, true, Some(later), now);
        }
        assert_eq!(pace.next, later);
        assert!(!pace.must_read(now) && pace.must_read(later));
    }

    #[test]
    fn what_is_found_out_between_two_looks_is_looked_at_in_its_time() {
        let now = Instant::now();
        let soon = now + Duration::from_millis(100);
        let mut pace = at_rest(now);
        pace.due_at(soon);
        pace.due_at(soon + FAST);
        assert_eq!(pace.next, soon);
        assert!(pace.must_read(soon));
    }

    #[test]
    fn nobody_looks_again_and_again_at_what_he_can_do_nothing_for() {
        let now = Instant::now();
        let mut pace = at_rest(now);
        pace.due_at(now);
        pace.forget_due();
        pace.found_nothing(now);
        assert_eq!(pace.next, now + SLOW);
    }

    #[test]
    fn after_something_was_written_it_is_looked_fast_and_then_less_and_less() {
        let now = Instant::now();
        let mut pace = at_rest(now);
        assert!(!pace.is_fast(now));
        pace.fast(now);
        assert!(pace.is_fast(now) && pace.is_due(now + FAST));
        for _ in 0..FAST_LOOKS {
            pace.found_nothing(now);
            assert_eq!(pace.next, now + FAST);
        }
        pace.found_nothing(now);
        assert_eq!(pace.next, now + FAST * 2);
    }
}
