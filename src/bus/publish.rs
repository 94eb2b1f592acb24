use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::Bus;
use crate::broker::{Accepted, Gate, Route, Schedule, Stop, accept};
use crate::message::{
    Address, AddressKind, CorrelationId, Envelope, MessageId, Metadata, Name, Recoverable,
    SharedParcel, parcel,
};
use crate::ports::{BoxFuture, Refusal};

/// What became of an accepted message.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// The message's id.
    pub id: MessageId,
    /// Over the queues of this process.
    pub local: Local,
    /// Over RabbitMQ.
    pub bridged: Bridged,
    /// For a delayed message: the handle to take it back. Nothing is accepted until it is due.
    pub schedule: Option<Schedule>,
}

/// How many local queues took a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// Queues that hold it now.
    pub accepted: u32,
    /// Full queues that applied their drop policy, to this message or to their oldest.
    pub dropped: u32,
}

/// Whether a message left the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bridged {
    /// No bridge exports it.
    NotExported,
    /// RabbitMQ confirmed it in at least one queue.
    Routed,
    /// RabbitMQ confirmed that no queue is bound to it.
    Unrouted,
}

/// A message that was not accepted, given back with the reason.
#[derive(Clone)]
pub struct PublishError<M> {
    why: Refusal,
    message: Option<M>,
}

impl<M> PublishError<M> {
    /// Why.
    #[must_use]
    pub fn kind(&self) -> &Refusal {
        &self.why
    }

    /// The message. None only if it is shared by then, which no refusal of ours leaves it.
    #[must_use]
    pub fn into_message(self) -> Option<M> {
        self.message
    }

    /// Both.
    #[must_use]
    pub fn into_parts(self) -> (Refusal, Option<M>) {
        (self.why, self.message)
    }
}

impl<M> std::fmt::Debug for PublishError<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PublishError").field(&self.why).finish()
    }
}

impl<M> std::fmt::Display for PublishError<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.why.fmt(f)
    }
}

impl<M> std::error::Error for PublishError<M> {}

/// Some of many messages were accepted.
#[derive(Debug)]
pub struct PublishAllError<E> {
    /// For those that were.
    pub receipts: Vec<Receipt>,
    /// Why the next was not.
    pub why: Refusal,
    /// Those that were not, the refused one first.
    pub rest: Vec<E>,
}

/// A message about to be published: add options, then await it.
///
/// The first poll accepts it if all queues have room; only a full mailbox allocates.
#[must_use = "nothing is published until it is awaited"]
pub struct Publish<'a, M> {
    bus: &'a Bus,
    kind: AddressKind,
    name: Name,
    message: Option<M>,
    metadata: Option<Box<Metadata>>,
    delay: Option<Duration>,
    timeout: Option<Duration>,
    waiting: Option<Waiting<'a, M>>,
}

type Waiting<'a, M> = BoxFuture<'a, Result<Receipt, PublishError<M>>>;

/// No field is pinned: the message is moved only before it is shared.
impl<M> Unpin for Publish<'_, M> {}

