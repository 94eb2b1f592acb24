use std::collections::VecDeque;
use std::sync::Arc;

use super::{Mailbox, Settled, Slot};

/// The messages that a worker holds. Dropped for whatever reason (stop, cancel, a panic that unwinds),
/// it gives back what was not settled, the message in hand included, uncounted and in order.
pub(crate) struct Lease<Q: AsRef<Mailbox>> {
    queue: Arc<Q>,
    pub(crate) batch: VecDeque<Slot>,
    pub(crate) current: Option<Slot>,
    pub(crate) settled: Settled,
}

impl<Q: AsRef<Mailbox>> Lease<Q> {
    pub(crate) fn new(queue: Arc<Q>) -> Self {
        Self {
            queue,
            batch: VecDeque::new(),
            current: None,
            settled: Settled::default(),
        }
    }

    pub(crate) fn queue(&self) -> &Q {
        &self.queue
    }

    fn mailbox(&self) -> &Mailbox {
        (*self.queue).as_ref()
    }

    /// Puts down what was not started.
    pub(crate) fn put_down(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            self.mailbox().give_back(batch.drain(..));
        }
        self.batch = batch;
    }
}

impl<Q: AsRef<Mailbox>> Drop for Lease<Q> {
    fn drop(&mut self) {
        let mut settled = std::mem::take(&mut self.settled);
        self.mailbox().settle(&mut settled);
        if let Some(current) = self.current.take() {
            self.batch.push_front(current);
        }
        self.put_down();
    }
}
