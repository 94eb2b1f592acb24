use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::sql::Migration;
use super::{
    DatabaseError, DeadRow, DelayedRow, FailedRow, HeldLane, LaneLease, NewRow, NextDue,
    PublishedRow, StoredRow, TakeRows,
};

/// An answer of a database, boxed because it crosses a trait object.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, DatabaseError>> + Send + 'a>>;

/// A database in which messages are kept: [`Sqlite`](crate::Sqlite), [`Postgres`](crate::Postgres), or one of your
/// own.
///
/// It does not own the connections of its user. What the bus does by itself it does through [`StoreSession`]s, which
/// it opens on its own thread; what belongs to a transaction of the user's comes in through a [`StoreConnection`].
pub trait Store: Any + Send + Sync {
    /// The database's name, as in `SQLite`: told in errors and in the log.
    fn database(&self) -> &'static str;

    /// What makes the tables, oldest first, with all names filled in: for who runs them by their own tool.
    fn migrations(&self) -> Vec<Migration>;

    /// Opens a connection of the store's own, on the runtime that it is awaited on. It must be bounded in time.
    fn open(&self) -> StoreFuture<'_, Box<dyn StoreSession>>;

    /// Opens a connection that listens for what is written, also by other processes. None, as by default: the database
    /// cannot tell, or is not asked to, and it is looked for by slow polls.
    fn listen(&self, _to: Told) -> Option<StoreFuture<'_, Box<dyn StoreListener>>> {
        None
    }
}

/// What a database may tell of by itself, in a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Rows of the outbox.
    Outbox,
    /// Rows of durable queues.
    Queues,
}

/// A connection that listens. It is not used again after an error, nor after a future of it was dropped.
pub trait StoreListener: Send {
    /// Waits, without end, until something may have been written since the last time. Many commits may be one.
    fn heard(&mut self) -> StoreFuture<'_, ()>;
}

/// A connection of the store's own, used by one task at a time.
///
/// Every method is bounded in time, and is one transaction: done wholly, or not at all. After an error other than
/// [`Busy`](crate::DatabaseProblem::Busy), [`ReadOnly`](crate::DatabaseProblem::ReadOnly) and
/// [`Full`](crate::DatabaseProblem::Full) it is dropped and another one opened; so it is when a method's future is
/// dropped before its end. All times are read from the database's clock.
pub trait StoreSession: super::QueueSession {
    /// Makes the tables, or brings them to this version. Safe to run from many processes at once.
    fn migrate(&mut self) -> StoreFuture<'_, ()>;

    /// Checks that the tables are of this version, and changes nothing.
    fn check(&mut self) -> StoreFuture<'_, ()>;

