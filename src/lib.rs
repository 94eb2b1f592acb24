//! Actor-based, in-process eventing: subscribers and queues are supervised actors with bounded mailboxes, and a
//! publish tells the truth.
//!
//! ```
//! use postroom::{Bus, Context, Event, Outcome, Subscriber};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct OrderPaid { order: u64 }
//! impl Event for OrderPaid { const TOPIC: &'static str = "ordering.order-paid"; }
//!
//! struct Mailer;
//! impl Subscriber<OrderPaid> for Mailer {
//!     async fn handle(&mut self, paid: &OrderPaid, _cx: &mut Context<'_>) -> Outcome {
//!         assert_eq!(paid.order, 7);
//!         Ok(()) // acknowledges; an error would mean: retry by the policy
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bus = Bus::builder("shop").start().await?;
//! bus.subscriber("mailer", || Mailer).on::<OrderPaid>().start().await?;
//! let receipt = bus.publish(OrderPaid { order: 7 }).await?;
//! assert_eq!(receipt.local.accepted, 1);
//! let report = bus.shutdown(std::time::Duration::from_secs(5)).await;
//! assert!(report.clean);
//! # Ok(()) }
//! ```
//!
//! # Where to look
//!
//! | you want to | see |
//! |---|---|
//! | make a bus, and choose its limits | [`Builder`] |
//! | publish with a key, a delay, an expiry | [`Publish`], [`Schedule`] |
//! | handle events, commands, patterns | [`Subscriber`], [`CommandHandler`], [`RawSubscriber`], [`Context`] |
//! | choose order, bounds, overflow | [`SubscriberBuilder`], [`Order`], [`Overflow`] |
//! | say what an error means | [`Failure`], [`Retry`], [`Breaker`] |
//! | ask and be answered | [`Bus::request`], [`RequestError`] |
//! | look at what was given up, and replay it | [`DeadLetters`], [`Filter`] |
//! | keep subscribers running | [`Supervisor`], [`Restart`], [`Strategy`], [`Lifecycle`] |
//! | see and change what passes | [`Interceptor`] |
//! | count, and see how fast | [`Bus::snapshot`], [`Snapshot`], [`Rates`] |
//! | answer a readiness or liveness probe | [`Bus::health`], [`Health`] |
//! | send messages to other processes | [`amqp`](crate#features), `Amqp`, `Builder::bridge` |
//! | publish what a transaction commits | [`outbox`](crate#features), `Publish::in_transaction`, `Outbox` |
//! | keep a local queue over a crash | [`durable queues`](crate#features), `SubscriberBuilder::durable`, `Durable` |
//! | change the database once per message, however often it comes | [`inbox`](crate#features), `TxSubscriber`, `SubscriberBuilder::transactional` |
//! | test without waiting | [`ManualClock`], [`Bus::settle`] |
//! | know what is guaranteed | [`contract`] |
//!
//! # Features
//!
//! | feature | brings |
//! |---|---|
//! | `amqp` | the bridge to RabbitMQ |
//! | `amqp-rustls`, `amqp-native-tls` | `amqps` for it, by rustls with ring or by the system's library |
//! | `testing` | the testing kit |
//! | `sqlite`, `postgres` | messages in the application's own transactions: the outbox and the inbox; durable queues, delayed messages and dead letters that survive the process |
//!
//! With a store the application brings `sqlx` 0.9 itself, with the runtime and the driver that it uses; with
//! `subscribe_actor` it brings `actix` 0.13. Types of theirs pass between it and Postroom, so the versions are the same.
//!
//! There are no default features.

#[cfg(feature = "amqp")]
mod bridge;
mod broker;
mod bus;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod database;
mod delivery;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod durable;
mod mailbox;
mod message;
mod observe;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod outbox;
mod ports;
mod queue;
mod store;
mod subscriber;
mod supervisor;
#[cfg(feature = "testing")]
pub mod testing;
mod time;

#[cfg(feature = "amqp")]
pub use bridge::{
    Amqp, AmqpAdmin, BridgeError, DeleteOnly, IncomingMessage, IncomingWire, OutgoingMessage,
    PlainJson, Plan, Properties, QueueType, TopologyError, TopologyMode, WireFormat,
    WireFormatError, WireMessage,
};
pub use broker::{Schedule, ScheduleLedger};
pub use bus::{
    Abandoned, Builder, Bus, DeadLetters, Escalation, Local, Publish, PublishAllError,
    PublishError, Receipt, ReplayAllError, ReplayError, Replayed, Request, Schedules,
    ShutdownReport, StartError, StopReport, SubscribeError, SubscriberBuilder, Subscription,
    Supervisor, SupervisorBuilder, Threads,
};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use bus::{Batch, Recorded, TransactionError, TransactionRefusal};
pub use delivery::{
    Breaker, BreakerError, Failure, Order, Outcome, Overflow, Reason, Restart, Retry, RetryError,
    Strategy, Verdict,
};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use durable::Durable;
pub use message::{
    AddressKind, CodecError, Command, Envelope, Event, MessageId, NameError, ParseIdError, Pattern,
    RawBody, RawMessage,
};
pub use observe::{Health, QueueSnapshot, Rates, Snapshot};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use outbox::{Outbox, Relay};
#[cfg(any(feature = "amqp", feature = "sqlite", feature = "postgres"))]
pub use ports::WhenDown;
pub use ports::{
    BoxFuture, BridgeSnapshot, Bridged, Condition, DeadLetter, DeadLetterId, DeadLetterLedger,
    DeadLettered, DurableSnapshot, Filter, Finished, Inbound, Interceptor, Lifecycle,
    LifecycleKind, LocalBoxFuture, Next, Outbound, OutboxSnapshot, Problem, Refusal, Refused,
    RequestError, ScheduledMessage, StoreError,
};
pub use queue::SubscriptionState;
#[cfg(feature = "postgres")]
pub use store::Postgres;
#[cfg(feature = "sqlite")]
pub use store::Sqlite;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use store::{
    DatabaseError, DatabaseProblem, DeadRow, Migration, Migrations, Store, StoreConnection, TxStore,
};
pub use subscriber::{
    CommandHandler, Context, Delivery, HandlerRequest, RawSubscriber, Sending, Subscriber,
};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use subscriber::{TxCommandHandler, TxContext, TxRawSubscriber, TxSubscriber};
pub use time::{Clock, ManualClock};

#[cfg(all(doctest, feature = "amqp"))]
#[doc = include_str!("../README.md")]
mod readme {}

pub mod contract {
    #![doc = include_str!("../docs/contract.md")]
}

/// The types that a subscriber builder or a plan is made of: named in signatures, seldom in a program.
pub mod parts {
    #[cfg(feature = "amqp")]
    pub use crate::bridge::{Argument, ExchangeKind, PlanObject};
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub use crate::store::{
        BuriedRow, DelayedRow, FailedRow, Failures, HandlingLimits, HeldLane, HeldQueue, LaneLease,
        LetterFilter, LetterRow, NewLetter, NewQueued, NewRow, NextDue, PublishedRow, QueueSession,
        QueueWrite, QueueWritten, QueuedRow, RetriedRow, StoreFuture, StoreListener, StoreSession,
        StoredRow, TakeQueued, TakeRows, TakenRow, Told, Turn,
    };
    pub use crate::subscriber::{
        ActorSubscriber, Chain, CommandFn, Dispatch, Empty, EventFn, Factory, Fallible, Infallible,
        Link, OnCommand, OnEvent, OnPattern,
    };
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub use crate::subscriber::{OnTxCommand, OnTxEvent, OnTxPattern, TxCommandFn, TxEventFn};
}