impl<'a, M: Serialize + Send + Sync + 'static> Publish<'a, M> {
    pub(super) fn new(bus: &'a Bus, kind: AddressKind, name: Name, message: M) -> Self {
        Self {
            bus,
            kind,
            name,
            message: Some(message),
            metadata: None,
            delay: None,
            timeout: None,
            waiting: None,
        }
    }

    fn metadata(&mut self) -> &mut Metadata {
        self.metadata.get_or_insert_default()
    }

    /// The ordering key, for keyed subscribers.
    pub fn key(mut self, key: impl ToString) -> Self {
        self.metadata().key = Some(key.to_string().into());
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.metadata().headers.push((name.into(), value.into()));
        self
    }

    /// The conversation that the message belongs to. Default: its own id.
    pub fn correlation(mut self, id: &str) -> Self {
        self.metadata().correlation = Some(CorrelationId::Other(id.into()));
        self
    }

    /// The W3C trace context.
    pub fn traceparent(mut self, traceparent: &str) -> Self {
        self.metadata().traceparent = Some(traceparent.into());
        self
    }

    /// Publishes it only after `delay`; the receipt then has a handle to take it back.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Publishes it only at `time`, by the bus's clock; at once if that is past.
    pub fn at(mut self, time: SystemTime) -> Self {
        let now = SystemTime::UNIX_EPOCH
            + Duration::from_millis(self.bus.0.broker.services.clock.wall_ms());
        self.delay = Some(time.duration_since(now).unwrap_or_default());
        self
    }

    /// It is not handed to a handler later than this after now.
    pub fn expires_in(mut self, time: Duration) -> Self {
        let now = self.bus.0.broker.services.clock.wall_ms();
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.metadata().expires_ms = Some(now.saturating_add(time));
        self
    }

    /// The longest wait for full mailboxes. Default: the bus's publish timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    pub(super) fn reply_to(mut self, port: std::sync::Arc<dyn crate::message::ReplyPort>) -> Self {
        self.metadata().reply = Some(port);
        self
    }

    /// Publishes now or not at all.
    ///
    /// # Errors
    /// Gives the message back with the reason.
    pub fn try_now(mut self) -> Result<Receipt, PublishError<M>> {
        match self.attempt() {
            Ok(receipt) => Ok(receipt),
            Err(Refused::Final(refusal)) => Err(self.refused(refusal)),
            Err(Refused::Wait(queue)) => Err(self.refused(Refusal::Full { queue })),
        }
    }

    fn refused(&mut self, why: Refusal) -> PublishError<M> {
        PublishError {
            why,
            message: self.message.take(),
        }
    }

    fn envelope(&mut self) -> Envelope {
        let id = self.bus.0.broker.services.clock.new_id();
        Envelope {
            id,
            address: Address {
                kind: self.kind,
                name: self.name.clone(),
            },
            time_ms: id.millis(),
            metadata: self.metadata.take(),
        }
    }

    /// Everything that can be done without waiting.
    fn attempt(&mut self) -> Result<Receipt, Refused> {
        let broker = &self.bus.0.broker;
        if !broker.admits(Gate::Open) {
            return Err(Refused::Final(Refusal::Closed));
        }
        let plain = self.metadata.is_none()
            && self.delay.is_none()
            && broker.services.interceptors.is_empty()
            && broker.limits.body_limit.is_none();
        if let (true, Name::Static(address)) = (plain, &self.name) {
            return self.attempt_plain(address);
        }
        self.attempt_full()
    }

    /// The happy path: a remembered route, a credit each, one allocation.
    fn attempt_plain(&mut self, address: &'static str) -> Result<Receipt, Refused> {
        let broker = &self.bus.0.broker;
        loop {
            let accepted = broker.with_static_route(self.kind, address, |route| {
                if route.targets.is_empty() {
                    return self.nobody(route).map_err(Err);
                }
                let mut id = MessageId::from_u128(0);
                let make = || {
                    let envelope = self.envelope();
                    id = envelope.id;
                    // Taken exactly here: from now on the message is accepted.
                    let message = self.message.take();
                    message.map(|message| parcel(envelope, message))
                };
                accept_made(route, None, make)
                    .map(|accepted| (id, accepted))
                    .map_err(Ok)
            });
            match accepted {
                Ok((id, accepted)) => return Ok(receipt(id, accepted)),
                Err(Err(refusal)) => return Err(Refused::Final(refusal)),
                Err(Ok(Stop::Stale)) => std::thread::yield_now(),
                Err(Ok(Stop::Refused(refusal))) => return Err(Refused::Final(refusal)),
                Err(Ok(Stop::Wait(place))) => {
                    let route = broker.table.route(self.kind, address);
                    let queue = route.targets.get(place);
                    return Err(Refused::Wait(
                        queue.map_or_else(String::new, |queue| queue.name.to_string()),
                    ));
                }
            }
        }
    }

    fn nobody(&mut self, _route: &Route) -> Result<(MessageId, Accepted), Refusal> {
        let address = self.name.as_str();
        match self.kind {
            AddressKind::Queue => Err(Refusal::NoQueue {
                queue: address.to_owned(),
            }),
            AddressKind::Topic => {
                crate::message::validate_topic(address)?;
                Ok((
                    self.bus.0.broker.services.clock.new_id(),
                    Accepted::default(),
                ))
            }
        }
    }

    /// With options, interceptors or limits.
    fn attempt_full(&mut self) -> Result<Receipt, Refused> {
        let bus = self.bus;
        let broker = &bus.0.broker;
        let mut envelope = self.envelope();
        let checked = broker
            .check(&envelope)
            .and_then(|()| broker.intercept(&mut envelope));
        if let Err(refusal) = checked {
            return Err(Refused::Final(refusal));
        }
        if let (Some(limit), Some(message)) = (broker.limits.body_limit, &self.message) {
            match serde_json::to_vec(message).map(|body| body.len()) {
                Ok(size) if size > limit => {
                    return Err(Refused::Final(Refusal::TooLarge { size, limit }));
                }
                Ok(_) => {}
                Err(error) => return Err(Refused::Final(Refusal::Codec(error.to_string()))),
            }
        }
        let id = envelope.id;
        if let Some(delay) = self.delay {
            let Some(message) = self.message.take() else {
                return Err(Refused::Final(Refusal::Closed));
            };
            let parcel = Recoverable::new(envelope, message);
            return match broker.schedule(parcel.shared(), delay) {
                Ok(schedule) => Ok(Receipt {
                    schedule: Some(schedule),
                    ..receipt(id, Accepted::default())
                }),
                Err((refusal, given_back)) => {
                    drop(given_back);
                    self.message = parcel.into_message();
                    Err(Refused::Final(refusal))
                }
            };
        }
        let key = envelope
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.key.clone());
        loop {
            let route = broker.table.route(self.kind, self.name.as_str());
            if route.targets.is_empty() {
                return match self.nobody(&route) {
                    Ok(_) => {
                        if let Some(message) = self.message.take() {
                            broker.seal(parcel(envelope, message));
                        }
                        Ok(receipt(id, Accepted::default()))
                    }
                    Err(refusal) => Err(Refused::Final(refusal)),
                };
            }
            let mut held = Some(envelope);
            let make = || {
                let envelope = held.take();
                envelope
                    .zip(self.message.take())
                    .map(|(envelope, message)| broker.seal(parcel(envelope, message)))
            };
            let stop = match accept_made(&route, key.as_deref(), make) {
                Ok(accepted) => return Ok(receipt(id, accepted)),
                Err(stop) => stop,
            };
            let Some(returned) = held else {
                return Err(Refused::Final(Refusal::Closed));
            };
            envelope = returned;
            match stop {
                Stop::Stale => std::thread::yield_now(),
                Stop::Refused(refusal) => return Err(Refused::Final(refusal)),
                Stop::Wait(place) => {
                    // What interceptors added is kept; they run again when it is tried again.
                    self.metadata = envelope.metadata.take();
                    return Err(Refused::Wait(route.targets[place].name.to_string()));
                }
            }
        }
    }
}

