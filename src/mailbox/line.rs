use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::{Acquire, Bells, Mailbox, State};

/// Publishers that wait for a credit, first come first served.
#[derive(Default)]
pub(super) struct Line {
    waiters: VecDeque<Arc<Waiter>>,
    /// Those of them that wait for a credit, and not for their key's lane to go on (contract, rule 7).
    eager: usize,
}

struct Waiter {
    key: Option<u64>,
    state: Mutex<WaiterState>,
}

#[derive(Default)]
struct WaiterState {
    waker: Option<Waker>,
    answer: Option<Acquire>,
    /// A credit would not help it: its lane is congested.
    parked: bool,
}

impl Line {
    pub(super) fn is_eager(&self) -> bool {
        self.eager > 0
    }

    fn remove(&mut self, waiter: &Arc<Waiter>) {
        let before = self.waiters.len();
        self.waiters.retain(|known| !Arc::ptr_eq(known, waiter));
        if self.waiters.len() < before && !waiter.state.lock().parked {
            self.eager -= 1;
        }
    }
}

impl Waiter {
    fn answer(&self, answer: Acquire) -> Option<Waker> {
        let mut state = self.state.lock();
        state.answer = Some(answer);
        state.waker.take()
    }
}

impl State {
    /// Gives free credits to those who wait, in order, past those whose own lane holds them up.
    pub(super) fn serve_waiters(&mut self, capacity: usize) -> Bells {
        let mut bells = Bells::default();
        let Some(mut line) = self.line.take() else {
            return bells;
        };
        let mut at = 0;
        while self.used < capacity
            && let Some(waiter) = line.waiters.get(at)
        {
            let congested = waiter
                .key
                .is_some_and(|key| self.store.is_congested(key, capacity / 2));
            let was_parked = std::mem::replace(&mut waiter.state.lock().parked, congested);
            match (was_parked, congested) {
                (false, true) => line.eager -= 1,
                (true, false) => line.eager += 1,
                _ => {}
            }
            if congested {
                at += 1;
                continue;
            }
            if let Some(waiter) = line.waiters.remove(at) {
                line.eager -= 1;
                self.used += 1;
                bells.0.extend(waiter.answer(Acquire::Taken));
            }
        }
        if !line.waiters.is_empty() {
            self.line = Some(line);
        }
        bells
    }

    /// Sends everybody away with an answer.
    pub(super) fn dissolve_line(&mut self, answer: Acquire) -> Bells {
        let line = self.line.take().unwrap_or_default();
        let wakers = line
            .waiters
            .iter()
            .filter_map(|waiter| waiter.answer(answer));
        Bells(wakers.collect())
    }
}

impl Mailbox {
    /// A place in the line of publishers that wait for a credit.
    pub(crate) fn wait_for_credit(&self, key: Option<u64>) -> CreditWait<'_> {
        CreditWait {
            mailbox: self,
            key,
            waiter: None,
        }
    }
}

/// Waits in line for a credit.
///
/// `Taken`: the caller owns one credit. `Full`: the line was dissolved, look again. `Closed`: no more.
/// Dropping it leaves the line; a credit that was granted and not fetched goes to the next.
pub(crate) struct CreditWait<'a> {
    mailbox: &'a Mailbox,
    key: Option<u64>,
    waiter: Option<Arc<Waiter>>,
}

impl Future for CreditWait<'_> {
    type Output = Acquire;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Acquire> {
        if self.waiter.is_none() {
            let waiter = Arc::new(Waiter {
                key: self.key,
                state: Mutex::default(),
            });
            let bells = {
                let mut state = self.mailbox.lock();
                if state.closed {
                    return Poll::Ready(Acquire::Closed);
                }
                let line = state.line.get_or_insert_default();
                line.waiters.push_back(Arc::clone(&waiter));
                line.eager += 1;
                // A credit may have been released since the caller was refused.
                state.serve_waiters(self.mailbox.capacity)
            };
            self.waiter = Some(waiter);
            bells.ring();
        }
        let Some(waiter) = &self.waiter else {
            return Poll::Pending;
        };
        let mut state = waiter.state.lock();
        if let Some(answer) = state.answer.take() {
            drop(state);
            self.waiter = None;
            return Poll::Ready(answer);
        }
        match &mut state.waker {
            Some(known) => known.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for CreditWait<'_> {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter.take() else {
            return;
        };
        let bells = {
            let mut state = self.mailbox.lock();
            if let Some(line) = &mut state.line {
                line.remove(&waiter);
                if line.waiters.is_empty() {
                    state.line = None;
                }
            }
            let granted = waiter.state.lock().answer == Some(Acquire::Taken);
            state.used -= usize::from(granted);
            // Newcomers were refused because of this waiter; let whoever is next look.
            state.serve_line(self.mailbox.capacity)
        };
        bells.ring();
    }
}
