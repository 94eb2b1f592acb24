use std::sync::Arc;
use std::time::Duration;

use crate::message::{AddressKind, Name, NameError, Pattern, SharedParcel};
use crate::ports::{
    BoxFuture, BridgeSnapshot, Bridged, DeadLetter, DeadLetterStore, HealthSource, Refusal,
};
use crate::queue::{Foundation, QueueCore};

/// How messages cross the process, as the broker and the bus see it.
pub(crate) trait Bridge: HealthSource {
    /// Whether messages to an address leave the process by configuration. Those that a bridged queue of this
    /// process wants leave it too.
    fn exports(&self, kind: AddressKind, address: &str) -> bool;

    /// Hands a message to the other side, and resolves when that has confirmed it. Waits up to `patience`.
    ///
    /// Dropped before the message was written, nothing was published; after it, its outcome is unknown.
    fn publish(
        &self,
        parcel: SharedParcel,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Bridged, Refusal>>;

    /// Where a subscription's queue has its home: all of what it wants is imported, or none of it.
    fn home(&self, patterns: &[Pattern], commands: &[Name]) -> Home;

    /// What the queue of a group that is imported stands on.
    ///
    /// # Errors
    /// When the group cannot be the name of one.
    fn foundation(&self, group: &str) -> Result<Arc<Foundation>, NameError>;

    /// Begins to consume for a queue made on [`foundation`](Self::foundation), if it does not already.
    fn attach(&self, queue: &Arc<QueueCore>) -> BoxFuture<'static, ()>;

    /// Waits until an attached queue is declared and bound, so that what is published from then on finds it: not while
    /// RabbitMQ cannot be reached, and no longer than a connection may take.
    fn declared(&self, queue: &Arc<QueueCore>) -> BoxFuture<'static, ()>;

    /// Stops to consume: what was not started goes back. What is in hand can still be settled.
    fn detach(&self, queue: &Arc<QueueCore>) -> BoxFuture<'static, ()>;

    /// Writes what is settled of a detached queue, and forgets it.
    fn remove(&self, queue: &Arc<QueueCore>) -> BoxFuture<'static, ()>;

    /// Stops to consume for all queues, as [`detach`](Self::detach).
    fn detach_all(&self) -> BoxFuture<'static, ()>;

    /// Where the dead letters of a group are kept, whether it is subscribed here or not; or those of all groups
    /// that are known here.
    fn dead_letters(&self, group: Option<&str>) -> Vec<Arc<dyn DeadLetterStore>>;

    /// Hands a dead letter's message back to the queue that gave it up, and resolves when that has confirmed it.
    fn hand_back(
        &self,
        letter: &DeadLetter,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), Refusal>>;

    fn snapshot(&self) -> BridgeSnapshot;

    /// Waits until everything settled and published so far is written and confirmed, and closes the
    /// connections; no longer than `deadline` in all. Whatever is left is left to the broker to hand out again.
    fn close(&self, deadline: Duration) -> BoxFuture<'static, ()>;
}

/// Where a queue is kept.
#[cfg_attr(
    not(feature = "amqp"),
    expect(dead_code, reason = "without a bridge everything is local")
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    Local,
    Bridged,
    /// `imported` is, `local` is not: no message could come by one way alone.
    Mixed {
        imported: String,
        local: String,
    },
}
