use std::marker::PhantomData;

use super::transactor::{Transactor, taken_away};
use super::{TxCommandHandler, TxContext, TxRawSubscriber, TxSubscriber};
use crate::delivery::Failure;
use crate::message::{AddressKind, Command, Event, Pattern, RawMessage};
use crate::ports::crash_point;
use crate::store::TxStore;
use crate::subscriber::Context;
use crate::subscriber::dispatch::{
    Chain, Dispatch, DispatchFailure, Either, Message, Selected, keep_reply, prefer,
};

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
            parcel: cx.parcel,
            attempt: cx.attempt,
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

impl<H, E, S, Rest> Dispatch<H> for Chain<OnTxEvent<E, S>, Rest>
where
    E: Event,
    S: TxStore,
    H: TxSubscriber<E, S>,
    Rest: Dispatch<H>,
{
    const TRANSACTIONAL: bool = true;

    fn run_typed<'a>(
        &'a self,
        handler: &'a mut H,
        message: Message<'a>,
        cx: &'a mut Context<'_>,
    ) -> impl Future<Output = Option<Result<(), DispatchFailure>>> {
        match message.0.body_as::<E>() {
            Some(event) => Either::Head {
                future: with_transaction(cx, async move |cx: &mut TxContext<'_, S>| {
                    handler.handle(event, cx).await
                }),
            },
            None => Either::Rest {
                future: self.rest.run_typed(handler, message, cx),
            },
        }
    }

    fn select(&self, message: Message<'_>) -> Option<Selected> {
        let envelope = message.0.envelope();
        let is_mine = envelope.kind() == AddressKind::Topic && envelope.address() == E::TOPIC;
        prefer(is_mine.then_some(true), || self.rest.select(message))
    }

    async fn run(
        &self,
        place: usize,
        handler: &mut H,
        message: Message<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), DispatchFailure> {
        if place > 0 {
            return self.rest.run(place - 1, handler, message, cx).await;
        }
        let event: E = message.0.decode().map_err(DispatchFailure::undecodable)?;
        with_transaction(cx, async |cx: &mut TxContext<'_, S>| {
            handler.handle(&event, cx).await
        })
        .await
    }

    fn typed_place(&self, message: Message<'_>) -> Option<usize> {
        match message.0.body_as::<E>() {
            Some(_) => Some(0),
            None => self.rest.typed_place(message).map(|place| place + 1),
        }
    }

    fn transactor_at(&self, place: usize) -> Option<Transactor> {
        match place {
            0 => Some(Transactor::over::<S>()),
            place => self.rest.transactor_at(place - 1),
        }
    }
}

impl<H, C, S, Rest> Dispatch<H> for Chain<OnTxCommand<C, S>, Rest>
where
    C: Command,
    S: TxStore,
    H: TxCommandHandler<C, S>,
    Rest: Dispatch<H>,
{
    const TRANSACTIONAL: bool = true;

    fn run_typed<'a>(
        &'a self,
        handler: &'a mut H,
        message: Message<'a>,
        cx: &'a mut Context<'_>,
    ) -> impl Future<Output = Option<Result<(), DispatchFailure>>> {
        match message.0.body_as::<C>() {
            Some(command) => Either::Head {
                future: async move {
                    let reply = with_transaction(cx, async |cx: &mut TxContext<'_, S>| {
                        handler.handle(command, cx).await
                    });
                    let reply = reply.await?;
                    keep_reply(Ok(reply), message, cx)
                },
            },
            None => Either::Rest {
                future: self.rest.run_typed(handler, message, cx),
            },
        }
    }

    fn select(&self, message: Message<'_>) -> Option<Selected> {
        let envelope = message.0.envelope();
        let is_mine = envelope.kind() == AddressKind::Queue && envelope.address() == C::QUEUE;
        prefer(is_mine.then_some(true), || self.rest.select(message))
    }

    async fn run(
        &self,
        place: usize,
        handler: &mut H,
        message: Message<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), DispatchFailure> {
        if place > 0 {
            return self.rest.run(place - 1, handler, message, cx).await;
        }
        let command: C = message.0.decode().map_err(DispatchFailure::undecodable)?;
        let reply = with_transaction(cx, async |cx: &mut TxContext<'_, S>| {
            handler.handle(&command, cx).await
        });
        let reply = reply.await?;
        keep_reply(Ok(reply), message, cx)
    }

    fn typed_place(&self, message: Message<'_>) -> Option<usize> {
        match message.0.body_as::<C>() {
            Some(_) => Some(0),
            None => self.rest.typed_place(message).map(|place| place + 1),
        }
    }

    fn transactor_at(&self, place: usize) -> Option<Transactor> {
        match place {
            0 => Some(Transactor::over::<S>()),
            place => self.rest.transactor_at(place - 1),
        }
    }
}

impl<H, S, Rest> Dispatch<H> for Chain<OnTxPattern<S>, Rest>
where
    S: TxStore,
    H: TxRawSubscriber<S>,
    Rest: Dispatch<H>,
{
    const TRANSACTIONAL: bool = true;

    fn run_typed<'a>(
        &'a self,
        handler: &'a mut H,
        message: Message<'a>,
        cx: &'a mut Context<'_>,
    ) -> impl Future<Output = Option<Result<(), DispatchFailure>>> {
        self.rest.run_typed(handler, message, cx)
    }

    fn select(&self, message: Message<'_>) -> Option<Selected> {
        let envelope = message.0.envelope();
        let is_mine =
            envelope.kind() == AddressKind::Topic && self.first.0.matches(envelope.address());
        prefer(is_mine.then_some(false), || self.rest.select(message))
    }

    async fn run(
        &self,
        place: usize,
        handler: &mut H,
        message: Message<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), DispatchFailure> {
        if place > 0 {
            return self.rest.run(place - 1, handler, message, cx).await;
        }
        with_transaction(cx, async |cx: &mut TxContext<'_, S>| {
            handler.handle(RawMessage::new(message.0), cx).await
        })
        .await
    }

    fn typed_place(&self, message: Message<'_>) -> Option<usize> {
        self.rest.typed_place(message).map(|place| place + 1)
    }

    fn transactor_at(&self, place: usize) -> Option<Transactor> {
        match place {
            0 => Some(Transactor::over::<S>()),
            place => self.rest.transactor_at(place - 1),
        }
    }
}
