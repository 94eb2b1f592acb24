//! Where messages are kept beside their queues: dead letters in memory, and, with the features `sqlite` and
//! `postgres`, what a database keeps in the user's own transactions.

#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod contract;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod error;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod handling;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod link;
mod memory;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod queue_contract;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod queue_record;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod record;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod sql;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod turn;

#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use contract::{Store, StoreConnection, StoreFuture, StoreListener, StoreSession, Told};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use error::{DatabaseError, DatabaseProblem};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use handling::{HandlingLimits, TxStore};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use link::{InTrouble, Ring, StoreLink};
pub(crate) use memory::MemoryDeadLetters;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use queue_contract::QueueSession;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use queue_record::{
    BuriedRow, Failures, HeldQueue, LetterFilter, LetterRow, NewLetter, NewQueued, QueueWrite,
    QueueWritten, QueuedRow, RetriedRow, TakeQueued, TakenRow,
};
#[cfg(all(feature = "testing", any(feature = "sqlite", feature = "postgres")))]
pub(crate) use record::lane_of;
#[cfg(feature = "postgres")]
pub(crate) use record::number_of;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use record::{
    DeadRow, DelayedRow, FailedRow, HeldLane, LaneLease, NewRow, NextDue, PublishedRow, StoredRow,
    TakeRows,
};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use record::{LANES, parcel_of, row_of, unreadable};
#[cfg(feature = "postgres")]
pub use sql::Postgres;
#[cfg(feature = "sqlite")]
pub use sql::Sqlite;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use sql::{Migration, Migrations};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use turn::Turn;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use turn::Turns;
