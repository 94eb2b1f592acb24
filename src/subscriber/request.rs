//! A request from inside a handler.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use crate::message::{Command, Envelope, Metadata, ReplyCell, parcel};
use crate::ports::{Awaited, BoxFuture, Own, Refusal, RequestError};
use crate::queue::QueueCore;

/// A command that a handler is about to send, and whose reply it awaits. Made by
/// [`Context::request`](crate::Context::request).
///
/// It carries on the conversation of the message in hand, as what [`Context::publish`](crate::Context::publish) records
/// does.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct OrderPlaced { order: u64, cents: u64 }
/// # impl Event for OrderPlaced { const TOPIC: &'static str = "ordering.order-placed"; }
/// # #[derive(Serialize, Deserialize)] struct Charge { order: u64, cents: u64 }
/// # impl Command for Charge { const QUEUE: &'static str = "payment.charge"; type Reply = bool; }
/// use std::time::Duration;
///
/// use postroom::{Command, Context, Event, Failure, Outcome, Subscriber};
///
/// struct Cashier;
/// impl Subscriber<OrderPlaced> for Cashier {
///     async fn handle(&mut self, placed: &OrderPlaced, cx: &mut Context<'_>) -> Outcome {
///         let &OrderPlaced { order, cents } = placed;
///         let asked = cx.request(Charge { order, cents }).key(order);
///         match asked.timeout(Duration::from_secs(2)).await? {
///             true => Ok(()),
///             false => Err(Failure::reject("not paid")),
///         }
///     }
/// }
/// ```
///
/// # Errors
/// [`RequestError`] says why there is no reply; [`WouldDeadlock`](RequestError::WouldDeadlock) when nobody but the asking
/// worker serves the queue. Longer cycles end by timeout.
///
/// # Cancel safety
/// Dropped before the command was accepted, nothing was sent; after it, the reply counts as late. While it is on its way
/// to RabbitMQ, or into a durable queue, the command may be handled or not.
#[must_use = "nothing is sent until it is awaited"]
pub struct HandlerRequest<'a, C: Command> {
    queue: &'a QueueCore,
    envelope: Envelope,
    command: C,
    timeout: Duration,
}

impl<'a, C: Command> HandlerRequest<'a, C> {
    pub(super) fn new(queue: &'a QueueCore, envelope: Envelope, command: C) -> Self {
        let handler = queue.spec.timeout;
        let most = handler.map_or(Duration::MAX, |timeout| timeout / 2);
        Self {
            queue,
            envelope,
            command,
            timeout: queue.services.request_timeout.min(most),
        }
    }

    /// The longest wait, for room and for the reply together. Default: the bus's request timeout, and no more than half of
    /// the handler's own: it is to hear of it before it is cut off.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The ordering key, for keyed handlers. Default: the command's own, [`Command::key`].
    pub fn key(mut self, key: impl ToString) -> Self {
        self.metadata().key = Some(key.to_string().into());
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.metadata().headers.push((name.into(), value.into()));
        self
    }

    /// The command is not handed to a handler later than this after now; the request is then
    /// [`Expired`](RequestError::Expired).
    pub fn expires_in(mut self, time: Duration) -> Self {
        let now = self.queue.services.clock.wall_ms();
        self.metadata().expire_in(now, time);
        self
    }

    fn metadata(&mut self) -> &mut Metadata {
        self.envelope.metadata.get_or_insert_default()
    }
}

impl<'a, C: Command> IntoFuture for HandlerRequest<'a, C> {
    type Output = Result<C::Reply, RequestError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(mut self) -> Self::IntoFuture {
        let cell = Arc::new(ReplyCell::<C::Reply>::new());
        self.metadata().reply = Some(Arc::<ReplyCell<C::Reply>>::clone(&cell));
        let awaited = Awaited(cell);
        let Self {
            queue,
            envelope,
            command,
            timeout,
        } = self;
        Box::pin(async move {
            let services = &queue.services;
            let own = Own { queue: queue.id };
            let Some(outgoing) = services.outgoing() else {
                return Err(RequestError::Refused(Refusal::Closed));
            };
            if outgoing.serves_alone(C::QUEUE, own) {
                return Err(RequestError::WouldDeadlock {
                    queue: C::QUEUE.to_owned(),
                });
            }
            let sending = outgoing.send_request(parcel(envelope, command), timeout, own);
            let timers = Arc::clone(&services.timers);
            awaited.after(sending, C::QUEUE, timers, timeout).await
        })
    }
}

impl<C: Command> std::fmt::Debug for HandlerRequest<'_, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandlerRequest")
            .field("queue", &C::QUEUE)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
