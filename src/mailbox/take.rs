use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};

use super::{Bells, Beside, Mailbox, Slot, State, halt};
use crate::message::Spent;

/// The most that one worker takes at once: a slow worker must not hoard.
pub(super) const BATCH: usize = 64;
/// While a fast worker has more to do, publishers that wait are served when this part of the credits is
/// free: a wake for every batch would cost more than the messages do. A worker that waits, runs out of
/// messages or works for longer than its slice serves them at once.
const SERVED_AT: usize = 2;

/// What a worker gets when it asks for messages.
pub(crate) enum Take {
    /// The batch was filled.
    Batch,
    /// There are fewer than it asked for, and the worker does not sleep yet.
    Few,
    /// The worker was asked to stop.
    Stop,
}

/// What a worker asks for.
#[derive(Clone, Copy)]
pub(crate) struct Demand {
    /// Not fewer messages than this, which is at least 1.
    pub(crate) least: usize,
    /// Where there are fewer, it is woken for the next.
    pub(crate) or_sleep: bool,
    /// No more than one where others may take the rest: its handler waits, and so would what is behind.
    pub(crate) one: bool,
}

#[cfg(test)]
impl Demand {
    /// Whatever there is.
    pub(crate) const ANY: Self = Self {
        least: 1,
        or_sleep: true,
        one: false,
    };
}

/// What a worker has finished since it last asked.
#[derive(Default)]
pub(crate) struct Settled {
    pub(crate) acked: usize,
    /// Credits that a message sent to the handler's own queue took over (rule 9).
    pub(crate) reused: usize,
    /// Emptied parcels, for messages to come.
    pub(crate) spent: Vec<Spent>,
}

impl Settled {
    /// A message is done with: what remains of it may carry another.
    #[inline]
    pub(crate) fn spend(&mut self, slot: Slot) {
        if let Some(spent) = slot.spend()
            && self.spent.len() < BATCH
        {
            self.spent.push(spent);
        }
    }
}

impl State {
    fn book(&mut self, settled: &mut Settled) {
        let acked = std::mem::take(&mut settled.acked);
        self.in_flight -= acked;
        self.books.acked += acked as u64;
        self.used -= acked - std::mem::take(&mut settled.reused);
        self.store.keep_spent(&mut settled.spent);
    }

    /// To the front, in their order. Who waits for messages is to be woken.
    fn put_back(&mut self, slots: impl DoubleEndedIterator<Item = Slot>) -> Vec<Waker> {
        for slot in slots.rev() {
            self.in_flight -= 1;
            self.store.push_front(slot);
        }
        self.seats.wake_all()
    }
}

impl Mailbox {
    pub(crate) fn add_seat(&self) -> u32 {
        self.lock().seats.add()
    }

    pub(crate) fn remove_seat(&self, seat: u32) {
        self.lock().seats.remove(seat);
    }

