//! The bounded mailbox of a queue: credits, overflow, batch take, lease.
//!
//! A *credit* is a place in the mailbox. It is taken before a message is pushed and given back when the
//! message is settled, so that queued, in flight and waiting messages all count against the bound
//! (contract, rule 2). Credits live in one atomic, the messages behind one short lock; every figure of
//! the books is kept under that lock, so the books balance at any instant, not just at rest (rule 13).

mod books;
mod credit;
mod lease;
mod seat;
mod slot;
mod store;

pub(crate) use books::{Books, Ending};
pub(crate) use credit::{Acquire, CreditWait};
pub(crate) use lease::Lease;
pub(crate) use slot::{History, Slot, lane_of};

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Poll, Waker};

use parking_lot::Mutex;

use crate::delivery::{Order, Overflow};
use credit::Credits;
use seat::Seats;
use store::Store;

/// The most that one worker takes at once: a slow worker must not hoard.
const BATCH: usize = 64;

/// Reasons for which nothing is handed out; any of them stops hand-over.
pub(crate) mod halt {
    /// The user paused the subscription.
    pub(crate) const PAUSED: u32 = 1;
    /// Waiting retries hold half of the credits (rule 2).
    pub(crate) const STALLED: u32 = 1 << 1;
    /// The supervisor gave up restarting; a full mailbox refuses at once (rule 8).
    pub(crate) const SUSPENDED: u32 = 1 << 2;
    /// The breaker is open.
    pub(crate) const BREAKER: u32 = 1 << 3;
    /// Some worker was asked to stop: look at your own seat.
    pub(crate) const SEAT: u32 = 1 << 4;
}

/// What a worker gets when it asks for messages.
pub(crate) enum Take {
    /// The batch was filled.
    Batch,
    /// The worker was asked to stop.
    Stop,
}

/// What a worker has finished since it last asked.
#[derive(Default)]
pub(crate) struct Settled {
    pub(crate) acked: usize,
    /// Credits that a message sent to the handler's own queue took over (rule 9).
    pub(crate) reused: usize,
}

pub(crate) struct Mailbox {
    credits: Credits,
    halt: AtomicU32,
    overflow: Overflow,
    state: Mutex<State>,
}

struct State {
    store: Store,
    seats: Seats,
    books: Books,
    in_flight: usize,
    waiting: usize,
}

impl Mailbox {
    pub(crate) fn new(capacity: usize, overflow: Overflow, order: Order) -> Self {
        Self {
            credits: Credits::new(capacity),
            halt: AtomicU32::new(0),
            overflow,
            state: Mutex::new(State {
                store: Store::new(order),
                seats: Seats::default(),
                books: Books::default(),
                in_flight: 0,
                waiting: 0,
            }),
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.credits.capacity()
    }

    pub(crate) fn overflow(&self) -> Overflow {
        self.overflow
    }

    // ---- accepting -------------------------------------------------------------------------------

    /// Takes one credit, or says why not. Never waits.
    pub(crate) fn acquire(&self, key: Option<u64>) -> Acquire {
        if let (Some(key), true) = (key, self.credits.used() > 0) {
            // A lane that waits for a retry parks its successors; they may hold half of the credits (rule 7).
            let state = self.state.lock();
            if state.store.is_congested(key, self.capacity() / 2) {
                return Acquire::Full;
            }
        }
        self.credits.acquire()
    }

    /// A place in the line of publishers that wait for a credit, first come first served.
    pub(crate) fn wait_for_credit(&self) -> CreditWait<'_> {
        self.credits.wait()
    }

    /// For a message whose credit a released continuation took, and that failed after it: both are there
    /// now, one over the bound.
    pub(crate) fn take_over_bound(&self) {
        self.credits.force();
    }

    pub(crate) fn release(&self, credits: usize) {
        self.credits.release(credits);
    }

    /// Accepts a message whose credit is held. Never fails and never waits.
    pub(crate) fn push(&self, slot: Slot, key: Option<u64>) {
        let waker = {
            let mut state = self.state.lock();
            state.books.accepted += 1;
            state.store.push_back(slot, key);
            state.seats.wake_one()
        };
        wake(waker);
    }

