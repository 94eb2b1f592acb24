use std::time::Instant;

/// What of a queue is to be read, and when. Pure: the time is passed in.
#[derive(Default)]
pub(super) struct Agenda {
    /// Rows may be there that were not read.
    has_more: bool,
    /// When the next waiting row is due that is known of, and whether that is to be asked.
    due: Option<Instant>,
    asks_due: bool,
    /// When it is to be looked again at what was not read.
    again: Option<Instant>,
}

impl Agenda {
    /// Rows may have come.
    pub(super) fn has_come(&mut self) {
        self.has_more = true;
    }

    /// What nobody tells of may have come.
    pub(super) fn may_have_come(&mut self) {
        self.has_more = true;
        self.asks_due = true;
    }

    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }

    /// Whether there is something to read. What is due from now on is: who cannot read it yet is told when he can, and
    /// is not to wait for a time that has passed.
    pub(super) fn wants(&mut self, now: Instant) -> bool {
        self.again = None;
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.may_have_come();
        }
        self.has_more
    }

    /// All is read that is there by now.
    pub(super) fn reads(&mut self) {
        self.has_more = false;
    }

    /// Whether it is to be asked when the next row is due. Once.
    pub(super) fn asks_due(&mut self) -> bool {
        std::mem::take(&mut self.asks_due)
    }

    /// A row is due then. True: that is sooner than what is known of.
    pub(super) fn is_due_at(&mut self, at: Instant) -> bool {
        let is_sooner = self.due.is_none_or(|due| at < due);
        if is_sooner {
            self.due = Some(at);
        }
        is_sooner
    }

    /// It is to be looked then at what is there by now, though nobody rings.
    pub(super) fn look_at(&mut self, at: Instant) {
        self.again = Some(at);
    }

    pub(super) fn next_look(&self) -> Option<Instant> {
        self.due.into_iter().chain(self.again).min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_due_is_to_be_read_from_then_on() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut agenda = Agenda::default();
        assert!(agenda.is_due_at(later));
        assert!(!agenda.is_due_at(later + Duration::from_secs(1)));
        assert!(!agenda.wants(now));
        assert_eq!(agenda.next_look(), Some(later));
        assert!(agenda.wants(later));
        // Who cannot read it yet does not wait for a time that has passed.
        assert_eq!(agenda.next_look(), None);
        assert!(agenda.wants(later));
        assert!(agenda.asks_due() && !agenda.asks_due());
        agenda.reads();
        assert!(!agenda.wants(later));
    }

    #[test]
    fn what_is_there_and_was_not_read_is_looked_at_again() {
        let now = Instant::now();
        let soon = now + Duration::from_millis(5);
        let mut agenda = Agenda::default();
        agenda.has_come();
        assert!(agenda.wants(now));
        agenda.look_at(soon);
        agenda.is_due_at(now + Duration::from_secs(1));
        assert_eq!(agenda.next_look(), Some(soon));
        assert!(agenda.wants(soon));
        assert_eq!(agenda.next_look(), Some(now + Duration::from_secs(1)));
    }
}
