use std::future::Future;
use std::time::Duration;

use super::{DatabaseError, NewRow, Store, StoreConnection, Turn};

/// What a handler's connection has to reckon with.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct HandlingLimits {
    /// The longest that anything before the handler may wait, its turn, the connection, a lock of somebody else's: no
    /// part of the handler's own time.
    pub patience: Duration,
    /// The longest that a handler may take; none: for ever.
    pub timeout: Option<Duration>,
}

impl HandlingLimits {
    /// Of a subscription with this timeout.
    #[must_use]
    pub fn new(timeout: Option<Duration>) -> Self {
        Self {
            patience: Duration::from_secs(5),
            timeout,
        }
    }

    /// The longest that one of the waits before the handler may take, so that it says itself what it waited for.
    pub(crate) fn one_wait(&self) -> Duration {
        self.patience * 2 / 5
    }
}

/// A store in whose transactions messages are handled: see [`TxSubscriber`](crate::TxSubscriber).
///
/// A connection is used by one worker, for one message after another: *begin*, the handler, then *commit* or *roll
/// back*. When a future of these methods fails or is dropped before its end, the connection is dropped too, unless the
/// method says otherwise; that must roll back what was not committed.
pub trait TxStore: Store + Sized {
    /// What a handler gets, in a transaction. It must count nested transactions of the handler's as such: theirs must
    /// not end ours.
    type Connection: StoreConnection<Store = Self> + 'static;

    /// Opens a connection for handlers, on the runtime that this is awaited on.
    fn connect_for_handling(
        &self,
        limits: HandlingLimits,
    ) -> impl Future<Output = Result<Self::Connection, DatabaseError>> + Send + '_;

    /// Waits for the turn to write, where a database has one writer at a time; no longer than `patience`, and then
    /// without one. It is held until the transaction has ended.
    fn turn(&self, patience: Duration) -> impl Future<Output = Turn> + Send + '_ {
        let _ = patience;
        std::future::ready(Turn::free())
    }

    /// Begins a transaction and writes in it that `consumer` handles a message. False: it was handled before; the
    /// connection is in no transaction then. Where another transaction is writing the same, this waits for its end.
    fn begin_handling<'a>(
        &'a self,
        connection: &'a mut Self::Connection,
        consumer: &'a str,
        message_id: &'a str,
    ) -> impl Future<Output = Result<bool, DatabaseError>> + Send + 'a;

    /// Checks that the connection is still in that transaction, writes `rows` into the outbox, and commits. A handler
    /// may have ended its transaction, and one that ignored an error may have lost it: then nothing is written.
    ///
    /// # Errors
    /// The transaction was not committed, unless the connection or the time was lost meanwhile: then it may have been.
    /// After [`Busy`](crate::DatabaseProblem::Busy) and the like it is still to be rolled back.
    fn commit_handling<'a>(
        &'a self,
        connection: &'a mut Self::Connection,
        consumer: &'a str,
        message_id: &'a str,
        rows: &'a [NewRow],
    ) -> impl Future<Output = Result<(), DatabaseError>> + Send + 'a;

    /// Rolls back. After an error the connection is dropped.
    fn roll_back_handling<'a>(
        &'a self,
        connection: &'a mut Self::Connection,
    ) -> impl Future<Output = Result<(), DatabaseError>> + Send + 'a;
}
