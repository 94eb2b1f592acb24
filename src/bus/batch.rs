use serde::Serialize;

use super::{Bus, Publish, TransactionError, TransactionRefusal, transaction};
use crate::message::MessageId;
use crate::store::{NewRow, StoreConnection};

/// Messages that are written into a transaction together: by one statement for up to 500 of them, in place of one each.
///
/// Made by [`Bus::batch`], into whose store they go. The messages may be of different types, and each has options of its own.
///
/// ```no_run
/// # use postroom::{Bus, Command, Event};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct StockReserved { product: i64 }
/// # impl Event for StockReserved { const TOPIC: &'static str = "catalog.stock-reserved"; }
/// # #[derive(Serialize, Deserialize)] struct Charge { order: i64 }
/// # impl Command for Charge { const QUEUE: &'static str = "payment.charge"; type Reply = (); }
/// # #[cfg(feature = "sqlite")]
/// # async fn reserve(bus: &Bus, pool: &sqlx::SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
/// let mut batch = bus.batch();
/// for product in 1..=20 {
///     batch.add(bus.publish(StockReserved { product }).key(product))?;
/// }
/// batch.add(bus.send(Charge { order: 7 }))?;
/// let mut tx = pool.begin().await?;
/// sqlx::query("UPDATE products SET stock = stock - 1 WHERE id <= 20").execute(&mut *tx).await?;
/// batch.in_transaction(&mut tx).await?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "nothing is written until `in_transaction` is awaited"]
pub struct Batch<'a> {
    bus: &'a Bus,
    rows: Vec<NewRow>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(bus: &'a Bus) -> Self {
        Self {
            bus,
            rows: Vec::new(),
        }
    }

    /// Adds a message with its options, and answers its id. Its names, headers and the body's limit are checked,
    /// interceptors run, and its delay and its expiry begin to count when the batch is written. The timeout has no effect.
    ///
    /// # Errors
    /// Gives the message back with the reason; the batch stays as it was.
    pub fn add<M: Serialize + Send + Sync + 'static>(
        &mut self,
        publish: Publish<'_, M>,
    ) -> Result<MessageId, TransactionError<M>> {
        let (id, row) = publish.into_row(self.bus)?;
        self.rows.push(row);
        Ok(id)
    }

    /// How many messages it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has none: to write it then does nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes the messages into a transaction of the caller's, in the order in which they were added: as
    /// [`Publish::in_transaction`] does for one.
    ///
    /// # Errors
    /// The reason. Part of the messages may have been written then: roll the transaction back.
    ///
    /// # Cancel safety
    /// Dropped before its end, the rows may have been written or not: roll the transaction back.
    pub async fn in_transaction<C: StoreConnection>(
        self,
        connection: &mut C,
    ) -> Result<(), TransactionRefusal> {
        transaction::write_all(self.bus, &self.rows, connection).await
    }
}