    /// Says that the relay `holder` lives for `lease` from now on; renews the lanes that it holds, gives up those of
    /// `give_up`, and takes free ones up to its fair share among the relays that live. Returns all that it holds.
    fn renew<'a>(
        &'a mut self,
        holder: &'a str,
        lease: Duration,
        give_up: &'a [u32],
    ) -> StoreFuture<'a, LaneLease>;

    /// Gives up what the relay holds, and that it lives. The lanes of `keep` stay its own until their lease runs out:
    /// something of them is still on its way.
    fn leave<'a>(&'a mut self, holder: &'a str, keep: &'a [u32]) -> StoreFuture<'a, ()>;

    /// Whether another connection may have committed something since this was asked last. `true` where the
    /// database cannot tell for less than it costs to look.
    fn has_changed(&mut self) -> StoreFuture<'_, bool>;

    /// Rows whose turn it is, by position: those without an earlier row of their key that waits for a retry. A delayed
    /// one that is returned cannot be taken back any more by [`cancel`](Self::cancel); one for which that cannot be
    /// written now is left out, and comes at a later look.
    fn take<'a>(&'a mut self, wanted: &'a TakeRows) -> StoreFuture<'a, Vec<StoredRow>>;

    /// When delayed rows and retries are due, of all lanes.
    fn next_due(&mut self) -> StoreFuture<'_, NextDue>;

    /// Marks rows as published, where `holder` still holds their lanes by the same fences; with `keep` unset it
    /// deletes them at once. Returns how many there were.
    fn mark_published<'a>(
        &'a mut self,
        holder: &'a str,
        rows: &'a [PublishedRow],
        keep: bool,
    ) -> StoreFuture<'a, u64>;

    /// Writes how often rows failed, and when they are tried again, under the same condition. Repeated, since it is not
    /// known whether it was done, it counts no attempt twice.
    fn mark_failed<'a>(
        &'a mut self,
        holder: &'a str,
        rows: &'a [FailedRow],
    ) -> StoreFuture<'a, u64>;

    /// Deletes at most `most` rows that were published longer than `older_than` ago. Returns how many.
    fn clean_outbox(&mut self, older_than: Duration, most: u32) -> StoreFuture<'_, u64>;

    /// Deletes at most `most` records of the inbox that are older than `older_than`. Returns how many.
    fn clean_inbox(&mut self, older_than: Duration, most: u32) -> StoreFuture<'_, u64>;

    /// How many rows wait, counted up to `most`, and how many are dead, counted alike.
    fn backlog(&mut self, most: u32) -> StoreFuture<'_, (u64, u64)>;

    /// Rows that were given up, oldest first.
    fn dead(&mut self, most: u32) -> StoreFuture<'_, Vec<DeadRow>>;

    /// Lets a row that was given up be tried again, with its attempts counted anew. Whether it was there.
    fn replay<'a>(&'a mut self, id: &'a str) -> StoreFuture<'a, bool>;

    /// Deletes a row that was given up. Whether it was there.
    fn discard<'a>(&'a mut self, id: &'a str) -> StoreFuture<'a, bool>;

    /// Deletes a delayed row, unless it was [taken](Self::take). Whether it was there.
    fn cancel<'a>(&'a mut self, id: &'a str) -> StoreFuture<'a, bool>;

    /// Delayed rows to one address, or to all, in order of their times, at most so many.
    fn delayed<'a>(
        &'a mut self,
        address: Option<&'a str>,
        most: u32,
    ) -> StoreFuture<'a, Vec<DelayedRow>>;

    /// How many delayed rows there are.
    fn count_delayed(&mut self) -> StoreFuture<'_, u64>;

    /// The holders of the lanes and their fences, as they stand in the database: for an operator, and for tests.
    fn lanes(&mut self) -> StoreFuture<'_, Vec<(HeldLane, Option<String>)>>;
}

/// A connection of the user's, mostly a transaction, into which rows are written.
///
/// Implemented for `sqlx::Transaction` of SQLite and PostgreSQL and for their connections. Nothing is committed here.
pub trait StoreConnection: Send {
    /// The store whose rows it can take.
    type Store: Store;

    /// Whether it is in a transaction: out of one each row would be committed by itself.
    fn is_in_transaction(&self) -> bool;

    /// Writes rows of the outbox, at positions in their order.
    ///
    /// # Errors
    /// The database's. On PostgreSQL the transaction is of no use then; roll it back.
    ///
    /// # Cancel safety
    /// Not safe: dropped before its end, the rows may have been written or not. Roll the transaction back.
    fn insert<'a>(
        &'a mut self,
        store: &'a Self::Store,
        rows: &'a [NewRow],
    ) -> impl Future<Output = Result<(), DatabaseError>> + Send + 'a;

    /// Writes that `consumer` handles a message, into the inbox. False: it was handled before, and nothing was
    /// written. Where another transaction is writing the same, this waits for its end.
    ///
    /// # Errors
    /// The database's.
    fn record_handled<'a>(
        &'a mut self,
        store: &'a Self::Store,
        consumer: &'a str,
        message_id: &'a str,
    ) -> impl Future<Output = Result<bool, DatabaseError>> + Send + 'a;
}