    /// The new message was refused by the drop policy: accepted and dropped at once.
    pub(crate) fn count_dropped_newest(&self) {
        let mut state = self.state.lock();
        state.books.accepted += 1;
        state.books.dropped += 1;
    }

    /// Drops the oldest message still queued; its credit passes to the caller.
    pub(crate) fn drop_oldest(&self) -> Option<Slot> {
        let mut state = self.state.lock();
        let slot = state.store.pop_oldest()?;
        state.books.dropped += 1;
        Some(slot)
    }

    // ---- handing out -----------------------------------------------------------------------------

    pub(crate) fn add_seat(&self) -> u32 {
        self.state.lock().seats.add()
    }

    pub(crate) fn remove_seat(&self, seat: u32) {
        self.state.lock().seats.remove(seat);
    }

    /// Asks the worker in `seat` to stop after the message in hand.
    pub(crate) fn stop_seat(&self, seat: u32) {
        let waker = {
            let mut state = self.state.lock();
            self.halt.fetch_or(halt::SEAT, Ordering::Relaxed);
            state.seats.stop(seat)
        };
        wake(waker);
    }

    pub(crate) fn restart_seat(&self, seat: u32) {
        let mut state = self.state.lock();
        if !state.seats.clear_stop(seat) {
            self.halt.fetch_and(!halt::SEAT, Ordering::Relaxed);
        }
    }

    /// Whether a worker must put down what it has not started. One relaxed load when nothing is amiss.
    pub(crate) fn must_put_down(&self, seat: u32) -> bool {
        match self.halt.load(Ordering::Relaxed) {
            0 => false,
            halt::SEAT => self.state.lock().seats.is_stopped(seat),
            _ => true,
        }
    }

    /// Settles what was finished and hands out the next batch, under one lock.
    pub(crate) fn poll_take(
        &self,
        seat: u32,
        settled: &mut Settled,
        batch: &mut VecDeque<Slot>,
        waker: &Waker,
    ) -> Poll<Take> {
        let settled = std::mem::take(settled);
        let result = {
            let mut state = self.state.lock();
            state.in_flight -= settled.acked;
            state.books.acked += settled.acked as u64;
            if state.seats.is_stopped(seat) {
                Poll::Ready(Take::Stop)
            } else {
                let closed = self.halt.load(Ordering::Relaxed) & !halt::SEAT != 0;
                let queued = state.store.ready();
                if closed || queued == 0 {
                    state.seats.idle(seat, waker);
                    Poll::Pending
                } else {
                    let share = queued.div_ceil(state.seats.running()).clamp(1, BATCH);
                    let taken = state.store.take(share, batch);
                    state.in_flight += taken;
                    Poll::Ready(Take::Batch)
                }
            }
        };
        self.credits.release(settled.acked - settled.reused);
        result
    }

    /// Gives the books what was finished, without asking for more.
    pub(crate) fn settle(&self, settled: &mut Settled) {
        let settled = std::mem::take(settled);
        if settled.acked > 0 {
            let mut state = self.state.lock();
            state.in_flight -= settled.acked;
            state.books.acked += settled.acked as u64;
            drop(state);
            self.credits.release(settled.acked - settled.reused);
        }
    }

    /// Messages that were handed out and not started go back to the front, uncounted.
    pub(crate) fn give_back(&self, slots: impl DoubleEndedIterator<Item = Slot>) {
        let wakers = {
            let mut state = self.state.lock();
            for slot in slots.rev() {
                state.in_flight -= 1;
                state.store.push_front(slot);
            }
            state.seats.wake_all()
        };
        wake_all(wakers);
    }

    /// In keyed order: the message of this key is settled, its successors may go on.
    pub(crate) fn lane_settled(&self, key: u64) {
        let waker = {
            let mut state = self.state.lock();
            state.store.settled(key);
            state.seats.wake_one()
        };
        wake(waker);
    }

    // ---- the unhappy path ------------------------------------------------------------------------

    /// A failed message starts to wait for its retry; it keeps its credit, and its lane if it has one.
    pub(crate) fn start_waiting(&self, key: Option<u64>) {
        let mut state = self.state.lock();
        state.in_flight -= 1;
        state.waiting += 1;
        state.books.retried += 1;
        if let Some(key) = key {
            state.store.hold(key);
        }
        self.judge_stall(&mut state);
    }

