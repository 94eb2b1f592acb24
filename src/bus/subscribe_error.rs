use std::time::Duration;

use crate::delivery::{BreakerError, RetryError};
use crate::message::NameError;

/// Why a subscriber could not be started.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The name, a topic or a queue is not a valid name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The retry policy cannot be followed.
    #[error(transparent)]
    Retry(#[from] RetryError),
    /// The breaker cannot work.
    #[error(transparent)]
    Breaker(#[from] BreakerError),
    /// It subscribes to nothing.
    #[error("the subscriber `{0}` handles nothing: add `.on`, `.command` or `.pattern`")]
    HandlesNothing(String),
    /// A mailbox, or a number of workers or lanes, of zero.
    #[error("the {what} of `{name}` must be at least 1")]
    Zero {
        /// The subscriber.
        name: String,
        /// What is zero.
        what: &'static str,
    },
    /// It is to be in two orders, which exclude each other.
    #[error("`{0}` has two orders: say one of `workers`, `keyed` and `order`")]
    TwoOrders(String),
    /// In keyed order a message that is retried holds up its key: for no longer than 5 minutes.
    #[error("the retries of `{name}` may hold a key for {hold:?}, the most is {most:?}")]
    HoldsTooLong {
        /// The subscriber.
        name: String,
        /// The longest hold of its policy.
        hold: Duration,
        /// The longest that is allowed.
        most: Duration,
    },
    /// A group of this name runs with other settings.
    #[error("the group `{name}` runs with another {what}")]
    GroupMismatch {
        /// The group.
        name: String,
        /// The first setting that differs.
        what: &'static str,
    },
    /// A command has one queue, and another subscriber has it.
    #[error("the command queue `{queue}` belongs to `{owner}`")]
    CommandTaken {
        /// The command's queue.
        queue: String,
        /// The subscriber that has it.
        owner: String,
    },
    /// Of what it wants one part is imported by the bridge and another is not: messages would come by two ways,
    /// in no order. Import all of it, or make two subscribers.
    #[error("`{name}` wants `{imported}`, which is imported, and `{local}`, which is not")]
    MixedBacking {
        /// The subscriber.
        name: String,
        /// A pattern or queue that is imported.
        imported: String,
        /// One that is not, or not wholly.
        local: String,
    },
    /// A handler is transactional, and the bus was built without a store.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    #[error("`{0}` is transactional, and the bus has no store: build it with `Builder::store`")]
    NoStore(String),
    /// A handler is transactional over another database than the bus's store.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    #[error("the bus's store is {store}, and `{name}` is transactional over another")]
    OtherDatabase {
        /// The subscriber.
        name: String,
        /// The database of the store.
        store: &'static str,
    },
    /// It is to be kept in the store, and cannot be.
    #[error("the queue of `{name}` cannot be durable: {why}")]
    NotDurable {
        /// The subscriber.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// No thread could be had for `own_thread`.
    #[error("no thread for `{name}`: {why}")]
    Thread {
        /// The subscriber.
        name: String,
        /// What the operating system said.
        why: String,
    },
    /// The bus is shut down, or the supervisor is stopped.
    #[error("the bus is shut down, or the supervisor is stopped")]
    Closed,
}
