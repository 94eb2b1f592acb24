use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::oneshot;

use super::StoreQueue;
use crate::durable::hand::Delivery;
use crate::durable::settlement::{Settlement, What};
use crate::ports::DeadLetter;
use crate::store::{Failures, TakenRow};

/// What becomes of what is in hand.
impl StoreQueue {
    pub(in crate::durable) fn is_live(&self, token: u64) -> bool {
        self.state.lock().hand.is_live(token)
    }

    pub(in crate::durable) fn may_start(&self, token: u64) -> bool {
        self.state.lock().hand.may_start(token, Instant::now())
    }

    pub(in crate::durable) fn give_back(&self, token: u64) {
        let was_there = {
            let mut state = self.state.lock();
            let was_there = state.hand.give_back(token);
            if was_there {
                state.agenda.has_come();
            }
            was_there
        };
        if was_there && !self.is_detached() {
            self.look.notify_one();
        }
    }

    /// Writes what became of a delivery. None: it is not in hand any more, and comes again.
    pub(in crate::durable) fn settle(
        self: &Arc<Self>,
        token: u64,
        what: impl FnOnce(&Delivery) -> Option<What>,
    ) -> Option<()> {
        let (settlement, is_urgent) = {
            let mut state = self.state.lock();
            let (delivery, fence) = state.hand.settle(token)?;
            let settlement = what(&delivery).map(|what| Settlement {
                queue: Arc::clone(self),
                position: delivery.position,
                fence,
                what,
            });
            let keeps_reply = matches!(
                settlement,
                Some(Settlement {
                    what: What::Retried { .. },
                    ..
                })
            );
            if !keeps_reply {
                self.replies.forget(delivery.message);
            }
            // Others cannot be handed out for what is not written.
            let most = self.core().map_or(0, |core| core.mailbox.capacity() / 2);
            let is_urgent = state.hand.count_settling() >= most.max(1);
            (settlement, is_urgent)
        };
        match settlement {
            Some(settlement) => self.writes.settle(settlement, is_urgent),
            // Its row is gone already, and what waited for it was not told yet.
            None => self.look.notify_one(),
        }
        Some(())
    }

    /// Writes how a message has failed that stays in hand, so that its attempts outlive a crash.
    pub(in crate::durable) fn note(self: &Arc<Self>, token: u64, failures: Failures) {
        let row = self.state.lock().hand.row(token);
        if let Some(row) = row {
            self.write_note(row, failures, None);
        }
    }

    /// Gives a delivery back whose retry is not to be begun here, with how it has failed.
    pub(in crate::durable) fn give_back_failed(self: &Arc<Self>, token: u64, failures: Failures) {
        let row = self.state.lock().hand.goes_back(token);
        match row {
            Some(row) => self.write_note(row, failures, Some(token)),
            None => self.give_back(token),
        }
    }

    fn write_note(self: &Arc<Self>, row: TakenRow, failures: Failures, goes_back: Option<u64>) {
        let settlement = Settlement {
            queue: Arc::clone(self),
            position: row.position,
            fence: row.fence,
            what: What::Noted {
                failures,
                goes_back,
            },
        };
        self.writes.settle(settlement, goes_back.is_some());
    }

    /// Stores a dead letter in place of its row. False: the row is another process's by now.
    pub(in crate::durable) fn bury(
        self: &Arc<Self>,
        letter: &DeadLetter,
    ) -> Option<oneshot::Receiver<bool>> {
        let row = self.state.lock().hand.row(letter.token)?;
        let (answer, wait) = oneshot::channel();
        let settlement = Settlement {
            queue: Arc::clone(self),
            position: row.position,
            fence: row.fence,
            what: What::Buried {
                letter: letter.id.to_string(),
                reason: letter.reason.to_string(),
                failures: failures_of(letter),
                answer,
            },
        };
        self.writes.settle(settlement, true);
        Some(wait)
    }

    /// What became of [`bury`](Self::bury).
    pub(in crate::durable) fn buried(&self, token: u64, is_done: bool) {
        let mut state = self.state.lock();
        if is_done {
            state.hand.buried(token);
        } else {
            state.hand.give_back(token);
        }
    }
}

pub(in crate::durable) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// How a message failed that is given up.
pub(in crate::durable) fn failures_of(letter: &DeadLetter) -> Failures {
    Failures {
        attempts: letter.attempts,
        errors: letter.errors.clone(),
        first_failed_ms: millis(letter.first_failed_at),
        last_failed_ms: millis(letter.last_failed_at),
        awaited_handler: false,
    }
}
