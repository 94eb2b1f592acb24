use std::sync::Arc;

use super::{Bells, Mailbox, Slot, State};
use crate::message::{Held, Payload, SharedParcel};

/// The answer to a request for a credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acquire {
    Taken,
    Full,
    Closed,
}

impl State {
    /// Whether a newcomer may take a credit now. While anyone waits whom a credit would help, a newcomer is
    /// refused, so that the line is served in order.
    #[inline]
    fn admits(&self, capacity: usize, key: Option<u64>) -> Acquire {
        if self.closed {
            Acquire::Closed
        } else if self.used >= capacity
            || self.line.as_ref().is_some_and(|line| line.is_eager())
            || key.is_some_and(|key| self.store.is_congested(key, capacity / 2))
        {
            Acquire::Full
        } else {
            Acquire::Taken
        }
    }

    /// Accepts a message whose credit is taken. The waker is of a worker that idles.
    #[inline(always)]
    fn put(&mut self, key: Option<u64>, make: impl FnOnce() -> Slot) -> Option<std::task::Waker> {
        self.books.accepted += 1;
        self.store.push_back(key, make);
        self.seats.wake_one()
    }
}

impl Mailbox {
    /// Takes one credit, or says why not. Never waits.
    pub(crate) fn acquire(&self, key: Option<u64>) -> Acquire {
        let mut state = self.lock();
        let answer = state.admits(self.capacity, key);
        if answer == Acquire::Taken {
            state.used += 1;
        }
        answer
    }

    /// For a message whose credit a released continuation took, and that failed after it: both are there
    /// now, one over the bound.
    pub(crate) fn take_over_bound(&self) {
        self.lock().used += 1;
    }

    pub(crate) fn release(&self, credits: usize) {
        let bells = {
            let mut state = self.lock();
            state.used -= credits;
            state.serve_line(self.capacity)
        };
        bells.ring();
    }

    /// Accepts a message whose credit is held. Never waits. False: the mailbox was closed since, the credit is
    /// gone with it.
    pub(crate) fn push(&self, slot: Slot, key: Option<u64>) -> bool {
        let waker = {
            let mut state = self.lock();
            if state.closed {
                state.used -= 1;
                drop(state);
                drop(slot);
                return false;
            }
            state.put(key, || slot)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Takes in what a broker outside has handed over: it bounds the number itself, so there is always room.
    /// False: the mailbox is closed, and nothing was taken.
    #[cfg(any(feature = "amqp", feature = "sqlite", feature = "postgres"))]
    pub(crate) fn take_in(&self, slots: &mut Vec<Slot>) -> bool {
        let wakers: Vec<_> = {
            let mut state = self.lock();
            if state.closed {
                return false;
            }
            state.used += slots.len();
            slots
                .drain(..)
                .filter_map(|slot| {
                    let key = state.store.lane_of(&slot);
                    state.put(key, || slot)
                })
                .collect()
        };
        Bells(wakers).ring();
        true
    }

    /// The new message was refused by the drop policy: accepted and dropped at once.
    pub(crate) fn count_dropped_newest(&self) {
        let mut state = self.lock();
        state.books.accepted += 1;
        state.books.dropped += 1;
    }

    /// Drops the oldest message still queued; its credit passes to the caller.
    pub(crate) fn drop_oldest(&self) -> Option<Slot> {
        let mut state = self.lock();
        let slot = state.store.pop_oldest()?;
        state.books.dropped += 1;
        Some(slot)
    }
}

/// Accepts a message in all mailboxes, or in none: false, and `make` was not called.
///
/// A message for one mailbox is not counted, unless that mailbox `shares` its messages.
/// The locks are taken in the order of the list, which is the same for every publisher, and are all held
/// before anything is changed. `make` runs under them.
pub(crate) fn accept_in_all<'a, Q, P>(
    targets: &'a [Arc<Q>],
    lane: &impl Fn(&'a Q) -> Option<u64>,
    shares: impl FnOnce(&Q) -> bool,
    make: impl FnOnce() -> P,
) -> bool
where
    Q: AsRef<Mailbox>,
    P: Payload,
{
    let [first, others @ ..] = targets else {
        return false;
    };
    let mailbox = (**first).as_ref();
    let lane_here = lane(first);
    let waker = {
        let mut state = mailbox.lock();
        if state.admits(mailbox.capacity, lane_here) != Acquire::Taken {
            return false;
        }
        let parcel = if !others.is_empty() {
            match lock_all(others, lane, make) {
                Some(parcel) => Held::Shared(parcel),
                None => return false,
            }
        } else if shares(first) {
            Held::Shared(make().shared())
        } else {
            make().own(|| state.store.spent())
        };
        state.used += 1;
        state.put(lane_here, || Slot::new(parcel))
    };
    if let Some(waker) = waker {
        waker.wake();
    }
    true
}

fn lock_all<'a, Q: AsRef<Mailbox>, P: Payload>(
    targets: &'a [Arc<Q>],
    lane: &impl Fn(&'a Q) -> Option<u64>,
    make: impl FnOnce() -> P,
) -> Option<SharedParcel> {
    let Some((target, others)) = targets.split_first() else {
        return Some(make().shared());
    };
    let mailbox = (**target).as_ref();
    let lane_here = lane(target);
    let (parcel, waker) = {
        let mut state = mailbox.lock();
        if state.admits(mailbox.capacity, lane_here) != Acquire::Taken {
            return None;
        }
        let parcel = lock_all(others, lane, make)?;
        state.used += 1;
        let waker = state.put(lane_here, || {
            Slot::new(Held::Shared(SharedParcel::clone(&parcel)))
        });
        (parcel, waker)
    };
    if let Some(waker) = waker {
        waker.wake();
    }
    Some(parcel)
}

impl State {
    pub(super) fn serve_line(&mut self, capacity: usize) -> Bells {
        match self.line {
            None => Bells::default(),
            Some(_) => self.serve_waiters(capacity),
        }
    }
}
