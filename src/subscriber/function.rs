use std::marker::PhantomData;
use std::sync::Arc;

use super::{CommandHandler, Context, Subscriber};
use crate::delivery::{Failure, Outcome};
use crate::message::{Command, Event};

/// A function as a subscriber; made by [`Bus::subscribe_fn`](crate::Bus::subscribe_fn).
pub struct EventFn<F, E>(pub(crate) Arc<F>, pub(crate) PhantomData<fn(E)>);

impl<E, F> Subscriber<E> for EventFn<F, E>
where
    E: Event,
    F: AsyncFn(&E, &mut Context<'_>) -> Outcome + 'static,
{
    async fn handle(&mut self, event: &E, cx: &mut Context<'_>) -> Outcome {
        (self.0)(event, cx).await
    }
}

/// A function as a command handler; made by [`Bus::handle_fn`](crate::Bus::handle_fn).
pub struct CommandFn<F, C>(pub(crate) Arc<F>, pub(crate) PhantomData<fn(C)>);

impl<C, F> CommandHandler<C> for CommandFn<F, C>
where
    C: Command,
    F: AsyncFn(&C, &mut Context<'_>) -> Result<C::Reply, Failure> + 'static,
{
    async fn handle(&mut self, command: &C, cx: &mut Context<'_>) -> Result<C::Reply, Failure> {
        (self.0)(command, cx).await
    }
}
