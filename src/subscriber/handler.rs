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
/// that the sender is meant to see belongs in the reply type.
pub trait CommandHandler<C: Command>: 'static {
    /// Handles one command.
    fn handle(
        &mut self,
        command: &C,
        cx: &mut Context<'_>,
    ) -> impl Future<Output = Result<C::Reply, Failure>>;
}

/// Reacts to every message that a topic pattern matches, whatever its type.
pub trait RawSubscriber: 'static {
    /// Handles one message.
    fn handle(
        &mut self,
        message: RawMessage<'_>,
        cx: &mut Context<'_>,
    ) -> impl Future<Output = Outcome>;
}
