//! The ways of a publish: at once where there is room, else in line, out of the process, or into the store.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use serde::Serialize;

use super::{Publish, Rare, Waiting};
use crate::broker::{Accepted, Gate, Stop, accept_everywhere};
use crate::bus::receipt::{Local, PublishError, Receipt, receipt};
use crate::message::{AddressKind, Parcel, Plain, Recoverable, parcel};
use crate::ports::{Bridged, Refusal};
use crate::queue::QueueCore;

impl<'a, M: Serialize + Send + Sync + 'static> Publish<'a, M> {
    /// The happy path: a remembered route, room in every mailbox, one allocation. None: anything else.
    #[inline]
    pub(super) fn attempt_plain(&mut self) -> Option<Receipt> {
        let broker = &*self.bus.0.broker;
        if self.rare.is_some() || !broker.admits(Gate::Open) || !broker.is_plain() {
            return None;
        }
        let (kind, address) = (self.kind, self.address);
        let id = broker.services.clock.new_id();
        let message = &mut self.message;
        let accepted = broker.with_static_route(kind, address, |route| {
            let accepted = accept_everywhere(route, None, || Plain {
                id,
                kind,
                address,
                // Taken exactly here: from now on the message is accepted.
                message: taken(message),
            });
            accepted.then_some(route.targets.len())
        })?;
        Some(Receipt {
            id,
            local: Local {
                accepted: accepted as u32,
                dropped: 0,
            },
            bridged: Bridged::NotExported,
            schedule: None,
        })
    }

    /// Everything that can be done without waiting.
    pub(super) fn attempt(&mut self) -> Result<Receipt, Refused> {
        let bus = self.bus;
        let broker = &bus.0.broker;
        if !broker.admits(Gate::Open) {
            return Err(Refused::Final(Refusal::Closed));
        }
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
        let delay = self.rare.as_ref().and_then(|rare| rare.delay);
        if delay.is_some() && broker.stores_delayed(&envelope) {
            self.rare().envelope = Some(envelope);
            return Err(Refused::Export);
        }
        if let Some(delay) = delay {
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
        let name = envelope.address.name.clone();
        loop {
            // Asked at each round: a shutdown closes queues and leaves them in their routes.
            if !broker.admits(Gate::Open) {
                return Err(Refused::Final(Refusal::Closed));
            }
            let route = broker.table.route(self.kind, name.as_str());
            if route.must_wait {
                self.rare().envelope = Some(envelope);
                return Err(Refused::Export);
            }
            if route.targets.is_empty() {
                return match nobody(self.kind, name.as_str()) {
                    Ok(accepted) => {
                        if let Some(message) = self.message.take() {
                            broker.seal(parcel(envelope, message));
                        }
                        Ok(receipt(id, accepted))
                    }
                    Err(refusal) => Err(Refused::Final(refusal)),
                };
            }
            let mut held = Some(envelope);
            let message = &mut self.message;
            let accepted = if broker.is_plain() {
                let make = || Parcel::new(taken(&mut held), taken(message));
                broker.accept(&route, key.as_deref(), None, None, make)
            } else {
                let make = || broker.seal(parcel(taken(&mut held), taken(message)));
                broker.accept(&route, key.as_deref(), None, None, make)
            };
            let stop = match accepted {
                Ok(accepted) => return Ok(receipt(id, accepted)),
                Err(stop) => stop,
            };
            envelope = taken(&mut held);
            match stop {
                Stop::Stale => std::thread::yield_now(),
                Stop::Refused(place, refusal) => {
                    if let Some(place) = place {
                        route.targets[place].count_refused();
                    }
                    return Err(Refused::Final(refusal));
                }
                Stop::Wait(place) => {
                    self.rare().envelope = Some(envelope);
                    return Err(Refused::Wait(Arc::clone(&route.targets[place])));
                }
            }
        }
    }
}

pub(super) enum Refused {
    /// For room in this queue.
    Wait(Arc<QueueCore>),
    /// It leaves the process, or goes into the store, which takes a confirm.
    Export,
    Final(Refusal),
}

/// What a publish holds until it is accepted, and is accepted at most once.
#[inline]
fn taken<T>(held: &mut Option<T>) -> T {
    match held.take() {
        Some(held) => held,
        None => unreachable!("a publish is polled again after its end"),
    }
}

/// What becomes of a message that no queue is there for: an event is accepted by all of none.
fn nobody(kind: AddressKind, address: &str) -> Result<Accepted, Refusal> {
    match kind {
        AddressKind::Queue => Err(Refusal::NoQueue {
            queue: address.to_owned(),
        }),
        AddressKind::Topic => {
            crate::message::validate_topic(address)?;
            Ok(Accepted::default())
        }
    }
}

impl<M: Serialize + Send + Sync + 'static> Future for Publish<'_, M> {
    type Output = Result<Receipt, PublishError<M>>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match this.attempt_plain() {
            Some(receipt) => Poll::Ready(Ok(receipt)),
            None => this.poll_slowly(cx),
        }
    }
}

impl<'a, M: Serialize + Send + Sync + 'static> Publish<'a, M> {
    /// With options, with interceptors, without room, out of the process.
    #[cold]
    fn poll_slowly(&mut self, cx: &mut Context<'_>) -> Poll<Result<Receipt, PublishError<M>>> {
        let is_waiting = |rare: &Rare<'_, M>| rare.waiting.is_some();
        if !self.rare.as_deref().is_some_and(is_waiting) {
            match self.attempt() {
                Ok(receipt) => return Poll::Ready(Ok(receipt)),
                Err(Refused::Final(refusal)) => return Poll::Ready(Err(self.refused(refusal))),
                Err(Refused::Wait(_) | Refused::Export) => {
                    let waiting = self.wait();
                    self.rare().waiting = Some(waiting);
                }
            }
        }
        match &mut self.rare().waiting {
            Some(waiting) => waiting.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// In line for a credit, and for the confirm of what leaves the process. The message is given
    /// back if they do not come in time.
    fn wait(&mut self) -> Waiting<'a, M> {
        let bus = self.bus;
        let message = self.message.take();
        let patience = self.rare.as_ref().and_then(|rare| rare.timeout);
        let patience = patience.unwrap_or(bus.0.defaults.publish_timeout);
        let delay = self.rare.as_ref().and_then(|rare| rare.delay);
        let envelope = self.envelope();
        Box::pin(async move {
            let broker = &bus.0.broker;
            let id = envelope.id;
            let Some(message) = message else {
                return Err(PublishError::new(Refusal::Closed, None));
            };
            let parcel = Recoverable::new(envelope, message);
            if let Some(delay) = delay {
                let shared = parcel.shared();
                let delayed = broker.delay_stored(&shared, delay, patience).await;
                drop(shared);
                return match delayed {
                    Ok(schedule) => Ok(Receipt {
                        schedule: Some(schedule),
                        ..receipt(id, Accepted::default())
                    }),
                    Err(why) => Err(PublishError::new(why, parcel.into_message())),
                };
            }
            let accepted = broker
                .accept_waiting(parcel.shared(), None, patience, Gate::Open)
                .await;
            match accepted {
                Ok(accepted) => Ok(receipt(id, accepted)),
                Err((why, given_back)) => {
                    drop(given_back);
                    Err(PublishError::new(why, parcel.into_message()))
                }
            }
        })
    }
}
