mod attempt;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use self::attempt::Refused;
use super::Bus;
use super::receipt::{PublishError, Receipt};
use crate::message::{Address, AddressKind, CorrelationId, Envelope, MessageId, Metadata, Name};
use crate::ports::{BoxFuture, Refusal};

/// A message about to be published: add options, then await it.
///
/// Made by [`Bus::publish`], [`Bus::send`] and [`Bus::publish_raw`]. The first poll accepts it if all queues are in
/// memory and have room. A full mailbox is waited for, and so is RabbitMQ's confirm of a message that leaves the process
/// and the commit of one for a durable queue or with a stored delay: together up to [`timeout`](Self::timeout).
///
/// ```
/// # use postroom::{Bus, Event, PublishError};
/// # use serde::{Deserialize, Serialize};
/// # use std::time::Duration;
/// # #[derive(Serialize, Deserialize)] struct OrderPaid { order: u64 }
/// # impl Event for OrderPaid { const TOPIC: &'static str = "ordering.order-paid"; }
/// # async fn publish(bus: &Bus) -> Result<(), PublishError<OrderPaid>> {
/// let receipt = bus
///     .publish(OrderPaid { order: 7 })
///     .key(7) // keyed subscribers handle the events of order 7 in order
///     .header("tenant", "north")
///     .expires_in(Duration::from_secs(60))
///     .await?;
/// println!("{} queues took it", receipt.local.accepted);
///
/// let later = bus.publish(OrderPaid { order: 8 }).delay(Duration::from_secs(3600)).await?;
/// if let Some(schedule) = later.schedule {
///     let taken_back = schedule.cancel().await;
/// #   let _ = taken_back;
/// }
/// # Ok(()) }
/// ```
///
/// # Errors
/// A [`PublishError`] gives the message back with the reason.
///
/// # Cancel safety
/// Dropped before it is accepted, nothing was published and no place is held. Once it is on its way to RabbitMQ, or its
/// commit has begun, the outcome is not known.
#[must_use = "nothing is published until it is awaited"]
pub struct Publish<'a, M> {
    bus: &'a Bus,
    address: &'static str,
    kind: AddressKind,
    message: Option<M>,
    /// Apart and in one piece, so that what moves with every message is small.
    rare: Option<Box<Rare<'a, M>>>,
}

/// What most messages do not have.
struct Rare<'a, M> {
    metadata: Option<Box<Metadata>>,
    /// The caller's own, of a message that may have been published before.
    id: Option<MessageId>,
    /// An address made at run time, instead of the constant one.
    address: Option<Arc<str>>,
    delay: Option<Duration>,
    timeout: Option<Duration>,
    /// Of a message that was refused for lack of room.
    envelope: Option<Envelope>,
    waiting: Option<Waiting<'a, M>>,
}

impl<M> Default for Rare<'_, M> {
    fn default() -> Self {
        Self {
            metadata: None,
            id: None,
            address: None,
            delay: None,
            timeout: None,
            envelope: None,
            waiting: None,
        }
    }
}

type Waiting<'a, M> = BoxFuture<'a, Result<Receipt, PublishError<M>>>;

/// No field is pinned: the message is moved only before it is shared.
impl<M> Unpin for Publish<'_, M> {}

