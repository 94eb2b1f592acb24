use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;

use super::{TimerKey, Timers};

/// Completes when a duration has passed on the bus's clock; dropping it cancels the timer.
pub(crate) struct Deadline {
    timers: Arc<dyn Timers>,
    after: Duration,
    armed: Option<(TimerKey, Arc<Ring>)>,
}

#[derive(Default)]
struct Ring {
    rung: AtomicBool,
    waker: Mutex<Option<std::task::Waker>>,
}

impl Deadline {
    pub(crate) fn new(timers: Arc<dyn Timers>, after: Duration) -> Self {
        Self {
            timers,
            after,
            armed: None,
        }
    }
}

impl Deadline {
    /// Waits for a future; none if this deadline was first. Cancel safe where the future is.
    pub(crate) async fn bound<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            Pin::new(&mut *self).poll(cx).map(|()| None)
        })
        .await
    }
}

impl Future for Deadline {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.armed.is_none() {
            let ring = Arc::new(Ring::default());
            let rings = Arc::clone(&ring);
            *ring.waker.lock() = Some(cx.waker().clone());
            let key = self.timers.after(
                self.after,
                Box::new(move || {
                    rings.rung.store(true, Ordering::Release);
                    let waker = rings.waker.lock().take();
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                }),
            );
            self.armed = Some((key, ring));
        }
        let Some((_, ring)) = &self.armed else {
            return Poll::Pending;
        };
        let mut waker = ring.waker.lock();
        if ring.rung.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        match &mut *waker {
            Some(known) => known.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Some((key, _)) = self.armed.take() {
            self.timers.cancel(key);
        }
    }
}
