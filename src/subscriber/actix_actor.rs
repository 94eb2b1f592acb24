use std::marker::PhantomData;
use std::ops::Deref;

use actix::{Actor, Addr, Handler};

use super::{Context, Subscriber};
use crate::delivery::{Failure, Outcome};
use crate::message::{Envelope, Event, SharedParcel};

/// An event as an actix actor receives it; it derefs to the event.
///
/// The actor's answer acknowledges: `Ok` for handled, an error for a failed attempt.
pub struct Delivery<E> {
    parcel: SharedParcel,
    decoded: Option<E>,
    attempt: u32,
}

impl<E: Event> Delivery<E> {
    /// The message's envelope.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        self.parcel.envelope()
    }

    /// 1 for the first attempt.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

impl<E: Event> Deref for Delivery<E> {
    type Target = E;

    fn deref(&self) -> &E {
        match (&self.decoded, self.parcel.body_as()) {
            (Some(event), _) | (None, Some(event)) => event,
            (None, None) => unreachable!("a delivery is made of its own type or decoded"),
        }
    }
}

impl<E: Event> actix::Message for Delivery<E> {
    type Result = Outcome;
}

/// Hands events to a user's own actix actor; made by
/// [`Bus::subscribe_actor`](crate::Bus::subscribe_actor).
///
/// A timed-out actor may still be running: actix offers no way to stop a handler from outside.
pub struct ActorSubscriber<A: Actor, E, M> {
    pub(crate) make: M,
    pub(crate) address: Addr<A>,
    pub(crate) event: PhantomData<fn(E)>,
}

impl<A, E, M> Subscriber<E> for ActorSubscriber<A, E, M>
where
    A: Actor<Context = actix::Context<A>> + Handler<Delivery<E>>,
    E: Event,
    M: Fn() -> Addr<A> + 'static,
{
    async fn handle(&mut self, event: &E, cx: &mut Context<'_>) -> Outcome {
        let Some(parcel) = cx.slot.shared_parcel() else {
            return Err(Failure::reject("the queue of an actor shares its messages"));
        };
        let decoded = if parcel.body_as::<E>().is_some() {
            None
        } else {
            Some(parcel.decode()?)
        };
        let _ = event;
        let delivery = Delivery {
            parcel: SharedParcel::clone(parcel),
            decoded,
            attempt: cx.attempt(),
        };
        if !self.address.connected() {
            // It has stopped after an earlier message: no reason to spend an attempt of this one.
            self.address = (self.make)();
        }
        match self.address.send(delivery).await {
            Ok(outcome) => outcome,
            Err(error) => {
                // A panic or a stop has closed the actor: the next attempt gets a fresh one.
                self.address = (self.make)();
                Err(Failure::retry(error))
            }
        }
    }
}

impl<E> std::fmt::Debug for Delivery<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("envelope", self.parcel.envelope())
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
