use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// The answer to a request for a credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acquire {
    Taken,
    Full,
    Closed,
}

const CLOSED: usize = 1 << (usize::BITS - 1);

/// The credits of a mailbox, and the publishers that wait for one.
///
/// While anyone waits, a newcomer is refused, so that the line is served in order. The counters of used
/// credits and of waiters are read in opposite orders by those who release and those who register
/// (both sequentially consistent), so a release can not miss a waiter that missed the release.
pub(super) struct Credits {
    capacity: usize,
    used: AtomicUsize,
    waiters: AtomicUsize,
    line: Mutex<VecDeque<Arc<Waiter>>>,
}

#[derive(Default)]
struct Waiter(Mutex<WaiterState>);

#[derive(Default)]
struct WaiterState {
    waker: Option<Waker>,
    answer: Option<Acquire>,
}

impl Credits {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            used: AtomicUsize::new(0),
            waiters: AtomicUsize::new(0),
            line: Mutex::default(),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed) & !CLOSED
    }

    pub(super) fn acquire(&self) -> Acquire {
        if self.waiters.load(Ordering::Relaxed) > 0 {
            return if self.is_closed() {
                Acquire::Closed
            } else {
                Acquire::Full
            };
        }
        self.take()
    }

    fn take(&self) -> Acquire {
        let mut used = self.used.load(Ordering::SeqCst);
        loop {
            if used & CLOSED != 0 {
                return Acquire::Closed;
            }
            if used >= self.capacity {
                return Acquire::Full;
            }
            match self.used.compare_exchange_weak(
                used,
                used + 1,
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Acquire::Taken,
                Err(now) => used = now,
            }
        }
    }

    /// Takes a credit over the bound.
    pub(super) fn force(&self) {
        self.used.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn release(&self, credits: usize) {
        if credits == 0 {
            return;
        }
        self.used.fetch_sub(credits, Ordering::SeqCst);
        if self.waiters.load(Ordering::SeqCst) > 0 {
            self.serve();
        }
    }

    pub(super) fn wait(&self) -> CreditWait<'_> {
        CreditWait {
            credits: self,
            waiter: None,
        }
    }

    /// Gives free credits to those who wait, in order.
    fn serve(&self) {
        let mut line = self.line.lock();
        while let Some(first) = line.front() {
            let answer = self.take();
            if answer == Acquire::Full {
                return;
            }
            let first = Arc::clone(first);
            line.pop_front();
            self.waiters.fetch_sub(1, Ordering::SeqCst);
            first.answer(answer);
        }
    }

    pub(super) fn refuse_waiters(&self) {
        let line = {
            let mut line = self.line.lock();
            self.waiters.fetch_sub(line.len(), Ordering::SeqCst);
            std::mem::take(&mut *line)
        };
        for waiter in line {
            waiter.answer(Acquire::Full);
        }
    }

    pub(super) fn close(&self) {
        self.used.fetch_or(CLOSED, Ordering::SeqCst);
        self.serve();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.used.load(Ordering::Relaxed) & CLOSED != 0
    }
}

impl Waiter {
    fn answer(&self, answer: Acquire) {
        let waker = {
            let mut state = self.0.lock();
            state.answer = Some(answer);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Waits in line for a credit.
///
/// `Taken`: the caller owns one credit. `Full`: the line was dissolved, look again. `Closed`: no more.
/// Dropping it leaves the line; a credit that was granted and not fetched goes to the next.
pub(crate) struct CreditWait<'a> {
    credits: &'a Credits,
    waiter: Option<Arc<Waiter>>,
}

impl Future for CreditWait<'_> {
    type Output = Acquire;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Acquire> {
        if self.waiter.is_none() {
            let waiter = Arc::new(Waiter::default());
            waiter.0.lock().waker = Some(cx.waker().clone());
            {
                let mut line = self.credits.line.lock();
                line.push_back(Arc::clone(&waiter));
                self.credits.waiters.fetch_add(1, Ordering::SeqCst);
            }
            self.waiter = Some(waiter);
            // A credit may have been released just before this waiter could be seen.
            self.credits.serve();
        }
        let Some(waiter) = &self.waiter else {
            return Poll::Pending;
        };
        let mut state = waiter.0.lock();
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
        {
            let mut line = self.credits.line.lock();
            let before = line.len();
            line.retain(|known| !Arc::ptr_eq(known, &waiter));
            self.credits
                .waiters
                .fetch_sub(before - line.len(), Ordering::SeqCst);
        }
        let granted = waiter.0.lock().answer == Some(Acquire::Taken);
        if granted {
            self.credits.release(1);
        } else {
            // Newcomers were refused because of this waiter; let whoever is next look.
            self.credits.serve();
        }
    }
}
