use std::marker::PhantomData;
use std::sync::Arc;

use super::TxContext;
use crate::delivery::{Failure, Outcome};
use crate::message::{Command, Event, RawMessage};
use crate::store::TxStore;

/// Reacts to events of one type, each in a database transaction of its own; subscribed by
/// [`SubscriberBuilder::transactional`](crate::SubscriberBuilder::transactional).
///
/// The record that this subscriber has handled the message, what the handler does by [`TxContext::tx`], and what it
/// sends commit as one, and then the message is acknowledged. So its effects happen once, however often the message
/// arrives: after a crash, a lost connection, a replayed outbox, for as long as the record is kept
/// ([`Relay::keep_handled`](crate::Relay::keep_handled)). A duplicate is acknowledged without running the handler.
/// An error, a panic or a timeout rolls back everything, the record too.
///
/// In all else it is under the rules of [`Subscriber`](crate::Subscriber).
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct OrderPaid { order: i64 }
/// # impl postroom::Event for OrderPaid { const TOPIC: &'static str = "ordering.order-paid"; }
/// # #[derive(Serialize, Deserialize)] struct StockTaken { order: i64 }
/// # impl postroom::Event for StockTaken { const TOPIC: &'static str = "catalog.stock-taken"; }
/// # #[cfg(feature = "sqlite")] use postroom::{Outcome, Sqlite, TxContext, TxSubscriber};
/// struct Stock;
/// # #[cfg(feature = "sqlite")]
/// impl TxSubscriber<OrderPaid, Sqlite> for Stock {
///     async fn handle(&mut self, paid: &OrderPaid, cx: &mut TxContext<'_, Sqlite>) -> Outcome {
///         sqlx::query("UPDATE stock SET units = units - 1 WHERE ordered = $1")
///             .bind(paid.order)
///             .execute(cx.tx())
///             .await?;
///         cx.publish(StockTaken { order: paid.order });
///         Ok(()) // now all of it is committed, and then the message is acknowledged
///     }
/// }
///
/// # #[cfg(feature = "sqlite")]
/// # async fn subscribe(bus: &postroom::Bus) -> Result<(), postroom::SubscribeError> {
/// bus.subscriber("stock", || Stock).transactional::<OrderPaid, Sqlite>().start().await?;
/// # Ok(()) }
/// ```
///
/// # Cancel safety
/// Dropped before its end (a timeout, a stop), the transaction is rolled back. What was done outside of it is not.
pub trait TxSubscriber<E: Event, S: TxStore>: 'static {
    /// Handles one event.
    fn handle(&mut self, event: &E, cx: &mut TxContext<'_, S>) -> impl Future<Output = Outcome>;
}

/// Does what commands of one type ask for, in a database transaction, and answers; subscribed by
/// [`SubscriberBuilder::transactional_command`](crate::SubscriberBuilder::transactional_command).
///
/// As [`TxSubscriber`], and as [`CommandHandler`](crate::CommandHandler) for the reply: it goes out after the commit.
/// It is not kept: who waits for the reply to a duplicate gets
/// [`ReplyPathLost`](crate::RequestError::ReplyPathLost) at once.
pub trait TxCommandHandler<C: Command, S: TxStore>: 'static {
    /// Handles one command.
    fn handle(
        &mut self,
        command: &C,
        cx: &mut TxContext<'_, S>,
    ) -> impl Future<Output = Result<C::Reply, Failure>>;
}

/// Reacts to every event that a topic pattern matches, whatever its type, each in a database transaction; subscribed by
/// [`SubscriberBuilder::transactional_pattern`](crate::SubscriberBuilder::transactional_pattern). Under the same rules
/// as [`TxSubscriber`].
///
/// ```
/// # #[cfg(feature = "sqlite")] use postroom::{Outcome, RawMessage, Sqlite, TxContext, TxRawSubscriber};
/// struct Audit;
/// # #[cfg(feature = "sqlite")]
/// impl TxRawSubscriber<Sqlite> for Audit {
///     async fn handle(&mut self, message: RawMessage<'_>, cx: &mut TxContext<'_, Sqlite>) -> Outcome {
///         sqlx::query("INSERT INTO audit (topic, body) VALUES ($1, $2)")
///             .bind(message.address())
///             .bind(std::str::from_utf8(message.json()?)?)
///             .execute(cx.tx())
///             .await?;
///         Ok(())
///     }
/// }
///
/// # #[cfg(feature = "sqlite")]
/// # async fn subscribe(bus: &postroom::Bus) -> Result<(), postroom::SubscribeError> {
/// bus.subscriber("audit", || Audit).transactional_pattern::<Sqlite>("ordering.#").start().await?;
/// # Ok(()) }
/// ```
pub trait TxRawSubscriber<S: TxStore>: 'static {
    /// Handles one message.
    fn handle(
        &mut self,
        message: RawMessage<'_>,
        cx: &mut TxContext<'_, S>,
    ) -> impl Future<Output = Outcome>;
}

/// A function as a transactional subscriber; made by
/// [`Bus::transactional_fn`](crate::Bus::transactional_fn).
pub struct TxEventFn<F, E, S>(pub(crate) Arc<F>, pub(crate) PhantomData<fn(E, S)>);

impl<E, S, F> TxSubscriber<E, S> for TxEventFn<F, E, S>
where
    E: Event,
    S: TxStore,
    F: AsyncFn(&E, &mut TxContext<'_, S>) -> Outcome + 'static,
{
    async fn handle(&mut self, event: &E, cx: &mut TxContext<'_, S>) -> Outcome {
        (self.0)(event, cx).await
    }
}

/// A function as a transactional command handler; made by
/// [`Bus::transactional_command_fn`](crate::Bus::transactional_command_fn).
pub struct TxCommandFn<F, C, S>(pub(crate) Arc<F>, pub(crate) PhantomData<fn(C, S)>);

impl<C, S, F> TxCommandHandler<C, S> for TxCommandFn<F, C, S>
where
    C: Command,
    S: TxStore,
    F: AsyncFn(&C, &mut TxContext<'_, S>) -> Result<C::Reply, Failure> + 'static,
{
    async fn handle(
        &mut self,
        command: &C,
        cx: &mut TxContext<'_, S>,
    ) -> Result<C::Reply, Failure> {
        (self.0)(command, cx).await
    }
}
