use std::sync::atomic::Ordering;

use super::QueueCore;
use crate::mailbox::halt;
use crate::ports::{Condition, HealthSource, Problem};

impl HealthSource for QueueCore {
    fn examine(&self, found: &mut Vec<Condition>) {
        let halted = self.mailbox.halted();
        let not_stored = self.not_stored.load(Ordering::Relaxed);
        let is_served = self.workers.load(Ordering::Relaxed) > 0;
        let is_connected = self.backing().is_connected();
        let is_well = not_stored == 0 && is_served && is_connected;
        // The lock is taken only where there may be something to tell.
        if halted & !halt::SEAT == 0 && is_well || self.mailbox.is_closed() {
            return;
        }
        let has_ended = halted & halt::ENDED != 0;
        let is_suspended = !has_ended && halted & halt::SUSPENDED != 0;
        let problems = [
            (is_suspended, Problem::Suspended),
            (!is_connected, Problem::NotConnected),
            (has_ended, Problem::Ended),
            (!is_served && !is_suspended && !has_ended, Problem::NoWorker),
            (halted & halt::PAUSED != 0, Problem::Paused),
            (halted & halt::BREAKER != 0, Problem::BreakerOpen),
            (halted & halt::STALLED != 0, Problem::Stalled),
        ];
        let problems = problems.into_iter().filter(|(is_so, _)| *is_so);
        found.extend(problems.map(|(_, problem)| Condition::new(&self.name, problem)));
        if not_stored > 0 {
            found.push(Condition {
                detail: Some(format!("{not_stored} messages wait for their dead letter")),
                ..Condition::new(&self.name, Problem::DeadLettersNotStored)
            });
        }
    }
}
