use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use super::QueueCore;
use crate::delivery::Reason;
use crate::mailbox::{Ending, Slot};
use crate::ports::DeadLetterSink;

/// How a delivery is settled, whatever its queue stands on: memory, a store, RabbitMQ.
///
/// Workers and the queue actor know only this. What a settlement promises (contract, rule 5): the retry
/// copy or the dead letter is safe before the original is gone; where that fails the original stays.
/// All methods return at once; what takes time goes on behind them while the message keeps its credit.
pub(crate) trait Backing: Any + Send + Sync {
    /// The handler succeeded and its releases were accepted, or its dead letter is stored. The mailbox's books
    /// are kept by the caller.
    fn acked(&self, token: u64);
    /// Whether a delivery can still be settled. One that cannot comes again.
    fn is_live(&self, token: u64) -> bool;
    /// Whether a delivery may be handed to a handler now. One that may not comes again.
    fn may_start(&self, token: u64) -> bool {
        self.is_live(token)
    }
    /// To be handed over again after `delay`, its failed attempt counted.
    fn retry_after(&self, queue: &QueueCore, slot: Slot, delay: Duration);
    /// To be handed over again at once, by whichever worker comes first.
    fn retry_now(&self, queue: &QueueCore, slot: Slot);
    /// Given up.
    fn dead_letter(&self, queue: &QueueCore, slot: Slot, reason: Reason);
    /// Ended without a trace but its count.
    fn end(&self, queue: &QueueCore, slot: Slot, ending: Ending);
    /// How long a message that no handler takes waits once for one, before it is given up: other replicas may
    /// be of another version. None: it is given up at once.
    fn unknown_type_delay(&self) -> Option<Duration>;
    /// Told when its queue was suspended, has ended or was closed: who waits for room outside of the process looks again.
    fn halted(&self) {}
    /// Takes what was delivered to this process and is held back from its mailbox, to be purged.
    fn take_held(&self) -> Vec<Slot> {
        Vec::new()
    }
    /// Whether its messages come from outside of the process, so that local publishes do not go to it.
    fn is_bridged(&self) -> bool;
    /// Whether its messages are rows of the store, from which they are handed over.
    fn is_stored(&self) -> bool {
        false
    }
    /// Whether what it does not settle is kept elsewhere, and comes again.
    fn is_kept_elsewhere(&self) -> bool {
        self.is_bridged() || self.is_stored()
    }
    /// Whether messages can come to it: false while a queue outside of the process is not there, or out of reach.
    fn is_connected(&self) -> bool;
}

/// What a queue stands on.
#[derive(Clone)]
pub(crate) struct Foundation {
    pub(crate) backing: Arc<dyn Backing>,
    /// Where its dead letters are kept.
    pub(crate) dead_letters: Arc<dyn DeadLetterSink>,
}

/// A queue in this process's memory.
pub(crate) struct Memory;

impl Backing for Memory {
    fn acked(&self, _token: u64) {}

    fn is_live(&self, _token: u64) -> bool {
        true
    }

    fn retry_after(&self, queue: &QueueCore, slot: Slot, delay: Duration) {
        queue.wait_in_memory(slot, delay);
    }

    fn retry_now(&self, queue: &QueueCore, slot: Slot) {
        queue.mailbox.retry_now(slot);
    }

    fn dead_letter(&self, queue: &QueueCore, slot: Slot, reason: Reason) {
        queue.bury(slot, reason);
    }

    fn end(&self, queue: &QueueCore, slot: Slot, ending: Ending) {
        queue.end_in_flight(&slot, ending);
    }

    fn unknown_type_delay(&self) -> Option<Duration> {
        None
    }

    fn is_bridged(&self) -> bool {
        false
    }

    fn is_connected(&self) -> bool {
        true
    }
}

/// What backings are made of.
impl QueueCore {
    /// A failed message waits here, with its credit.
    pub(crate) fn wait_in_memory(&self, slot: Slot, delay: Duration) {
        // From here, and not from when the actor comes to it.
        let since = self.services.timers.now();
        self.mailbox.start_waiting(self.lane_of(&slot));
        self.actor()
            .do_send(super::actor::Wait { slot, since, delay });
    }

    /// The queue's actor stores a dead letter and then ends the message.
    pub(crate) fn bury(&self, slot: Slot, reason: Reason) {
        self.actor().do_send(super::actor::Bury { slot, reason });
    }

    /// Makes a dead letter of a message that no handler is to see.
    pub(crate) fn give_up_unseen(&self, slot: Slot, reason: Reason) {
        // It may have been let through as the breaker's probe, and was not tried.
        self.abandon_probe();
        self.backing().dead_letter(self, slot, reason);
    }

    pub(crate) fn end_in_flight(&self, slot: &Slot, ending: Ending) {
        self.mailbox.end_in_flight(ending, self.lane_of(slot));
        self.refuse_reply(slot, ending);
        if matches!(ending, Ending::Expired | Ending::Returned) {
            // It may have been let through as the breaker's probe, and was not tried.
            self.abandon_probe();
        }
    }
}
