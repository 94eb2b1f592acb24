use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::queue::StoreQueue;
use crate::ports::Refusal;
use crate::store::{NewLetter, NewQueued, NewRow, QueueWrite};

/// A message that its publisher waits for.
pub(super) struct Publication {
    pub(super) content: Content,
    stage: AtomicU8,
    answer: Mutex<Option<oneshot::Sender<Result<(), Refusal>>>>,
    /// Its place among those that wait, for as long as it is in memory: also when its publisher has gone.
    _place: Option<OwnedSemaphorePermit>,
}

/// Where it is written.
pub(super) enum Content {
    Queued {
        message: Arc<NewQueued>,
        queues: Vec<Arc<StoreQueue>>,
    },
    /// Into the outbox, to be published when its time has come.
    Delayed(Arc<NewRow>),
    /// Among the dead letters, by a queue in memory.
    Letter(Arc<NewLetter>),
}

impl Content {
    pub(super) fn row(&self) -> &NewRow {
        match self {
            Self::Queued { message, .. } => &message.row,
            Self::Delayed(row) => row,
            Self::Letter(letter) => &letter.row,
        }
    }

    /// The queue that it is for, the first of several, or where it will be sent.
    pub(super) fn target(&self) -> String {
        match self {
            Self::Queued { queues, .. } => queues
                .first()
                .map_or_else(String::new, |queue| queue.name.to_string()),
            Self::Delayed(row) => row.address.clone(),
            Self::Letter(letter) => letter.queue.clone(),
        }
    }

    pub(super) fn add_to(&self, write: &mut QueueWrite) {
        match self {
            Self::Queued { message, .. } => write.new.push(Arc::clone(message)),
            Self::Delayed(row) => write.delayed.push(Arc::clone(row)),
            Self::Letter(letter) => write.letters.push(Arc::clone(letter)),
        }
    }
}

/// What is known of a publication.
mod stage {
    /// It is not written.
    pub(super) const WAITING: u8 = 0;
    /// It is being written, or was and nobody knows how that ended.
    pub(super) const WRITING: u8 = 1;
    /// Its publisher has gone.
    pub(super) const WITHDRAWN: u8 = 2;
}

impl Publication {
    pub(super) fn new(
        content: Content,
        place: Option<OwnedSemaphorePermit>,
    ) -> (Arc<Self>, oneshot::Receiver<Result<(), Refusal>>) {
        let (answer, wait) = oneshot::channel();
        let publication = Self {
            content,
            stage: AtomicU8::new(stage::WAITING),
            answer: Mutex::new(Some(answer)),
            _place: place,
        };
        (Arc::new(publication), wait)
    }

    /// Its publisher does not wait any more. True: nothing was written, and nothing will be.
    pub(super) fn withdraw(&self) -> bool {
        self.stage.swap(stage::WITHDRAWN, Ordering::AcqRel) == stage::WAITING
    }

    /// False: nobody waits for it any more.
    pub(super) fn begin(&self) -> bool {
        let begun = self
            .stage
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |known| {
                (known != stage::WITHDRAWN).then_some(stage::WRITING)
            });
        begun.is_ok()
    }

    /// It was rolled back.
    pub(super) fn rolled_back(&self) {
        // A publisher that has gone stays gone.
        let _ = self.stage.compare_exchange(
            stage::WRITING,
            stage::WAITING,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
    }

    pub(super) fn answer(&self, answer: Result<(), Refusal>) {
        if let Some(waits) = self.answer.lock().take() {
            // Who asked may have gone.
            let _ = waits.send(answer);
        }
    }
}
