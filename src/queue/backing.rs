use super::QueueCore;
use crate::delivery::Reason;
use crate::mailbox::{Ending, Slot};
use std::time::Duration;

/// How a delivery is settled, whatever its queue stands on: memory, a store, RabbitMQ.
///
/// Workers and the queue actor know only this. What a settlement promises (contract, rule 5): the retry
/// copy or the dead letter is safe before the original is gone; where that fails the original stays.
/// All methods return at once; what takes time goes on behind them while the message keeps its credit.
pub(crate) trait Backing: Send + Sync {
    /// The handler succeeded and its releases were accepted. The mailbox's books are kept by the worker.
    fn acked(&self, token: u64);
    /// To be handed over again after `delay`, its failed attempt counted.
    fn retry_after(&self, queue: &QueueCore, slot: Slot, delay: Duration);
    /// To be handed over again at once, by whichever worker comes first.
    fn retry_now(&self, queue: &QueueCore, slot: Slot);
    /// Given up.
    fn dead_letter(&self, queue: &QueueCore, slot: Slot, reason: Reason);
    /// Ended without a trace but its count.
    fn end(&self, queue: &QueueCore, slot: Slot, ending: Ending);
}

/// A queue in this process's memory.
pub(crate) struct Memory;

impl Backing for Memory {
    fn acked(&self, _token: u64) {}

    fn retry_after(&self, queue: &QueueCore, slot: Slot, delay: Duration) {
        queue.mailbox.start_waiting(slot.key());
        queue.actor().do_send(super::actor::Wait { slot, delay });
    }

    fn retry_now(&self, queue: &QueueCore, slot: Slot) {
        queue.mailbox.retry_now(slot);
    }

    fn dead_letter(&self, queue: &QueueCore, slot: Slot, reason: Reason) {
        let bury = super::actor::Bury {
            slot,
            reason,
            again: false,
        };
        queue.actor().do_send(bury);
    }

    fn end(&self, queue: &QueueCore, slot: Slot, ending: Ending) {
        queue.mailbox.end_in_flight(ending, slot.key());
        queue.refuse_reply(&slot, ending);
        if ending == Ending::Expired {
            // It may have been let through as the breaker's probe, and was not tried.
            queue.abandon_probe();
        }
    }
}
