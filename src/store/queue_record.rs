use std::sync::Arc;
use std::time::Duration;

use super::{NewRow, StoredRow};

/// A message for durable queues.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewQueued {
    /// The message; its lane and its delay do not matter here.
    pub row: NewRow,
    /// The queues that take it, each in a row of its own.
    pub queues: Vec<String>,
}

impl NewQueued {
    pub(crate) fn new(row: NewRow, queues: Vec<String>) -> Self {
        Self { row, queues }
    }
}

/// A row of a durable queue that its consumer has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenRow {
    /// Where it stands.
    pub position: i64,
    /// The fence of its queue when it was taken.
    pub fence: i64,
}

/// How the attempts on a message failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Attempts that have finished.
    pub attempts: u32,
    /// The last error and its sources.
    pub errors: Vec<String>,
    /// When the first attempt failed, in milliseconds since the beginning of 1970.
    pub first_failed_ms: u64,
    /// When the last one did.
    pub last_failed_ms: u64,
    /// Whether it has waited for a deploy that brings a handler for it.
    pub awaited_handler: bool,
}

/// A message that is handed over again.
#[derive(Clone, Debug)]
pub struct RetriedRow {
    /// Which one.
    pub row: TakenRow,
    /// How it failed so far.
    pub failures: Failures,
    /// How long it waits; none: it waits in its consumer's memory, and after a crash not at all.
    pub delay: Option<Duration>,
}

/// A message that is given up.
#[derive(Clone, Debug)]
pub struct BuriedRow {
    /// Which one.
    pub row: TakenRow,
    /// The dead letter's own id.
    pub letter: String,
    /// Why.
    pub reason: String,
    /// How it failed.
    pub failures: Failures,
}

/// A message that a queue in memory gives up: no row of a durable queue is behind it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewLetter {
    /// The dead letter's own id.
    pub letter: String,
    /// The queue that gives it up.
    pub queue: String,
    /// Why.
    pub reason: String,
    /// How it failed.
    pub failures: Failures,
    /// The message; its lane and its delay do not matter here.
    pub row: NewRow,
}

impl NewLetter {
    pub(crate) fn new(
        letter: String,
        queue: String,
        reason: String,
        failures: Failures,
        row: NewRow,
    ) -> Self {
        Self {
            letter,
            queue,
            reason,
            failures,
            row,
        }
    }
}

/// What a durable queue's process writes in one transaction.
#[derive(Clone, Debug, Default)]
pub struct QueueWrite {
    /// Messages to be written. One that a queue has already, by its id, is not written again.
    pub new: Vec<Arc<NewQueued>>,
    /// Messages for the outbox, each with a delay. One that waits there already, by its id, is not written again.
    pub delayed: Vec<Arc<NewRow>>,
    /// Messages that are done with.
    pub done: Vec<TakenRow>,
    /// Messages that are handed over again.
    pub retried: Vec<RetriedRow>,
    /// Messages that become dead letters.
    pub buried: Vec<BuriedRow>,
    /// Dead letters of queues in memory. One that is there already, by its own id, is not written again.
    pub letters: Vec<Arc<NewLetter>>,
}

/// What of a [`QueueWrite`] was done under its fence.
#[derive(Clone, Debug, Default)]
pub struct QueueWritten {
    /// How many rows are new.
    pub new: u64,
    /// How many were done with.
    pub done: u64,
    /// The positions of those retried.
    pub retried: Vec<i64>,
    /// The positions of those buried.
    pub buried: Vec<i64>,
}

/// Which rows a consumer wants.
#[derive(Clone, Debug, Default)]
pub struct TakeQueued {
    /// Of which queue.
    pub queue: String,
    /// The most of those that are ready, and the most of those whose wait is over.
    pub most: u32,
    /// Positions that it has already.
    pub except: Vec<i64>,
}

/// A row of a durable queue as its consumer reads it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QueuedRow {
    /// The message. Its lane does not matter.
    pub row: StoredRow,
    /// How it failed before, if it did.
    pub failures: Option<Failures>,
    /// Since when it is its turn: when it was written, or when its wait was over; in milliseconds since the beginning
    /// of 1970 by the database's clock.
    pub ready_ms: i64,
    /// Whether it had to wait.
    pub has_waited: bool,
}

impl QueuedRow {
    /// A row that was never tried.
    #[must_use]
    pub fn new(row: StoredRow, ready_ms: i64) -> Self {
        Self {
            row,
            failures: None,
            ready_ms,
            has_waited: false,
        }
    }
}

/// A durable queue that a process consumes, and the number of its taking over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldQueue {
    /// The queue.
    pub queue: String,
    /// Rises each time that another process takes it over.
    pub fence: i64,
}

/// Which dead letters are meant: all conditions hold, and none means all.
#[derive(Clone, Debug, Default)]
pub struct LetterFilter {
    /// The dead letter's own id.
    pub id: Option<String>,
    /// The queue that gave it up.
    pub queue: Option<String>,
    /// The topic or queue that the message was sent to.
    pub address: Option<String>,
    /// Why it was given up.
    pub reason: Option<String>,
    /// Only those behind this position.
    pub after: i64,
    /// The most of them.
    pub most: u32,
}

/// A dead letter as it is kept.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LetterRow {
    /// Where it stands.
    pub position: i64,
    /// The dead letter's own id.
    pub id: String,
    /// The queue that gave it up.
    pub queue: String,
    /// Why.
    pub reason: String,
    /// How it failed.
    pub failures: Failures,
    /// The message.
    pub message: StoredRow,
}

impl LetterRow {
    /// A dead letter with the parts that each has.
    #[must_use]
    pub fn new(
        position: i64,
        id: String,
        queue: String,
        reason: String,
        failures: Failures,
        message: StoredRow,
    ) -> Self {
        Self {
            position,
            id,
            queue,
            reason,
            failures,
            message,
        }
    }
}
