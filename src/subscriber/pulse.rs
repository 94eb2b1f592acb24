use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use actix::ArbiterHandle;
use pin_project_lite::pin_project;

/// A thread on which workers run.
#[derive(Clone)]
pub(crate) struct WorkerThread {
    pub(crate) arbiter: ArbiterHandle,
    pub(crate) pulse: Arc<Pulse>,
}

impl WorkerThread {
    pub(crate) fn new(name: impl Into<String>, arbiter: ArbiterHandle) -> Self {
        let pulse = Arc::new(Pulse {
            thread: name.into(),
            turns: AtomicU64::new(0),
            inside: AtomicU64::new(0),
        });
        Self { arbiter, pulse }
    }
}

/// What a thread shows of itself: which worker has the turn, and how many turns there were.
///
/// Written by the thread at each turn of a worker, which handles up to a millisecond's worth of messages; so
/// it costs nothing per message. Read from outside by the watchdog: a handler that blocks does not end its
/// turn. On cache lines of its own, so that nobody else's writes slow the turns down.
#[repr(align(64))]
pub(crate) struct Pulse {
    thread: String,
    turns: AtomicU64,
    /// The id of the queue whose worker has the turn; 0 for none.
    inside: AtomicU64,
}

/// A turn that was under way when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) number: u64,
    pub(crate) queue: u64,
}

impl Pulse {
    pub(crate) fn thread(&self) -> &str {
        &self.thread
    }

    /// The turn under way. Two equal answers mean that it did not end between them: a number is given once.
    pub(crate) fn turn(&self) -> Option<Turn> {
        // The number second: a turn that begins in between shows as a new one.
        let queue = self.inside.load(Ordering::Acquire);
        let number = self.turns.load(Ordering::Relaxed);
        (queue != 0).then_some(Turn { number, queue })
    }

    fn begin(&self, queue: u64) {
        // Only this thread writes.
        let number = self.turns.load(Ordering::Relaxed) + 1;
        self.turns.store(number, Ordering::Relaxed);
        self.inside.store(queue, Ordering::Release);
    }

    fn end(&self) {
        self.inside.store(0, Ordering::Release);
    }
}

/// Ends a turn also when it unwinds.
struct Inside<'a>(&'a Pulse);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

pin_project! {
    /// A worker's loop, whose turns show in the pulse of its thread.
    pub(super) struct Pulsing<F> {
        #[pin]
        worker: F,
        queue: u64,
        pulse: Arc<Pulse>,
    }
}

impl<F> Pulsing<F> {
    pub(super) fn new(worker: F, queue: u64, pulse: Arc<Pulse>) -> Self {
        Self {
            worker,
            queue,
            pulse,
        }
    }
}

impl<F: Future> Future for Pulsing<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.pulse.begin(*this.queue);
        let _inside = Inside(this.pulse);
        this.worker.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_seen_from_inside_and_not_after_it() {
        let pulse = Arc::new(Pulse {
            thread: "shop-0".to_owned(),
            turns: AtomicU64::new(0),
            inside: AtomicU64::new(0),
        });
        assert_eq!(pulse.turn(), None);
        let sees = Arc::clone(&pulse);
        let worker = std::future::poll_fn(move |_| match sees.turn() {
            Some(turn) if turn.number == 2 => Poll::Ready(turn.queue),
            Some(_) => Poll::Pending,
            None => unreachable!("this is inside a turn"),
        });
        let mut worker = std::pin::pin!(Pulsing::new(worker, 7, Arc::clone(&pulse)));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(worker.as_mut().poll(&mut cx), Poll::Pending);
        assert_eq!(pulse.turn(), None);
        assert_eq!(worker.as_mut().poll(&mut cx), Poll::Ready(7));
        assert_eq!(pulse.turn(), None);
    }
}
