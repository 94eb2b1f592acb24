use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

/// A future of the user's panicked; what it said.
#[derive(Debug)]
pub(crate) struct Panicked(pub(crate) String);

pin_project_lite::pin_project! {
    /// Runs a future of the user's: a panic in it, or in dropping it, is caught.
    ///
    /// Dropped before its end it drops the future, and a panic in that is caught too: a worker that is cut
    /// off must not take its thread's task with it.
    pub(crate) struct Caught<F> {
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for Caught<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut future = this.project().future;
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| future.set(None))) {
                tracing::error!(panic = text(&*panic), "a future panicked while it was dropped");
            }
        }
    }
}

impl<F: Future> Caught<F> {
    pub(crate) fn new(future: F) -> Self {
        Self {
            future: Some(future),
        }
    }
}

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut future = self.project().future;
        let polled = catch_unwind(AssertUnwindSafe(|| {
            future
                .as_mut()
                .as_pin_mut()
                .map_or(Poll::Pending, |future| future.poll(cx))
        }));
        let result = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(panic) => Err(Panicked(text(&*panic))),
        };
        let dropped = catch_unwind(AssertUnwindSafe(|| future.set(None)));
        Poll::Ready(match (result, dropped) {
            (Ok(_), Err(panic)) => Err(Panicked(text(&*panic))),
            (result, _) => result,
        })
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
        drop_caught("a handler", self.0.take());
    }
}

/// Drops what may be the last of a value of the user's, where a panic in its `Drop` must end nothing of ours.
pub(crate) fn drop_caught<T>(what: &str, value: T) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        tracing::error!(
            panic = text(&*panic),
            "{what} panicked while it was dropped"
        );
    }
}
