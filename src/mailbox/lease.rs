use std::collections::VecDeque;
use std::collections::vec_deque::IterMut;
use std::sync::Arc;

use super::{Mailbox, Settled, Slot};

/// The messages that a worker holds; the first is in hand once it is `started`. Dropped for whatever reason
/// (stop, cancel, a panic that unwinds), it gives back what was not settled, the message in hand included,
/// uncounted and in order.
pub(crate) struct Lease<Q: AsRef<Mailbox>> {
    queue: Arc<Q>,
    pub(crate) batch: VecDeque<Slot>,
    /// What stood behind the first was left to others while its handler waited: nothing is in those places any more.
    is_alone: bool,
    /// Whether the handler of the first waits, or that of the last one did.
    pub(crate) waits: bool,
    pub(crate) started: bool,
    pub(crate) settled: Settled,
}

/// What a worker has beside the message in hand.
pub(crate) struct Beside<'a> {
    /// Finished before it.
    pub(super) settled: &'a mut Settled,
    /// Not started.
    pub(super) rest: IterMut<'a, Slot>,
    pub(super) is_alone: &'a mut bool,
    pub(super) waits: &'a mut bool,
}

impl<Q: AsRef<Mailbox>> Lease<Q> {
    pub(crate) fn new(queue: Arc<Q>) -> Self {
        Self {
            queue,
            batch: VecDeque::new(),
            is_alone: false,
            waits: false,
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
        self.close_up();
        self.started = false;
        self.batch.pop_front()
    }

    /// The first message, and what there is beside it.
    #[inline]
    pub(crate) fn in_hand(&mut self) -> Option<(&Slot, Beside<'_>)> {
        let mut rest = self.batch.iter_mut();
        let first = rest.next()?;
        let beside = Beside {
            settled: &mut self.settled,
            rest,
            is_alone: &mut self.is_alone,
            waits: &mut self.waits,
        };
        Some((first, beside))
    }

    /// A handler has ended, or does not go on: forgets what was left to others meanwhile.
    #[inline]
    pub(crate) fn close_up(&mut self) {
        if std::mem::take(&mut self.is_alone) {
            self.batch.truncate(1);
        }
    }

    /// Of a worker that is about to wait with the first message, outside of its handler: settles what is finished, and
    /// leaves what is behind it to others.
    pub(crate) fn leave_rest(&mut self) {
        let queue = Arc::clone(&self.queue);
        if let Some((_, beside)) = self.in_hand() {
            (*queue).as_ref().settle_waiting(beside);
        }
        self.close_up();
    }

    /// Puts down everything.
    pub(crate) fn put_down(&mut self) {
        self.close_up();
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
