//! Subscribers: the handler traits, what a handler sees, and the actor that runs it.

mod actix_actor;
mod attempt;
mod conclude;
mod context;
mod dispatch;
mod factory;
mod function;
mod handler;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod inbox;
mod links;
mod lookout;
mod member;
mod pulse;
mod release;
mod request;
mod shell;
mod worker;

pub use actix_actor::{ActorSubscriber, Delivery};
pub use context::{Context, Sending};
pub use dispatch::{Chain, Dispatch, Empty, Link};
pub use factory::{Factory, Fallible, Infallible};
pub use function::{CommandFn, EventFn};
pub use handler::{CommandHandler, RawSubscriber, Subscriber};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use inbox::{
    OnTxCommand, OnTxEvent, OnTxPattern, TxCommandFn, TxCommandHandler, TxContext, TxEventFn,
    TxRawSubscriber, TxSubscriber,
};
pub use links::{OnCommand, OnEvent, OnPattern};
pub(crate) use member::{Member, MemberChild};
pub(crate) use pulse::{Pulse, Turn, WorkerThread};
pub use request::HandlerRequest;
