use std::collections::VecDeque;
use std::sync::Arc;

use super::{Mailbox, Settled, Slot};

/// The messages that a worker holds; the first is in hand once it is `started`. Dropped for whatever reason
/// (stop, cancel, a panic that unwinds), it gives back what was not settled, the message in hand included,
/// uncounted and in order.
pub(crate) struct Lease<Q: AsRef<Mailbox>> {
    queue: Arc<Q>,
    pub(crate) batch: VecDeque<Slot>,
    pub(crate) started: bool,
    pub(crate) settled: Settled,
}

impl<Q: AsRef<Mailbox>> Lease<Q> {
    pub(crate) fn new(queue: Arc<Q>) -> Self {
        Self {
            queue,
            batch: VecDeque::new(),
            started: false,
            settled: Settled::default(),
        }
    }

    pub(crate) fn queue(&self) -> &Q {
        &self.queue
    }

    fn mailbox(&self) -> &Mailbox {
        (*self.queue).as_ref()
    }

    /// The message in hand leaves the lease: whoever has it now settles it.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Slot> {
        self.started = false;
        self.batch.pop_front()
    }

    /// Puts down everything.
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
        self.put_down();
        self.mailbox().settle_last(&mut settled);
    }
}