impl<'a, M: Serialize + Send + Sync + 'static> Publish<'a, M> {
    #[inline]
    pub(super) fn new(bus: &'a Bus, kind: AddressKind, address: &'static str, message: M) -> Self {
        Self {
            bus,
            address,
            kind,
            message: Some(message),
            rare: None,
        }
    }

    /// With the key that the message has of itself, which most have not.
    #[inline]
    pub(super) fn keyed(mut self, key: Option<Arc<str>>) -> Self {
        if let Some(key) = key {
            self.metadata().key = Some(key);
        }
        self
    }

    /// To an address made at run time.
    pub(super) fn raw(bus: &'a Bus, kind: AddressKind, address: String, message: M) -> Self {
        let mut publish = Self::new(bus, kind, "", message);
        publish.rare().address = Some(address.into());
        publish
    }

    fn rare(&mut self) -> &mut Rare<'a, M> {
        self.rare.get_or_insert_default()
    }

    fn name(&self) -> Name {
        match self.rare.as_ref().and_then(|rare| rare.address.as_ref()) {
            Some(address) => Name::Shared(Arc::clone(address)),
            None => Name::Static(self.address),
        }
    }

    fn metadata(&mut self) -> &mut Metadata {
        self.rare().metadata.get_or_insert_default()
    }

    /// The message's identity, which is also the time that it has: make it by [`MessageId::new`], as the default is made.
    ///
    /// For a publish that is tried again where it [may have happened](Refusal::may_have_happened): under the same id it is
    /// the same message. A transactional handler takes it once, a durable queue and the schedule once while they have it.
    /// Any other handler may get it twice, and can tell by the id. Of transactions of yours each writes a row, and so
    /// publishes it. Two messages that differ must not share one.
    ///
    /// ```
    /// # use postroom::{Bus, Event, MessageId, PublishError};
    /// # use serde::{Deserialize, Serialize};
    /// # use std::time::Duration;
    /// # #[derive(Serialize, Deserialize)] struct OrderPaid { order: u64 }
    /// # impl Event for OrderPaid { const TOPIC: &'static str = "ordering.order-paid"; }
    /// # async fn publish(bus: &Bus) -> Result<(), PublishError<OrderPaid>> {
    /// let id = MessageId::new();
    /// let mut published = bus.publish(OrderPaid { order: 7 }).id(id).await;
    /// for _ in 0..3 {
    ///     match published {
    ///         Err(refused) if refused.kind().may_have_happened() => {
    ///             tokio::time::sleep(Duration::from_secs(1)).await;
    ///             published = bus.publish(OrderPaid { order: 7 }).id(id).await;
    ///         }
    ///         _ => break,
    ///     }
    /// }
    /// published?;
    /// # Ok(()) }
    /// ```
    pub fn id(mut self, id: MessageId) -> Self {
        self.rare().id = Some(id);
        self
    }

    /// The ordering key, for keyed subscribers. Default: the message's own, [`Event::key`](crate::Event::key) or
    /// [`Command::key`](crate::Command::key).
    pub fn key(mut self, key: impl ToString) -> Self {
        self.metadata().key = Some(key.to_string().into());
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.metadata().headers.push((name.into(), value.into()));
        self
    }

    /// The conversation that the message belongs to. Default: its own id.
    pub fn correlation(mut self, id: &str) -> Self {
        self.metadata().correlation = Some(CorrelationId::Other(id.into()));
        self
    }

    /// The W3C trace context.
    pub fn traceparent(mut self, traceparent: &str) -> Self {
        self.metadata().traceparent = Some(traceparent.into());
        self
    }

    /// Publishes it only after `delay`; the receipt then has a handle to take it back. Without a delay it is published
    /// now, and there is none.
    ///
    /// With a store it is written there, which takes a commit; see [`Schedule`](crate::Schedule).
    pub fn delay(mut self, delay: Duration) -> Self {
        self.rare().delay = Some(delay).filter(|delay| !delay.is_zero());
        self
    }

    /// Publishes it only at `time`, by the bus's clock; at once if that is past.
    pub fn at(self, time: SystemTime) -> Self {
        let now = SystemTime::UNIX_EPOCH
            + Duration::from_millis(self.bus.0.broker.services.clock.wall_ms());
        self.delay(time.duration_since(now).unwrap_or_default())
    }

    /// It is not handed to a handler later than this after now.
    pub fn expires_in(mut self, time: Duration) -> Self {
        let now = self.bus.0.broker.services.clock.wall_ms();
        self.metadata().expire_in(now, time);
        self
    }

    /// The longest wait for full mailboxes, the confirm of RabbitMQ and the commit of the store, together. Default: the
    /// bus's publish timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.rare().timeout = Some(timeout);
        self
    }

    /// Writes the message into a transaction of the caller's, in place of publishing it: it is published after that
    /// has committed, and never if it was rolled back. Names, headers and the body's limit are checked and interceptors
    /// run now; the timeout has no effect.
    ///
    /// The transaction is a `sqlx` one on the database of the bus's store, or a connection that is in one, begun by `sqlx` and
    /// not by a statement of your own. Commit it by
    /// [`Outbox::commit`](crate::Outbox::commit), or by itself. Of one key the rows are published in the order of
    /// writing, where their transactions do not overlap.
    ///
    /// ```no_run
    /// # use postroom::{Bus, Event};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct OrderPlaced { order: i64 }
    /// # impl Event for OrderPlaced { const TOPIC: &'static str = "ordering.order-placed"; }
    /// # #[cfg(feature = "sqlite")]
    /// # async fn place(bus: &Bus, pool: &sqlx::SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut tx = pool.begin().await?;
    /// sqlx::query("INSERT INTO orders (id) VALUES (7)").execute(&mut *tx).await?;
    /// bus.publish(OrderPlaced { order: 7 }).key(7).in_transaction(&mut tx).await?;
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Gives the message back with the reason.
    ///
    /// # Cancel safety
    /// Dropped before its end, the row may have been written or not: roll the transaction back.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub async fn in_transaction<C: crate::store::StoreConnection>(
        mut self,
        connection: &mut C,
    ) -> Result<super::Recorded, super::TransactionError<M>> {
        let delay = self.rare.as_ref().and_then(|rare| rare.delay);
        let (bus, envelope, message) = (self.bus, self.envelope(), self.into_message());
        match super::transaction::write(bus, envelope, &message, delay, connection).await {
            Ok(recorded) => Ok(recorded),
            Err(kind) => Err(super::TransactionError::new(kind, message)),
        }
    }

    /// Its row in the outbox of `bus`, and its id.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) fn into_row(
        mut self,
        bus: &Bus,
    ) -> Result<(crate::message::MessageId, crate::store::NewRow), super::TransactionError<M>> {
        use super::transaction;
        let delay = self.rare.as_ref().and_then(|rare| rare.delay);
        let (envelope, message) = (self.envelope(), self.into_message());
        let id = envelope.id;
        let row = transaction::link(bus).and_then(|_| {
            let row = transaction::row(bus, envelope, &message, delay);
            row.map_err(Into::into)
        });
        match row {
            Ok(row) => Ok((id, row)),
            Err(kind) => Err(super::TransactionError::new(kind, message)),
        }
    }

    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    fn into_message(self) -> M {
        match self.message {
            Some(message) => message,
            None => unreachable!("a publish is used once"),
        }
    }

    pub(super) fn reply_to(mut self, port: Arc<dyn crate::message::ReplyPort>) -> Self {
        self.metadata().reply = Some(port);
        self
    }

    /// Publishes now or not at all.
    ///
    /// # Errors
    /// Gives the message back with the reason.
    pub fn try_now(mut self) -> Result<Receipt, PublishError<M>> {
        if let Some(receipt) = self.attempt_plain() {
            return Ok(receipt);
        }
        match self.attempt() {
            Ok(receipt) => Ok(receipt),
            Err(Refused::Final(refusal)) => Err(self.refused(refusal)),
            Err(Refused::Wait(queue)) => {
                queue.count_refused();
                let queue = queue.name.to_string();
                Err(self.refused(Refusal::Full { queue }))
            }
            Err(Refused::Export) => {
                let address = self.name().as_str().to_owned();
                Err(self.refused(Refusal::MustWait { address }))
            }
        }
    }

    fn refused(&mut self, why: Refusal) -> PublishError<M> {
        PublishError::new(why, self.message.take())
    }

    /// Made once: what waits for room has the id that interceptors saw.
    fn envelope(&mut self) -> Envelope {
        let rare = self.rare.as_mut();
        let (known, id, metadata) = rare.map_or((None, None, None), |rare| {
            (rare.envelope.take(), rare.id, rare.metadata.take())
        });
        known.unwrap_or_else(|| Envelope {
            id: id.unwrap_or_else(|| self.bus.0.broker.services.clock.new_id()),
            address: Address {
                kind: self.kind,
                name: self.name(),
            },
            metadata,
        })
    }
}

impl<M: Serialize + Send + Sync + 'static> std::fmt::Debug for Publish<'_, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publish")
            .field("kind", &self.kind)
            .field("address", &self.name().as_str())
            .finish_non_exhaustive()
    }
}
