use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::{Deadline, Refusal, RequestError, Timers};
use crate::message::ReplyCell;

/// A reply that is waited for. Dropped before it came, the reply is late, and counted where it is made.
pub(crate) struct Awaited<R>(pub(crate) Arc<ReplyCell<R>>);

impl<R> Drop for Awaited<R> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl<R> Awaited<R> {
    /// Sends what is to be answered, and waits for the reply: no longer than `patience` for both together, to which `sending`
    /// keeps by itself.
    pub(crate) async fn after(
        self,
        sending: impl Future<Output = Result<(), Refusal>>,
        queue: &str,
        timers: Arc<dyn Timers>,
        patience: Duration,
    ) -> Result<R, RequestError> {
        let begun = timers.now();
        sending.await.map_err(RequestError::refused)?;
        let used = timers.now().saturating_duration_since(begun);
        self.reply(queue, timers, patience.saturating_sub(used))
            .await
    }

    async fn reply(
        self,
        queue: &str,
        timers: Arc<dyn Timers>,
        patience: Duration,
    ) -> Result<R, RequestError> {
        let mut deadline: Option<Deadline> = None;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(answer) = self.0.poll(cx) {
                return Poll::Ready(answer.map_err(|why| RequestError::without_reply(why, queue)));
            }
            let deadline =
                deadline.get_or_insert_with(|| Deadline::new(Arc::clone(&timers), patience));
            std::pin::Pin::new(deadline).poll(cx).map(|()| {
                Err(RequestError::Timeout {
                    queue: queue.to_owned(),
                })
            })
        })
        .await
    }
}
