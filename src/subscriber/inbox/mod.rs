//! Handlers in a transaction: what is recorded in the inbox, what the handler does and what it sends commit as one.

mod attempt;
mod context;
mod handler;
mod links;
mod transactor;

pub(super) use attempt::{Delivered, Inbox, commit, deliver, roll_back};
pub use context::TxContext;
pub use handler::{TxCommandFn, TxCommandHandler, TxEventFn, TxRawSubscriber, TxSubscriber};
pub use links::{OnTxCommand, OnTxEvent, OnTxPattern};
pub(super) use transactor::Transactor;