    /// Asks the worker in `seat` to stop after the message in hand.
    pub(crate) fn stop_seat(&self, seat: u32) {
        let waker = {
            let mut state = self.lock();
            self.halt.fetch_or(halt::SEAT, Ordering::Relaxed);
            state.seats.stop(seat)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The worker in `seat` has ended, and is not to be started by itself.
    pub(crate) fn end_seat(&self, seat: u32) {
        self.lock().seats.end(seat);
    }

    pub(crate) fn restart_seat(&self, seat: u32) {
        let mut state = self.lock();
        if !state.seats.start(seat) {
            self.halt.fetch_and(!halt::SEAT, Ordering::Relaxed);
        }
    }

    /// Whether a worker must put down what it has not started. One relaxed load when nothing is amiss.
    #[inline]
    pub(crate) fn must_put_down(&self, seat: u32) -> bool {
        match self.halt.load(Ordering::Relaxed) {
            0 => false,
            halt::SEAT => self.lock().seats.is_stopped(seat),
            _ => true,
        }
    }

    /// Settles what was finished and hands out the next batch, under one lock.
    pub(crate) fn poll_take(
        &self,
        seat: u32,
        settled: &mut Settled,
        batch: &mut VecDeque<Slot>,
        demand: Demand,
        waker: &Waker,
    ) -> Poll<Take> {
        let (result, bells) = {
            let mut state = self.lock();
            state.book(settled);
            let result = if state.seats.is_stopped(seat) {
                Poll::Ready(Take::Stop)
            } else {
                let halted = self.halt.load(Ordering::Relaxed) & !halt::SEAT != 0;
                let queued = state.store.ready();
                if halted || queued < demand.least {
                    if demand.or_sleep {
                        state.seats.idle(seat, waker);
                        Poll::Pending
                    } else {
                        Poll::Ready(Take::Few)
                    }
                } else {
                    let share = match state.seats.running() {
                        others if demand.one && others > 1 => 1,
                        all => queued.div_ceil(all).clamp(1, BATCH),
                    };
                    let taken = state.store.take(share, batch);
                    state.in_flight += taken;
                    Poll::Ready(Take::Batch)
                }
            };
            let is_fast = matches!(result, Poll::Ready(Take::Batch))
                && self.capacity - state.used.min(self.capacity) < self.capacity / SERVED_AT;
            let bells = if is_fast {
                Bells::default()
            } else {
                state.serve_line(self.capacity)
            };
            (result, bells)
        };
        // What the queue has no use for; not under its lock.
        settled.spent.clear();
        bells.ring();
        result
    }

    /// Gives the books what was finished, without asking for more, and publishers that wait what
    /// [`poll_take`](Self::poll_take) kept back.
    pub(crate) fn settle(&self, settled: &mut Settled) {
        let bells = {
            let mut state = self.lock();
            state.book(settled);
            state.serve_line(self.capacity)
        };
        bells.ring();
    }

    /// Like [`settle`](Self::settle), of a worker whose handler waits: what it has not started goes back for the others, if
    /// there are any.
    pub(crate) fn settle_waiting(&self, beside: Beside<'_>) {
        *beside.waits = true;
        let (bells, wakers) = {
            let mut state = self.lock();
            state.book(beside.settled);
            let mut wakers = Vec::new();
            // What was left once has left its places empty.
            if !*beside.is_alone && beside.rest.len() > 0 && state.seats.running() > 1 {
                *beside.is_alone = true;
                wakers = state.put_back(beside.rest.map(Slot::leave));
            }
            (state.serve_line(self.capacity), wakers)
        };
        bells.ring();
        Bells(wakers).ring();
    }

    /// Like [`settle`](Self::settle), of a worker that goes.
    pub(crate) fn settle_last(&self, settled: &mut Settled) {
        let bells = {
            let mut state = self.lock();
            state.book(settled);
            let mut bells = state.serve_line(self.capacity);
            // It may have been woken for a message that it has not taken: another one looks.
            if state.store.ready() > 0 {
                bells.0.extend(state.seats.wake_one());
            }
            bells
        };
        bells.ring();
    }

    /// Messages that were handed out and not started go back to the front, uncounted.
    pub(crate) fn give_back(&self, slots: impl DoubleEndedIterator<Item = Slot>) {
        let wakers = self.lock().put_back(slots);
        Bells(wakers).ring();
    }

    /// In keyed order: the message of this key is settled, its successors may go on.
    pub(crate) fn lane_settled(&self, key: u64) {
        let (waker, bells) = {
            let mut state = self.lock();
            state.store.settled(key);
            (state.seats.wake_one(), state.serve_line(self.capacity))
        };
        bells.ring();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;
    use crate::delivery::{Order, Overflow};
    use crate::mailbox::Acquire;
    use crate::mailbox::chunks::tests::slot;

    #[derive(Default)]
    struct Rung(AtomicUsize);

    impl Wake for Rung {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_worker_that_has_ended_leaves_its_share_until_it_is_started() {
        let mailbox = Mailbox::new(10, Overflow::Wait, Order::Unordered { workers: 2 });
        let [one, other] = [mailbox.add_seat(), mailbox.add_seat()];
        let waker = Arc::new(Rung::default()).into();
        let waits = Demand {
            one: true,
            ..Demand::ANY
        };
        // How many of four it takes, of a handler that waits and of one that does not.
        let taken = || {
            [waits, Demand::ANY].map(|demand| {
                for number in 0..4 {
                    assert_eq!(mailbox.acquire(None), Acquire::Taken);
                    assert!(mailbox.push(slot(number), None));
                }
                let (mut batch, mut settled) = (VecDeque::new(), Settled::default());
                let mut take = |demand| {
                    let take = mailbox.poll_take(one, &mut settled, &mut batch, demand, &waker);
                    assert!(matches!(take, Poll::Ready(Take::Batch)));
                    let taken = batch.len();
                    settled.acked += taken;
                    batch.clear();
                    taken
                };
                let first = take(demand);
                let mut rest = first;
                while rest < 4 {
                    rest += take(Demand::ANY);
                }
                mailbox.settle(&mut settled);
                first
            })
        };
        assert_eq!(taken(), [1, 2]);
        mailbox.end_seat(other);
        assert_eq!(taken(), [4, 4]);
        mailbox.restart_seat(other);
        assert_eq!(taken(), [1, 2]);
    }

    #[test]
    fn a_worker_that_stops_passes_on_the_wake_of_a_message() {
        let mailbox = Mailbox::new(10, Overflow::Wait, Order::Unordered { workers: 2 });
        let rung: [Arc<Rung>; 2] = Default::default();
        let seats = [mailbox.add_seat(), mailbox.add_seat()];
        let mut batch = VecDeque::new();
        let mut take = |place: usize| {
            let waker = Arc::clone(&rung[place]).into();
            mailbox.poll_take(
                seats[place],
                &mut Settled::default(),
                &mut batch,
                Demand::ANY,
                &waker,
            )
        };
        assert!(take(0).is_pending() && take(1).is_pending());
        assert_eq!(mailbox.acquire(None), Acquire::Taken);
        assert!(mailbox.push(slot(1), None));
        let times = || [0, 1].map(|place: usize| rung[place].0.load(Ordering::Relaxed));
        assert_eq!(times(), [0, 1]);
        // Before it can look.
        mailbox.stop_seat(seats[1]);
        assert!(matches!(take(1), Poll::Ready(Take::Stop)));
        mailbox.settle_last(&mut Settled::default());
        assert_eq!(times()[0], 1);
        assert!(matches!(take(0), Poll::Ready(Take::Batch)));
        assert_eq!(batch.len(), 1);
    }
}
