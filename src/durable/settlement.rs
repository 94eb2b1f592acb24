use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::queue::StoreQueue;
use crate::mailbox::Ending;
use crate::queue::QueueCore;
use crate::store::{BuriedRow, Failures, QueueWrite, QueueWritten, RetriedRow, TakenRow};

/// What became of a delivery.
pub(super) struct Settlement {
    pub(super) queue: Arc<StoreQueue>,
    pub(super) position: i64,
    pub(super) fence: i64,
    pub(super) what: What,
}

pub(super) enum What {
    /// Its row goes.
    Done,
    /// It waits in the table. Its credit is given back when that is written.
    Retried {
        failures: Failures,
        delay: Duration,
        core: Option<Arc<QueueCore>>,
        key: Option<u64>,
    },
    /// It waits in memory, and its attempts are noted. Or it goes back by this token when that is written.
    Noted {
        failures: Failures,
        goes_back: Option<u64>,
    },
    /// It becomes a dead letter.
    Buried {
        letter: String,
        reason: String,
        failures: Failures,
        answer: oneshot::Sender<bool>,
    },
}

impl Settlement {
    fn row(&self) -> TakenRow {
        TakenRow {
            position: self.position,
            fence: self.fence,
        }
    }

    pub(super) fn add_to(&self, write: &mut QueueWrite) {
        let row = self.row();
        match &self.what {
            What::Done => write.done.push(row),
            What::Retried {
                failures, delay, ..
            } => write.retried.push(RetriedRow {
                row,
                failures: failures.clone(),
                delay: Some(*delay),
            }),
            What::Noted { failures, .. } => write.retried.push(RetriedRow {
                row,
                failures: failures.clone(),
                delay: None,
            }),
            What::Buried {
                letter,
                reason,
                failures,
                ..
            } => write.buried.push(BuriedRow {
                row,
                letter: letter.clone(),
                reason: reason.clone(),
                failures: failures.clone(),
            }),
        }
    }

    /// It is never written.
    pub(super) fn lose(self) {
        match self.what {
            What::Retried {
                core: Some(core),
                key,
                ..
            } => core.mailbox.end_waiting_as(Ending::Returned, key),
            What::Noted {
                goes_back: Some(token),
                ..
            } => self.queue.give_back(token),
            _ => {}
        }
    }

    /// It was written. Whether it came too late.
    pub(super) fn finish(self, written: &QueueWritten) -> bool {
        let Self {
            queue,
            position,
            fence,
            what,
        } = self;
        match what {
            What::Done => {
                queue.count_rows(-1);
                queue.written(position, fence);
                false
            }
            What::Retried {
                delay, core, key, ..
            } => {
                queue.written(position, fence);
                let is_done = written.retried.contains(&position);
                if is_done {
                    queue.due_in(delay);
                }
                if let Some(core) = core {
                    core.mailbox.end_waiting_as(Ending::Returned, key);
                }
                !is_done
            }
            // It is in hand, or settled otherwise by now.
            What::Noted { goes_back, .. } => {
                if let Some(token) = goes_back {
                    queue.give_back(token);
                }
                false
            }
            What::Buried { answer, .. } => {
                let is_done = written.buried.contains(&position);
                if is_done {
                    queue.count_rows(-1);
                    queue.written(position, fence);
                }
                // The actor that asked may have gone.
                let _ = answer.send(is_done);
                !is_done
            }
        }
    }
}
