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

#[cfg(test)]
mod tests {
    use std::task::{Poll, Waker};

    use super::*;
    use crate::delivery::{Order, Overflow};
    use crate::mailbox::chunks::tests::slot;
    use crate::mailbox::{Acquire, Demand, Take};

    struct Queue(Mailbox);

    impl AsRef<Mailbox> for Queue {
        fn as_ref(&self) -> &Mailbox {
            &self.0
        }
    }

    /// Of two workers, with eight messages.
    fn queue() -> (Arc<Queue>, [u32; 2]) {
        let mailbox = Mailbox::new(10, Overflow::Wait, Order::Unordered { workers: 2 });
        let seats = [mailbox.add_seat(), mailbox.add_seat()];
        for number in 0..8 {
            assert_eq!(mailbox.acquire(None), Acquire::Taken);
            assert!(mailbox.push(slot(number), None));
        }
        (Arc::new(Queue(mailbox)), seats)
    }

    fn fill(lease: &mut Lease<Queue>, seat: u32) {
        let demand = Demand {
            one: lease.waits,
            ..Demand::ANY
        };
        let queue = Arc::clone(&lease.queue);
        let (settled, batch) = (&mut lease.settled, &mut lease.batch);
        let taken = queue
            .0
            .poll_take(seat, settled, batch, demand, Waker::noop());
        assert!(matches!(taken, Poll::Ready(Take::Batch)));
    }

    fn numbers(lease: &Lease<Queue>) -> Vec<u128> {
        let ids = lease.batch.iter().map(|slot| slot.parcel().envelope().id);
        ids.map(crate::message::MessageId::as_u128).collect()
    }

    fn books(queue: &Queue) -> (u64, u64, u64) {
        let books = queue.0.books();
        (books.queued, books.in_flight, books.counts.acked)
    }

    #[test]
    fn what_a_waiting_worker_leaves_is_another_ones_in_its_order_and_booked_once() {
        let (queue, seats) = queue();
        let mut waiting = Lease::new(Arc::clone(&queue));
        fill(&mut waiting, seats[0]);
        assert_eq!(numbers(&waiting), [0, 1, 2, 3]);
        waiting.settled.acked += 1;
        drop(waiting.take());
        waiting.started = true;
        assert_eq!(books(&queue), (4, 4, 0));
        let (_, beside) = waiting.in_hand().unwrap();
        queue.0.settle_waiting(beside);
        assert_eq!(books(&queue), (6, 1, 1));
        // Its handler waits a second time.
        let (_, beside) = waiting.in_hand().unwrap();
        queue.0.settle_waiting(beside);
        assert_eq!(books(&queue), (6, 1, 1));
        waiting.close_up();
        assert_eq!(numbers(&waiting), [1]);
        // One whose handlers wait takes no more than it can begin.
        let mut other = Lease::new(Arc::clone(&queue));
        other.waits = true;
        fill(&mut other, seats[1]);
        assert_eq!(numbers(&other), [2]);
        other.waits = false;
        fill(&mut other, seats[1]);
        assert_eq!(numbers(&other), [2, 3, 4, 5]);
        assert_eq!(books(&queue), (2, 5, 1));
        // Both are cut off.
        drop((waiting, other));
        assert_eq!(books(&queue), (8 - 1, 0, 1));
    }

    #[test]
    fn a_worker_that_is_dropped_while_its_handler_waits_gives_back_the_message_in_hand_alone() {
        let (queue, seats) = queue();
        let mut waiting = Lease::new(Arc::clone(&queue));
        fill(&mut waiting, seats[0]);
        waiting.started = true;
        let (_, beside) = waiting.in_hand().unwrap();
        queue.0.settle_waiting(beside);
        assert_eq!(books(&queue), (7, 1, 0));
        drop(waiting);
        assert_eq!(books(&queue), (8, 0, 0));
        let mut all = Lease::new(Arc::clone(&queue));
        queue.0.end_seat(seats[1]);
        fill(&mut all, seats[0]);
        assert_eq!(numbers(&all), [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
