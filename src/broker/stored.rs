use std::sync::Arc;
use std::time::Duration;

use crate::message::SharedParcel;
use crate::ports::{
    BoxFuture, DeadLetter, DeadLetterStore, DurableSnapshot, HealthSource, Refusal, ScheduleStore,
};
use crate::queue::{Foundation, QueueCore};

/// What is kept in the store, as the broker and the bus see it: queues, delayed messages, dead letters.
pub(crate) trait Stored: HealthSource {
    /// Waits up to `patience` until each of these queues has room, and answers with them, without those whose policy is to
    /// drop what is too much.
    fn room(
        &self,
        queues: &[Arc<QueueCore>],
        patience: Duration,
    ) -> BoxFuture<'static, Result<Vec<Arc<QueueCore>>, Refusal>>;

    /// Those of these queues that have room now, without those that drop; none: one of them has to be waited for, or refuses.
    fn room_now(&self, queues: &[Arc<QueueCore>]) -> Option<Vec<Arc<QueueCore>>>;

    /// Writes a message for several queues that have [`room`](Self::room), for all of them or none, and resolves when that is
    /// committed. Waits up to `patience`.
    ///
    /// Dropped before the message is being written, nothing is published; after that it may be or not.
    fn publish(
        &self,
        parcel: &SharedParcel,
        queues: &[Arc<QueueCore>],
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), Refusal>>;

    /// Writes a message that is to be published when `delay` has passed, and resolves when that is committed. Waits up to
    /// `patience`. Dropped, as for [`publish`](Self::publish).
    fn delay(
        &self,
        parcel: &SharedParcel,
        delay: Duration,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), Refusal>>;

    /// Where delayed messages wait.
    fn schedules(&self) -> Arc<dyn ScheduleStore>;

    /// What the queue of a group stands on.
    fn foundation(&self, group: &str) -> Arc<Foundation>;

    /// What a queue in memory stands on, whose dead letters are kept in the store.
    fn memory_foundation(&self) -> Arc<Foundation>;

    /// Begins to consume for a queue made on [`foundation`](Self::foundation).
    fn attach(&self, queue: &Arc<QueueCore>) -> BoxFuture<'static, ()>;

    /// Hands out nothing more: what was not started goes back. What is in hand can still be settled.
    fn detach(&self, queue: &Arc<QueueCore>);

    /// Writes what is settled of a detached queue, gives it up for other processes, and forgets it.
    fn remove(&self, queue: &Arc<QueueCore>) -> BoxFuture<'static, ()>;

    /// Hands out nothing more of any queue, as [`detach`](Self::detach).
    fn detach_all(&self);

    /// Where the dead letters of all of them are kept.
    fn dead_letters(&self) -> Arc<dyn DeadLetterStore>;

    /// Hands a dead letter's message back to its durable queue, whether that is subscribed here or not, and takes the
    /// letter away, as one.
    fn hand_back(
        &self,
        letter: &DeadLetter,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), Refusal>>;

    fn snapshot(&self) -> DurableSnapshot;

    /// Writes everything that is settled, gives all queues up and ends, no later than `deadline`.
    fn close(&self, deadline: Duration) -> BoxFuture<'static, ()>;
}
