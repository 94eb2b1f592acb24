use std::time::{Duration, Instant};

/// The first interval at which an outbox is looked at that something was written into.
const FAST: Duration = Duration::from_millis(1);
/// How often it is looked at so fast, before the intervals double.
const FAST_LOOKS: u32 = 8;

/// When the outbox is looked at next. Pure, but for the present time.
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
    pub(super) fn new(slow: Duration) -> Self {
        let now = Instant::now();
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

    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }

    /// Whether rows are to be read though nothing is heard of a change.
    pub(super) fn must_read(&self, now: Instant) -> bool {
        now >= self.read_at + self.slow || self.due.is_some_and(|due| due <= now)
    }

    pub(super) fn at_once(&mut self) {
        self.next = Instant::now();
    }

    /// Whether the next look is as soon as it would be after something was written.
    pub(super) fn is_fast(&self) -> bool {
        self.next <= Instant::now() + FAST.min(self.slow)
    }

    /// Something was written, and may be committed at any time.
    pub(super) fn fast(&mut self) {
        self.interval = FAST.min(self.slow);
        self.looks = 0;
        self.next = self.next.min(Instant::now() + self.interval);
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.next = Instant::now() + time;
    }

    /// Rows were read.
    pub(super) fn read(&mut self, found: bool, due: Option<Instant>) {
        self.read_at = Instant::now();
        let is_late = !found && due.is_some_and(|due| due <= self.read_at);
        self.late = if is_late { self.late + 1 } else { 0 };
        self.due = match is_late {
            true => Some(self.read_at + self.patience()),
            false => due,
        };
        if found {
            self.fast();
            self.next = self.read_at + self.interval;
        } else {
            self.found_nothing();
        }
    }

    /// For what is due and not for us: it may be by the time that we look again, or may not for long.
    fn patience(&self) -> Duration {
        let doublings = self.late.saturating_sub(FAST_LOOKS).min(16);
        (FAST * 2_u32.pow(doublings)).min(self.slow)
    }

    pub(super) fn found_nothing(&mut self) {
        self.looks += 1;
        if self.looks > FAST_LOOKS {
            self.interval = (self.interval * 2).min(self.slow);
        }
        let now = Instant::now();
        self.next = now + self.interval;
        if let Some(due) = self.due {
            self.next = self.next.min(due.max(now + FAST));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_and_not_for_us_is_looked_for_less_and_less() {
        let slow = Duration::from_secs(1);
        let mut pace = Pace::new(slow);
        let due = || Some(Instant::now());
        let waits = |pace: &Pace| pace.next.saturating_duration_since(pace.read_at);
        pace.read(false, due());
        assert!(waits(&pace) < Duration::from_millis(10));
        for _ in 0..30 {
            pace.read(false, due());
        }
        assert!(waits(&pace) >= slow);
        // Ours again: at once.
        pace.read(true, None);
        pace.read(false, due());
        assert!(waits(&pace) < Duration::from_millis(10));
    }
}
