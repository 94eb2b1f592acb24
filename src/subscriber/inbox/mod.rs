//! Handlers in a transaction: what is recorded in the inbox, what the handler does and what it sends commit as one.

mod attempt;
mod chain;
mod context;
mod handler;
mod transactor;

pub(super) use attempt::{Delivered, Inbox, commit, deliver, roll_back};
pub use chain::{OnTxCommand, OnTxEvent, OnTxPattern};
pub use context::TxContext;
pub use handler::{TxCommandFn, TxCommandHandler, TxEventFn, TxRawSubscriber, TxSubscriber};
pub(super) use transactor::Transactor;
