use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::queue::{StoreQueue, millis};
use super::settlement::What;
use crate::delivery::{NEVER, Reason};
use crate::mailbox::{Ending, History, Slot};
use crate::queue::{Backing, QueueCore};
use crate::store::Failures;

/// How long a message that no handler takes waits once for a deploy that brings one.
const UNKNOWN_TYPE_DELAY: Duration = Duration::from_secs(600);

/// How a message failed so far, as its row keeps it.
fn failures(slot: &Slot, history: Option<&History>) -> Failures {
    let history = history.cloned();
    let history = history.unwrap_or_else(|| History::new(Vec::new(), SystemTime::UNIX_EPOCH));
    Failures {
        attempts: slot.record().attempts,
        errors: history.errors,
        first_failed_ms: millis(history.first_failed_at),
        last_failed_ms: millis(history.last_failed_at),
        awaited_handler: history.awaited_handler,
    }
}

/// A durable queue's settle interface; a type of its own, since settlements hold their queue.
pub(super) struct StoreBacking(pub(super) Arc<StoreQueue>);

impl Backing for StoreBacking {
    fn acked(&self, token: u64) {
        let settled = self.0.settle(token, |delivery| {
            (!delivery.is_buried).then_some(What::Done)
        });
        if settled.is_none() {
            self.0.writes.count_lost(1);
        }
    }

    fn is_live(&self, token: u64) -> bool {
        self.0.is_live(token)
    }

    fn may_start(&self, token: u64) -> bool {
        self.0.may_start(token)
    }

    fn retry_after(&self, queue: &QueueCore, slot: Slot, delay: Duration) {
        let delay = delay.min(NEVER);
        let failures = failures(&slot, slot.record().history.as_deref());
        // The lane waits in place, or its successors would overtake it.
        if queue.spec.order.is_keyed() {
            self.0.note(slot.record().token, failures);
            queue.wait_in_memory(slot, delay);
            return;
        }
        queue.mailbox.start_waiting(queue.lane_of(&slot));
        let core = queue.shared();
        let settled = self.0.settle(slot.record().token, |_| {
            Some(What::Retried {
                failures,
                delay,
                core,
                key: queue.lane_of(&slot),
            })
        });
        if settled.is_none() {
            self.0.writes.count_lost(1);
            queue
                .mailbox
                .end_waiting_as(Ending::Returned, queue.lane_of(&slot));
        }
    }

    fn retry_now(&self, queue: &QueueCore, slot: Slot) {
        queue.mailbox.retry_now(slot);
    }

    fn dead_letter(&self, queue: &QueueCore, slot: Slot, reason: Reason) {
        queue.bury(slot, reason);
    }

    fn end(&self, queue: &QueueCore, slot: Slot, ending: Ending) {
        match ending {
            Ending::Returned => {
                let failures = failures(&slot, slot.record().history.as_deref());
                self.0.give_back_failed(slot.record().token, failures);
            }
            _ => self.acked(slot.record().token),
        }
        queue.end_in_flight(&slot, ending);
    }

    fn halted(&self) {
        self.0.look_for_room();
    }

    fn unknown_type_delay(&self) -> Option<Duration> {
        Some(UNKNOWN_TYPE_DELAY)
    }

    fn is_bridged(&self) -> bool {
        false
    }

    fn is_stored(&self) -> bool {
        true
    }

    fn is_connected(&self) -> bool {
        true
    }
}
