use std::marker::PhantomData;

use super::context::Context;
use super::{CommandHandler, RawSubscriber, Subscriber};
use crate::delivery::{Failure, Outcome};
use crate::message::{
    AddressKind, CodecError, Command, Event, Pattern, RawMessage, SharedParcel, TypedReply,
};

/// Why a delivery did not succeed: the handler said so, or its body could not be read.
pub enum DispatchFailure {
    /// The handler's error.
    Handler(Failure),
    /// The body is not what the handler's type can read.
    Undecodable(CodecError),
    /// No handler of this subscriber takes the message.
    UnknownType,
}

/// Which handler of a subscriber takes a message.
///
/// Built by the subscriber builder as a chain of types, so that the handler's future is run in place,
/// without a box, however many types one subscriber handles.
pub trait Dispatch<H>: Send + Sync + 'static {
    /// The place in the chain of the handler that takes the message: an exact address before a pattern.
    #[doc(hidden)]
    fn select(&self, message: &Message<'_>) -> Option<Selected>;

    /// Runs the handler at a place in the chain.
    #[doc(hidden)]
    fn run(
        &self,
        place: usize,
        handler: &mut H,
        message: &Message<'_>,
        cx: &mut Context<'_>,
    ) -> impl Future<Output = Result<(), DispatchFailure>>;
}

/// A message as the chain sees it.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Message<'a>(pub(crate) &'a SharedParcel);

/// A handler found by [`Dispatch::select`].
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Selected {
    pub(crate) place: usize,
    pub(crate) exact: bool,
}

/// The end of a chain.
#[doc(hidden)]
pub struct Empty;

/// One more handler before the rest of the chain.
#[doc(hidden)]
pub struct Chain<First, Rest> {
    pub(crate) first: First,
    pub(crate) rest: Rest,
}

/// Handles events of type `E`.
#[doc(hidden)]
pub struct OnEvent<E>(pub(crate) PhantomData<fn(E)>);

/// Handles commands of type `C`.
#[doc(hidden)]
pub struct OnCommand<C>(pub(crate) PhantomData<fn(C)>);

/// Handles what a pattern matches.
#[doc(hidden)]
pub struct OnPattern(pub(crate) Pattern);

impl<H: 'static> Dispatch<H> for Empty {
    fn select(&self, _: &Message<'_>) -> Option<Selected> {
        None
    }

    async fn run(
        &self,
        _: usize,
        _: &mut H,
        _: &Message<'_>,
        _: &mut Context<'_>,
    ) -> Result<(), DispatchFailure> {
        Err(DispatchFailure::UnknownType)
    }
}

/// Picks between the handler at the head of a chain and what the rest of it found.
fn prefer(head: Option<bool>, rest: impl FnOnce() -> Option<Selected>) -> Option<Selected> {
    if head == Some(true) {
        return Some(Selected {
            place: 0,
            exact: true,
        });
    }
    let rest = rest().map(|found| Selected {
        place: found.place + 1,
        ..found
    });
    match (head, rest) {
        (Some(_), Some(rest)) if rest.exact => Some(rest),
        (Some(_), _) => Some(Selected {
            place: 0,
            exact: false,
        }),
        (None, rest) => rest,
    }
}

impl<H, E, Rest> Dispatch<H> for Chain<OnEvent<E>, Rest>
where
    E: Event,
    H: Subscriber<E>,
    Rest: Dispatch<H>,
{
    fn select(&self, message: &Message<'_>) -> Option<Selected> {
        let parcel = message.0;
        let is_mine = parcel.body().is::<E>()
            || (parcel.envelope().kind() == AddressKind::Topic
                && parcel.envelope().address() == E::TOPIC);
        prefer(is_mine.then_some(true), || self.rest.select(message))
    }

    async fn run(
        &self,
        place: usize,
        handler: &mut H,
        message: &Message<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), DispatchFailure> {
        if place > 0 {
            return self.rest.run(place - 1, handler, message, cx).await;
        }
        let outcome = match message.0.body().downcast_ref::<E>() {
            Some(event) => handler.handle(event, cx).await,
            None => {
                let event: E = message.0.decode().map_err(DispatchFailure::Undecodable)?;
                handler.handle(&event, cx).await
            }
        };
        outcome.map_err(DispatchFailure::Handler)
    }
}

impl<H, C, Rest> Dispatch<H> for Chain<OnCommand<C>, Rest>
where
    C: Command,
    H: CommandHandler<C>,
    Rest: Dispatch<H>,
{
    fn select(&self, message: &Message<'_>) -> Option<Selected> {
        let parcel = message.0;
        let is_mine = parcel.body().is::<C>()
            || (parcel.envelope().kind() == AddressKind::Queue
                && parcel.envelope().address() == C::QUEUE);
        prefer(is_mine.then_some(true), || self.rest.select(message))
    }

    async fn run(
        &self,
        place: usize,
        handler: &mut H,
        message: &Message<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), DispatchFailure> {
        if place > 0 {
            return self.rest.run(place - 1, handler, message, cx).await;
        }
        let reply = match message.0.body().downcast_ref::<C>() {
            Some(command) => handler.handle(command, cx).await,
            None => {
                let command: C = message.0.decode().map_err(DispatchFailure::Undecodable)?;
                handler.handle(&command, cx).await
            }
        };
        let reply = reply.map_err(DispatchFailure::Handler)?;
        if message.0.envelope().expects_reply() {
            cx.scratch.reply = Some(Box::new(TypedReply(reply)));
        }
        Ok(())
    }
}

impl<H, Rest> Dispatch<H> for Chain<OnPattern, Rest>
where
    H: RawSubscriber,
    Rest: Dispatch<H>,
{
    fn select(&self, message: &Message<'_>) -> Option<Selected> {
        let envelope = message.0.envelope();
        let is_mine =
            envelope.kind() == AddressKind::Topic && self.first.0.matches(envelope.address());
        prefer(is_mine.then_some(false), || self.rest.select(message))
    }

    async fn run(
        &self,
        place: usize,
        handler: &mut H,
        message: &Message<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), DispatchFailure> {
        if place > 0 {
            return self.rest.run(place - 1, handler, message, cx).await;
        }
        let outcome: Outcome = handler.handle(RawMessage::new(message.0), cx).await;
        outcome.map_err(DispatchFailure::Handler)
    }
}
