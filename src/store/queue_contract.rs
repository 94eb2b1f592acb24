use std::time::Duration;

use super::{
    HeldQueue, LetterFilter, LetterRow, QueueWrite, QueueWritten, QueuedRow, StoreFuture,
    TakeQueued,
};

/// The part of a [`StoreSession`](super::StoreSession) that durable queues use; what is said there holds here too.
pub trait QueueSession: Send {
    /// Makes the queues known, gives those of `give_up` up, takes those that nobody consumes, or whose lease has run out,
    /// and renews what `holder` has for `lease` from now on. Returns all that it holds.
    ///
    /// A holder that nobody has followed keeps its queues by the same fence, also when it comes late.
    fn hold_queues<'a>(
        &'a mut self,
        holder: &'a str,
        lease: Duration,
        queues: &'a [String],
        give_up: &'a [String],
    ) -> StoreFuture<'a, Vec<HeldQueue>>;

    /// Gives up all queues that `holder` has.
    fn leave_queues<'a>(&'a mut self, holder: &'a str) -> StoreFuture<'a, ()>;

    /// Writes all of it in one transaction. What concerns rows that were taken is done only where `holder` still has
    /// their queue by the same fence. Safe to repeat, when it is not known whether it was done.
    fn write_queues<'a>(
        &'a mut self,
        holder: &'a str,
        write: &'a QueueWrite,
    ) -> StoreFuture<'a, QueueWritten>;

    /// Rows whose turn it is: ready ones by position, then those whose wait is over by its end.
    fn take_queued<'a>(&'a mut self, wanted: &'a TakeQueued) -> StoreFuture<'a, Vec<QueuedRow>>;

    /// How long until the next waiting row of a queue is due, but for those of `except`; none: none waits.
    fn next_queued<'a>(
        &'a mut self,
        queue: &'a str,
        except: &'a [i64],
    ) -> StoreFuture<'a, Option<Duration>>;

    /// How many rows a queue has, counted up to `most`.
    fn count_queued<'a>(&'a mut self, queue: &'a str, most: u64) -> StoreFuture<'a, u64>;

    /// Dead letters, oldest first.
    fn letters<'a>(&'a mut self, filter: &'a LetterFilter) -> StoreFuture<'a, Vec<LetterRow>>;

    /// How many dead letters there are, and the position of the newest.
    fn count_letters(&mut self) -> StoreFuture<'_, (u64, i64)>;

    /// Hands a dead letter's message back to its queue, with its attempts counted anew and behind what is queued, in one
    /// transaction. Returns the queue; none: there is no such letter, or it is one of a queue that was never durable, and
    /// nothing was done.
    fn replay_letter<'a>(&'a mut self, id: &'a str) -> StoreFuture<'a, Option<String>>;

    /// Deletes a dead letter. Whether it was there.
    fn discard_letter<'a>(&'a mut self, id: &'a str) -> StoreFuture<'a, bool>;

    /// Deletes the oldest dead letters beyond `keep`, at most `most` of them. Returns how many.
    fn trim_letters(&mut self, keep: u64, most: u32) -> StoreFuture<'_, u64>;
}
