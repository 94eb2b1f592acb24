use serde::Serialize;

/// The counts of an outbox since its bus was started, as this process has counted them; `waiting` and `dead` are the
/// database's, and so of all processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OutboxSnapshot {
    /// Rows written into transactions, and delayed messages. Whether the transactions committed is not known here.
    pub written: u64,
    /// Rows that were read to be published.
    pub taken: u64,
    /// Rows published, and marked so.
    pub published: u64,
    /// Attempts that failed for a reason of the row's own, and were marked so.
    pub failed: u64,
    /// Rows given up after too many of them.
    pub given_up: u64,
    /// Times that a row found its queue full, or RabbitMQ out of reach, and stayed without an attempt counted.
    pub held_back: u64,
    /// Rows whose mark came after their lane was taken over: not marked, and published again by the successor.
    pub fenced_out: u64,
    /// Old rows deleted, of the outbox and of the inbox.
    pub cleaned: u64,
    /// Messages that the inbox knew already: acknowledged without running their handler.
    pub duplicates: u64,
    /// Times that the database did not do what it was asked for.
    pub database_errors: u64,
    /// Lanes that this relay holds now.
    pub lanes: u64,
    /// Relays that live, this one included.
    pub relays: u64,
    /// Rows in memory now: on their way, or not marked yet.
    pub in_memory: u64,
    /// Rows that wait in the database, counted every few seconds and up to 10,000.
    pub waiting: u64,
    /// Rows in the database that were given up, counted alike.
    pub dead: u64,
}
