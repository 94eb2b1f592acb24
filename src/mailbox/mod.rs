//! The bounded mailbox of a queue: credits, overflow, batch take, lease.
//!
//! A *credit* is a place in the mailbox. It is taken when a message is accepted and given back when the
//! message is settled, so that queued, in flight and waiting messages all count against the bound
//! (contract, rule 2). Messages, credits, books and the line of waiting publishers stand behind one short
//! lock: a publish locks it once, a worker once a batch, and the books balance at any instant, not just at
//! rest (rule 13).

mod accept;
mod books;
mod chunks;
mod lease;
mod line;
mod seat;
mod settle;
mod slot;
mod store;
mod take;

pub(crate) use accept::{Acquire, accept_in_all};
pub(crate) use books::{Books, Ending};
pub(crate) use lease::{Beside, Lease};
#[cfg(any(feature = "amqp", feature = "sqlite", feature = "postgres"))]
pub(crate) use slot::History;
pub(crate) use slot::{Record, Slot, lane_of};
pub(crate) use take::{Demand, Settled, Take};

use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Waker;

use parking_lot::{Mutex, MutexGuard};

use crate::delivery::{Order, Overflow};
use books::Counts;
use line::Line;
use seat::Seats;
use store::Store;

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
    /// The workers of every member have ended, and none is started again by itself; a full mailbox refuses at
    /// once.
    pub(crate) const ENDED: u32 = 1 << 5;
}

pub(crate) struct Mailbox {
    capacity: usize,
    overflow: Overflow,
    /// Changed under the lock, read without it by workers at every message: so not beside the state, which
    /// publishers write all the time.
    halt: AtomicU32,
    state: Hot,
}

/// On cache lines of its own: three of them, of which every idle queue has its own too.
#[repr(align(64))]
struct Hot(Mutex<State>);

const _: () = assert!(size_of::<Hot>() <= 192);

struct State {
    store: Store,
    /// Credits taken.
    used: usize,
    in_flight: usize,
    waiting: u32,
    seats: Seats,
    /// Members whose workers run, or are about to.
    serving: u32,
    /// Publishers that wait for a credit; none most of the time.
    line: Option<Box<Line>>,
    closed: bool,
    /// Members that are suspended; small, to take no room of its own either.
    suspended: u16,
    /// Beside `closed`, where it takes no room of its own.
    stalls: u32,
    books: Counts,
}

impl Mailbox {
    pub(crate) fn new(capacity: usize, overflow: Overflow, order: Order) -> Self {
        Self {
            capacity,
            overflow,
            halt: AtomicU32::new(0),
            state: Hot(Mutex::new(State {
                store: Store::new(order),
                used: 0,
                in_flight: 0,
                waiting: 0,
                seats: Seats::default(),
                serving: 0,
                line: None,
                closed: false,
                suspended: 0,
                stalls: 0,
                books: Counts::default(),
            })),
        }
    }

    #[inline]
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.0.lock()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn overflow(&self) -> Overflow {
        self.overflow
    }

    pub(crate) fn set_halt(&self, flag: u32) {
        let _state = self.lock();
        self.halt.fetch_or(flag, Ordering::Relaxed);
    }

    /// The supervisor of a member gave up restarting it. Those who wait for room look again, and are refused at once.
    pub(crate) fn suspend(&self) {
        let bells = {
            let mut state = self.lock();
            state.suspended = state.suspended.saturating_add(1);
            self.halt.fetch_or(halt::SUSPENDED, Ordering::Relaxed);
            state.dissolve_line(Acquire::Full)
        };
        bells.ring();
    }

    /// A member is not suspended any more. Messages are handed out again when no other one is.
    pub(crate) fn end_suspension(&self) {
        let wakers = {
            let mut state = self.lock();
            state.suspended = state.suspended.saturating_sub(1);
            if state.suspended > 0 {
                return;
            }
            self.halt.fetch_and(!halt::SUSPENDED, Ordering::Relaxed);
            state.seats.wake_all()
        };
        Bells(wakers).ring();
    }

    pub(crate) fn clear_halt(&self, flag: u32) {
        let wakers = {
            let mut state = self.lock();
            self.halt.fetch_and(!flag, Ordering::Relaxed);
            state.seats.wake_all()
        };
        Bells(wakers).ring();
    }

    /// A member takes messages from now on.
    pub(crate) fn join(&self) {
        let wakers = {
            let mut state = self.lock();
            state.serving += 1;
            self.halt.fetch_and(!halt::ENDED, Ordering::Relaxed);
            state.seats.wake_all()
        };
        Bells(wakers).ring();
    }

    /// A member does not any more. Without any, those who wait for room are refused at once.
    pub(crate) fn leave(&self) {
        let bells = {
            let mut state = self.lock();
            state.serving -= 1;
            if state.serving > 0 {
                return;
            }
            self.halt.fetch_or(halt::ENDED, Ordering::Relaxed);
            state.dissolve_line(Acquire::Full)
        };
        bells.ring();
    }

    pub(crate) fn halted(&self) -> u32 {
        self.halt.load(Ordering::Relaxed)
    }

    /// Nothing is accepted any more; those who wait are refused.
    pub(crate) fn close(&self) {
        let bells = {
            let mut state = self.lock();
            state.closed = true;
            state.dissolve_line(Acquire::Closed)
        };
        bells.ring();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Whether it is closed and no credit is held: nothing is in it, and nothing can come.
    pub(crate) fn is_spent(&self) -> bool {
        let state = self.lock();
        state.closed && state.used == 0
    }

    pub(crate) fn books(&self) -> Books {
        let state = self.lock();
        Books {
            counts: state.books,
            queued: state.store.queued() as u64,
            in_flight: state.in_flight as u64,
            waiting: u64::from(state.waiting),
            stalls: u64::from(state.stalls),
        }
    }
}

/// Wakers collected under the lock, to be rung after it.
#[derive(Default)]
#[must_use = "somebody waits for it"]
struct Bells(Vec<Waker>);

impl Bells {
    fn ring(self) {
        for waker in self.0 {
            waker.wake();
        }
    }
}