enum Refused {
    Wait(String),
    Final(Refusal),
}

/// `make` is called only when all credits are held, so it always has the message.
fn accept_made(
    route: &Route,
    key: Option<&str>,
    make: impl FnOnce() -> Option<SharedParcel>,
) -> Result<Accepted, Stop> {
    accept(route, key, None, None, || {
        make().unwrap_or_else(|| unreachable!("a publish is polled again after its end"))
    })
}

fn receipt(id: MessageId, accepted: Accepted) -> Receipt {
    Receipt {
        id,
        local: Local {
            accepted: accepted.accepted,
            dropped: accepted.dropped,
        },
        bridged: Bridged::NotExported,
        schedule: None,
    }
}

impl<M: Serialize + Send + Sync + 'static> Future for Publish<'_, M> {
    type Output = Result<Receipt, PublishError<M>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.waiting.is_none() {
            match this.attempt() {
                Ok(receipt) => return Poll::Ready(Ok(receipt)),
                Err(Refused::Final(refusal)) => return Poll::Ready(Err(this.refused(refusal))),
                Err(Refused::Wait(_)) => this.waiting = Some(this.wait()),
            }
        }
        match &mut this.waiting {
            Some(waiting) => waiting.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<'a, M: Serialize + Send + Sync + 'static> Publish<'a, M> {
    /// The slow way: in line for a credit. The message is given back if none comes in time.
    fn wait(&mut self) -> Waiting<'a, M> {
        let bus = self.bus;
        let message = self.message.take();
        let patience = self.timeout.unwrap_or(bus.0.defaults.publish_timeout);
        let envelope = self.envelope();
        let (kind, name) = (self.kind, self.name.clone());
        Box::pin(async move {
            let broker = &bus.0.broker;
            let id = envelope.id;
            let key = envelope
                .metadata
                .as_ref()
                .and_then(|metadata| metadata.key.clone());
            let Some(message) = message else {
                return Err(PublishError {
                    why: Refusal::Closed,
                    message: None,
                });
            };
            let parcel = Recoverable::new(envelope, message);
            let accepted = broker
                .accept_waiting(
                    kind,
                    name.as_str(),
                    key.as_deref(),
                    None,
                    patience,
                    parcel.shared(),
                    Gate::Open,
                )
                .await;
            match accepted {
                Ok(accepted) => Ok(receipt(id, accepted)),
                Err((why, given_back)) => {
                    drop(given_back);
                    Err(PublishError {
                        why,
                        message: parcel.into_message(),
                    })
                }
            }
        })
    }
}