    /// A wait is over: behind what is queued by now, or at the head of its lane (rule 7).
    pub(crate) fn end_waiting(&self, slot: Slot) {
        let wakers = {
            let mut state = self.state.lock();
            state.waiting -= 1;
            state.store.retry(slot);
            self.judge_stall(&mut state);
            state.seats.wake_all()
        };
        wake_all(wakers);
    }

    /// A failed message is tried again at once, by whichever worker comes first.
    pub(crate) fn retry_now(&self, slot: Slot) {
        let wakers = {
            let mut state = self.state.lock();
            state.in_flight -= 1;
            state.books.retried += 1;
            state.store.push_front(slot);
            state.seats.wake_all()
        };
        wake_all(wakers);
    }

    pub(crate) fn count_retry_in_hand(&self) {
        self.state.lock().books.retried += 1;
    }

    /// A message in flight reaches an end other than its acknowledgement.
    pub(crate) fn end_in_flight(&self, ending: Ending, key: Option<u64>) {
        let waker = {
            let mut state = self.state.lock();
            state.in_flight -= 1;
            state.books.count(ending);
            if let Some(key) = key {
                state.store.settled(key);
            }
            state.seats.wake_one()
        };
        self.credits.release(1);
        wake(waker);
    }

    /// A waiting message reaches an end without another attempt.
    pub(crate) fn end_waiting_as(&self, ending: Ending, key: Option<u64>) {
        let wakers = {
            let mut state = self.state.lock();
            state.waiting -= 1;
            state.books.count(ending);
            if let Some(key) = key {
                state.store.settled(key);
            }
            self.judge_stall(&mut state);
            state.seats.wake_all()
        };
        self.credits.release(1);
        wake_all(wakers);
    }

    /// Takes out everything that is still queued, counted as `ending`.
    pub(crate) fn take_queued(&self, ending: Ending) -> Vec<Slot> {
        let slots = {
            let mut state = self.state.lock();
            let slots = state.store.drain();
            for _ in &slots {
                state.books.count(ending);
            }
            slots
        };
        self.credits.release(slots.len());
        slots
    }

    fn judge_stall(&self, state: &mut State) {
        let half = (self.capacity() / 2).max(1);
        // Other workers may each have one more failure in hand.
        let others = state.seats.running().saturating_sub(1);
        let stalled = state.waiting > 0 && state.waiting + others >= half.max(others + 1);
        let before = if stalled {
            self.halt.fetch_or(halt::STALLED, Ordering::Relaxed)
        } else {
            self.halt.fetch_and(!halt::STALLED, Ordering::Relaxed)
        };
        if stalled && before & halt::STALLED == 0 {
            state.books.stalls += 1;
        }
    }

    // ---- control ---------------------------------------------------------------------------------

    pub(crate) fn set_halt(&self, flag: u32) {
        let _state = self.state.lock();
        self.halt.fetch_or(flag, Ordering::Relaxed);
        if flag & halt::SUSPENDED != 0 {
            // Those who wait for room look again, and are refused at once.
            self.credits.refuse_waiters();
        }
    }

    pub(crate) fn clear_halt(&self, flag: u32) {
        let wakers = {
            let mut state = self.state.lock();
            self.halt.fetch_and(!flag, Ordering::Relaxed);
            state.seats.wake_all()
        };
        wake_all(wakers);
    }

    pub(crate) fn halted(&self) -> u32 {
        self.halt.load(Ordering::Relaxed)
    }

    /// Nothing is accepted any more; those who wait are refused.
    pub(crate) fn close(&self) {
        self.credits.close();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.credits.is_closed()
    }

    pub(crate) fn books(&self) -> Books {
        let state = self.state.lock();
        let mut books = state.books;
        books.queued = state.store.queued() as u64;
        books.in_flight = state.in_flight as u64;
        books.waiting = state.waiting as u64;
        books
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn wake_all(wakers: Vec<Waker>) {
    for waker in wakers {
        waker.wake();
    }
}
