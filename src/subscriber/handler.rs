use crate::delivery::{Failure, Outcome};
use crate::message::{Command, Event, RawMessage};

use super::Context;

/// Reacts to events of one type.
///
/// The value lives on one thread and is run one message at a time, so it needs neither locks nor `Send`.
/// It is made by the factory given to [`Bus::subscriber`](crate::Bus::subscriber), anew after every panic
/// and every timeout (contract, rule 8): what must outlive those belongs outside of it.
///
/// `Ok` acknowledges. An error means: retry by the policy. See [`Failure`] for the other verdicts.
///
/// # Cancel safety
/// The future is dropped at its timeout, when a stop's deadline passes, and when a sibling's failure
/// restarts it. Handling is repeated then, so effects must be idempotent.
pub trait Subscriber<E: Event>: 'static {
    /// Handles one event.
    fn handle(&mut self, event: &E, cx: &mut Context<'_>) -> impl Future<Output = Outcome>;
}

/// Does what commands of one type ask for, and answers.
///
/// Under the same rules as [`Subscriber`]. An `Err` is a failed attempt and never the reply: a refusal
/// that the sender is meant to see belongs in the reply type. The reply goes out after the handler's other
/// messages, when the command is acknowledged; when nobody waits for it any more it is dropped, and counted.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// use postroom::{Command, CommandHandler, Context, Failure};
///
/// #[derive(Serialize, Deserialize)]
/// struct Reserve { units: u32 }
/// impl Command for Reserve {
///     const QUEUE: &'static str = "catalog.reserve";
///     type Reply = bool; // whether there was enough
/// }
///
/// struct Catalog { stock: u32 }
/// impl CommandHandler<Reserve> for Catalog {
///     async fn handle(&mut self, ask: &Reserve, _: &mut Context<'_>) -> Result<bool, Failure> {
///         let left = self.stock.checked_sub(ask.units);
///         self.stock = left.unwrap_or(self.stock);
///         Ok(left.is_some())
///     }
/// }
/// ```
pub trait CommandHandler<C: Command>: 'static {
    /// Handles one command.
    fn handle(
        &mut self,
        command: &C,
        cx: &mut Context<'_>,
    ) -> impl Future<Output = Result<C::Reply, Failure>>;
}

/// Reacts to every event that a topic pattern matches, whatever its type. Under the same rules as
/// [`Subscriber`]; subscribed by [`SubscriberBuilder::pattern`](crate::SubscriberBuilder::pattern).
///
/// ```
/// use postroom::{Context, Outcome, RawMessage, RawSubscriber};
///
/// struct Archive { bytes: usize }
/// impl RawSubscriber for Archive {
///     async fn handle(&mut self, message: RawMessage<'_>, _: &mut Context<'_>) -> Outcome {
///         self.bytes += message.json()?.len(); // encoded once, for all who ask
///         Ok(())
///     }
/// }
/// # async fn subscribe(bus: &postroom::Bus) -> Result<(), postroom::SubscribeError> {
/// bus.subscriber("archive", || Archive { bytes: 0 }).pattern("ordering.#").start().await?;
/// # Ok(()) }
/// ```
pub trait RawSubscriber: 'static {
    /// Handles one message.
    fn handle(
        &mut self,
        message: RawMessage<'_>,
        cx: &mut Context<'_>,
    ) -> impl Future<Output = Outcome>;
}
