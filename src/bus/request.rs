use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use super::{Bus, Publish};
use crate::message::{Command, ReplyCell};
use crate::ports::{Awaited, BoxFuture, RequestError};

/// A command about to be sent, whose reply is awaited. Made by [`Bus::request`].
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Charge { cents: u64 }
/// # impl postroom::Command for Charge { const QUEUE: &'static str = "payment.charge"; type Reply = bool; }
/// # async fn charge(bus: &postroom::Bus) -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// let paid: bool = bus.request(Charge { cents: 500 }).timeout(Duration::from_secs(2)).await?;
/// # let _ = paid; Ok(()) }
/// ```
///
/// # Errors
/// [`RequestError`] says why there is no reply. After a `Timeout` the command may still be handled: the timeout ends the
/// wait, not the command, which stays queued and is tried again. What is worth nothing later is sent with
/// [`expires_in`](Request::expires_in) too, to a handler with [`Retry::none`](crate::Retry::none).
///
/// # Cancel safety
/// Dropped before the command was accepted, nothing was sent; after it, the reply counts as late. While it is on its way
/// to RabbitMQ, or into a durable queue, the command may be handled or not.
#[must_use = "nothing is sent until it is awaited"]
pub struct Request<'a, C: Command> {
    bus: &'a Bus,
    publish: Publish<'a, C>,
    cell: Arc<ReplyCell<C::Reply>>,
    timeout: Duration,
}

impl<'a, C: Command> Request<'a, C> {
    pub(super) fn new(bus: &'a Bus, command: C) -> Self {
        let cell = Arc::new(ReplyCell::new());
        let publish = bus
            .send(command)
            .reply_to(Arc::<ReplyCell<C::Reply>>::clone(&cell));
        Self {
            bus,
            publish,
            cell,
            timeout: bus.0.defaults.request_timeout,
        }
    }

    /// The longest wait, for room and for the reply together. Default: the bus's request timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The ordering key, for keyed handlers. Default: the command's own, [`Command::key`].
    pub fn key(mut self, key: impl ToString) -> Self {
        self.publish = self.publish.key(key);
        self
    }

    /// The conversation that the command belongs to. Default: its own id.
    pub fn correlation(mut self, id: &str) -> Self {
        self.publish = self.publish.correlation(id);
        self
    }

    /// The command is not handed to a handler later than this after now; the request is then
    /// [`Expired`](RequestError::Expired).
    pub fn expires_in(mut self, time: Duration) -> Self {
        self.publish = self.publish.expires_in(time);
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.publish = self.publish.header(name, value);
        self
    }
}

impl<'a, C: Command> IntoFuture for Request<'a, C> {
    type Output = Result<C::Reply, RequestError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self {
            bus,
            publish,
            cell,
            timeout,
        } = self;
        Box::pin(async move {
            let awaited = Awaited(cell);
            let timers = Arc::clone(&bus.0.broker.services.timers);
            let sending = async {
                let sent = publish.timeout(timeout).await;
                sent.map(drop).map_err(|error| error.into_parts().0)
            };
            awaited.after(sending, C::QUEUE, timers, timeout).await
        })
    }
}

impl<C: Command> std::fmt::Debug for Request<'_, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("queue", &C::QUEUE)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
