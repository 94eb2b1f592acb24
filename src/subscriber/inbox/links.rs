use std::marker::PhantomData;

use super::transactor::{Transactor, taken_away};
use super::{TxCommandHandler, TxContext, TxRawSubscriber, TxSubscriber};
use crate::delivery::Failure;
use crate::message::{Command, Event, Pattern, RawMessage};
use crate::ports::crash_point;
use crate::store::TxStore;
use crate::subscriber::Context;
use crate::subscriber::dispatch::{DispatchFailure, IntoDispatched, Link, Message};
use crate::subscriber::links::{NoBody, is_for_command, is_for_event, keep_reply, matches};

/// Handles events of type `E` in transactions of `S`.
#[doc(hidden)]
pub struct OnTxEvent<E, S>(pub(crate) PhantomData<fn(E, S)>);

/// Handles commands of type `C` in transactions of `S`.
#[doc(hidden)]
pub struct OnTxCommand<C, S>(pub(crate) PhantomData<fn(C, S)>);

/// Handles what a pattern matches in transactions of `S`.
#[doc(hidden)]
pub struct OnTxPattern<S>(pub(crate) Pattern, pub(crate) PhantomData<fn(S)>);

/// Lends the attempt's transaction to a handler. Where that does not come to its end, the connection is dropped, and
/// with it the transaction.
async fn with_transaction<S: TxStore, R>(
    cx: &mut Context<'_>,
    handle: impl AsyncFnOnce(&mut TxContext<'_, S>) -> Result<R, Failure>,
) -> Result<R, DispatchFailure> {
    let connection = cx.scratch.inbox().and_then(|inbox| inbox.lend());
    let connection = connection.and_then(|connection| connection.downcast().ok());
    let Some(connection) = connection else {
        return Err(DispatchFailure::handler(Failure::from(taken_away())));
    };
    let mut lent = TxContext::<S> {
        context: Context {
            slot: cx.slot,
            queue: cx.queue,
            scratch: &mut *cx.scratch,
        },
        connection,
    };
    crash_point("before-handle");
    let handled = handle(&mut lent).await;
    crash_point("after-handle");
    let connection = lent.connection;
    if let Some(inbox) = cx.scratch.inbox() {
        inbox.give_back(connection);
    }
    handled.map_err(DispatchFailure::handler)
}

impl<H, E: Event, S: TxStore> Link<H> for OnTxEvent<E, S>
where
    H: TxSubscriber<E, S>,
{
    const TRANSACTIONAL: bool = true;

    type Body = E;

    fn claims(&self, message: Message<'_>) -> Option<bool> {
        is_for_event::<E>(message)
    }

    fn handle<'a>(
        &'a self,
        handler: &'a mut H,
        event: &'a E,
        _: Message<'a>,
        cx: &'a mut Context<'_>,
    ) -> impl Future<Output: IntoDispatched> {
        with_transaction(cx, async move |cx: &mut TxContext<'_, S>| {
            handler.handle(event, cx).await
        })
    }

    async fn decode(
        &self,
        handler: &mut H,
        message: Message<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), DispatchFailure> {
        let event: E = message.0.decode().map_err(DispatchFailure::undecodable)?;
        with_transaction(cx, async |cx: &mut TxContext<'_, S>| {
            handler.handle(&event, cx).await
        })
        .await
    }

    fn transactor(&self) -> Option<Transactor> {
        Some(Transactor::over::<S>())
    }
}

impl<H, C: Command, S: TxStore> Link<H> for OnTxCommand<C, S>
where
    H: TxCommandHandler<C, S>,
{
    const TRANSACTIONAL: bool = true;

    type Body = C;

    fn claims(&self, message: Message<'_>) -> Option<bool> {
        is_for_command::<C>(message)
    }

    fn handle<'a>(
        &'a self,
        handler: &'a mut H,
        command: &'a C,
        message: Message<'a>,
        cx: &'a mut Context<'_>,
    ) -> impl Future<Output: IntoDispatched> {
        async move {
            let reply = with_transaction(cx, async |cx: &mut TxContext<'_, S>| {
                handler.handle(command, cx).await
            });
            let reply = reply.await?;
            keep_reply(Ok(reply), message, cx)
        }
    }

    async fn decode(
        &self,
        handler: &mut H,
        message: Message<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), DispatchFailure> {
        let command: C = message.0.decode().map_err(DispatchFailure::undecodable)?;
        let handled = Link::<H>::handle(self, handler, &command, message, cx).await;
        handled.into_dispatched()
    }

    fn transactor(&self) -> Option<Transactor> {
        Some(Transactor::over::<S>())
    }
}

impl<H, S: TxStore> Link<H> for OnTxPattern<S>
where
    H: TxRawSubscriber<S>,
{
    const TRANSACTIONAL: bool = true;

    type Body = NoBody;

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
        with_transaction(cx, async |cx: &mut TxContext<'_, S>| {
            handler.handle(RawMessage::new(message.0), cx).await
        })
        .await
    }

    fn transactor(&self) -> Option<Transactor> {
        Some(Transactor::over::<S>())
    }
}
