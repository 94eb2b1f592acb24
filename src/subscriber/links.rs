use std::marker::PhantomData;

use super::context::Context;
use super::dispatch::{DispatchFailure, IntoDispatched, Link, Message};
use super::{CommandHandler, RawSubscriber, Subscriber};
use crate::delivery::Failure;
use crate::message::{AddressKind, Command, Event, Pattern, RawMessage, TypedReply};

/// Handles events of type `E`.
#[doc(hidden)]
pub struct OnEvent<E>(pub(crate) PhantomData<fn(E)>);

/// Handles commands of type `C`.
#[doc(hidden)]
pub struct OnCommand<C>(pub(crate) PhantomData<fn(C)>);

/// Handles what a pattern matches.
#[doc(hidden)]
pub struct OnPattern(pub(crate) Pattern);

/// No value is of this type: a pattern takes messages by their address.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub enum NoBody {}

impl IntoDispatched for NoBody {
    fn into_dispatched(self) -> Result<(), DispatchFailure> {
        match self {}
    }
}

pub(super) fn is_for_event<E: Event>(message: Message<'_>) -> Option<bool> {
    let envelope = message.0.envelope();
    (envelope.kind() == AddressKind::Topic && envelope.address() == E::TOPIC).then_some(true)
}

pub(super) fn is_for_command<C: Command>(message: Message<'_>) -> Option<bool> {
    let envelope = message.0.envelope();
    (envelope.kind() == AddressKind::Queue && envelope.address() == C::QUEUE).then_some(true)
}

pub(super) fn matches(pattern: &Pattern, message: Message<'_>) -> Option<bool> {
    let envelope = message.0.envelope();
    (envelope.kind() == AddressKind::Topic && pattern.matches(envelope.address())).then_some(false)
}

impl<H, E: Event> Link<H> for OnEvent<E>
where
    H: Subscriber<E>,
{
    const TRANSACTIONAL: bool = false;

    type Body = E;

    fn claims(&self, message: Message<'_>) -> Option<bool> {
        is_for_event::<E>(message)
    }

    #[inline]
    fn handle<'a>(
        &'a self,
        handler: &'a mut H,
        event: &'a E,
        _: Message<'a>,
        cx: &'a mut Context<'_>,
    ) -> impl Future<Output: IntoDispatched> {
        handler.handle(event, cx)
    }

    async fn decode(
        &self,
        handler: &mut H,
        message: Message<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), DispatchFailure> {
        let event: E = message.0.decode().map_err(DispatchFailure::undecodable)?;
        handler.handle(&event, cx).await.into_dispatched()
    }
}

impl<H, C: Command> Link<H> for OnCommand<C>
where
    H: CommandHandler<C>,
{
    const TRANSACTIONAL: bool = false;

    type Body = C;

    fn claims(&self, message: Message<'_>) -> Option<bool> {
        is_for_command::<C>(message)
    }

    #[inline]
    fn handle<'a>(
        &'a self,
        handler: &'a mut H,
        command: &'a C,
        message: Message<'a>,
        cx: &'a mut Context<'_>,
    ) -> impl Future<Output: IntoDispatched> {
        async move {
            let reply = handler.handle(command, cx).await;
            keep_reply(reply, message, cx)
        }
    }

    async fn decode(
        &self,
        handler: &mut H,
        message: Message<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), DispatchFailure> {
        let command: C = message.0.decode().map_err(DispatchFailure::undecodable)?;
        let reply = handler.handle(&command, cx).await;
        keep_reply(reply, message, cx)
    }
}

/// The reply goes out with the acknowledgement, if anyone waits for it.
pub(super) fn keep_reply<R: serde::Serialize + Send + 'static>(
    reply: Result<R, Failure>,
    message: Message<'_>,
    cx: &mut Context<'_>,
) -> Result<(), DispatchFailure> {
    let reply = reply.map_err(DispatchFailure::handler)?;
    if message.0.envelope().expects_reply() {
        cx.scratch.reply = Some(Box::new(TypedReply(reply)));
    }
    Ok(())
}

impl<H: RawSubscriber> Link<H> for OnPattern {
    const TRANSACTIONAL: bool = false;

    type Body = NoBody;

    #[inline]
    fn own<'a>(&self, _: Message<'a>) -> Option<&'a NoBody> {
        None
    }

    fn claims(&self, message: Message<'_>) -> Option<bool> {
        matches(&self.0, message)
    }

    fn handle<'a>(
        &'a self,
        _: &'a mut H,
        body: &'a NoBody,
        _: Message<'a>,
        _: &'a mut Context<'_>,
    ) -> impl Future<Output: IntoDispatched> {
        std::future::ready(*body)
    }

    async fn decode(
        &self,
        handler: &mut H,
        message: Message<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), DispatchFailure> {
        let handled = handler.handle(RawMessage::new(message.0), cx).await;
        handled.into_dispatched()
    }
}
