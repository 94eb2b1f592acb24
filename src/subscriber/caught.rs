use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::ports::Timers;
use crate::time::Deadline;

/// How a future of the user's ended without an output.
#[derive(Debug)]
pub(crate) enum Broken {
    Panicked(String),
    TimedOut,
}

/// Runs a future of the user's: a panic in it, or in dropping it, is caught; a timeout drops it.
///
/// The timer is set only when the future first waits, so that a handler that never waits pays nothing.
pub(crate) async fn caught<F: Future>(
    future: F,
    timeout: Option<(Duration, &Arc<dyn Timers>)>,
) -> Result<F::Output, Broken> {
    let mut future = pin!(Some(future));
    let mut deadline: Option<Deadline> = None;
    let result = std::future::poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| {
            future
                .as_mut()
                .as_pin_mut()
                .map_or(Poll::Pending, |future| future.poll(cx))
        }));
        match polled {
            Err(panic) => Poll::Ready(Err(Broken::Panicked(text(&*panic)))),
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Ok(Poll::Pending) => {
                let Some((timeout, timers)) = timeout else {
                    return Poll::Pending;
                };
                let deadline =
                    deadline.get_or_insert_with(|| Deadline::new(Arc::clone(timers), timeout));
                Pin::new(deadline).poll(cx).map(|()| Err(Broken::TimedOut))
            }
        }
    })
    .await;
    let dropped = catch_unwind(AssertUnwindSafe(|| future.set(None)));
    match (result, dropped) {
        (Ok(_), Err(panic)) => Err(Broken::Panicked(text(&*panic))),
        (result, _) => result,
    }
}

/// What a panic said.
pub(crate) fn text(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a text".to_owned()
    }
}

/// A value of the user's whose `Drop` may panic. (While another panic unwinds that aborts: Rust's rule.)
pub(crate) struct Guarded<H>(Option<H>);

impl<H> Guarded<H> {
    pub(crate) fn new(value: H) -> Self {
        Self(Some(value))
    }

    pub(crate) fn get(&mut self) -> Option<&mut H> {
        self.0.as_mut()
    }
}

impl<H> Drop for Guarded<H> {
    fn drop(&mut self) {
        let value = self.0.take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
            tracing::error!(
                panic = text(&*panic),
                "a handler panicked while it was dropped"
            );
        }
    }
}
