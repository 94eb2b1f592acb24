use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use super::Bus;
use crate::broker::Gate;
use crate::message::{Envelope, MessageId};
use crate::ports::{Refusal, crash_point};
use crate::store::{DatabaseError, NewRow, Ring, StoreConnection, StoreLink, row_of};

/// A message that was written into a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recorded {
    /// The message's id.
    pub id: MessageId,
}

/// Why a message was not written into a transaction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionRefusal {
    /// It cannot be sent at all.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The bus was built without a store.
    #[error("the bus has no store: build it with `Builder::store`")]
    NoStore,
    /// The transaction is one of another database than the bus's store.
    #[error("the bus's store is {store}, and the transaction is not one of it")]
    OtherDatabase {
        /// The database of the store.
        store: &'static str,
    },
    /// The connection is in no transaction, as `sqlx` knows it: the message would be sent whatever becomes of the rest. Begin
    /// it by `begin`, or by `begin_with` in place of a statement of your own.
    #[error("the connection is in no transaction: begin it by sqlx's `begin` or `begin_with`")]
    NoTransaction,
    /// The database did not take the row. Roll the transaction back.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// A message that was not written into a transaction, given back with the reason.
pub struct TransactionError<M>(Box<(TransactionRefusal, M)>);

impl<M> TransactionError<M> {
    pub(super) fn new(why: TransactionRefusal, message: M) -> Self {
        Self(Box::new((why, message)))
    }

    /// Why.
    #[must_use]
    pub fn kind(&self) -> &TransactionRefusal {
        &self.0.0
    }

    /// The message.
    #[must_use]
    pub fn into_message(self) -> M {
        self.0.1
    }
}

impl<M> std::fmt::Debug for TransactionError<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TransactionError")
            .field(self.kind())
            .finish()
    }
}

impl<M> std::fmt::Display for TransactionError<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.kind().fmt(f)
    }
}

impl<M> std::error::Error for TransactionError<M> {}

/// What is told of rows in transactions, if the bus takes any.
pub(super) fn link(bus: &Bus) -> Result<&Arc<StoreLink>, TransactionRefusal> {
    let broker = &bus.0.broker;
    if !broker.admits(Gate::Draining) {
        return Err(Refusal::Closed.into());
    }
    let link = broker.services.store.as_ref();
    link.ok_or(TransactionRefusal::NoStore)
}

/// The store that the connection is one of, which is to be in a transaction.
fn store<'a, C: StoreConnection>(
    link: &'a StoreLink,
    connection: &C,
) -> Result<&'a C::Store, TransactionRefusal> {
    let store = link.store_as::<C::Store>();
    let store = store.ok_or_else(|| TransactionRefusal::OtherDatabase {
        store: link.store.database(),
    })?;
    match connection.is_in_transaction() {
        true => Ok(store),
        false => Err(TransactionRefusal::NoTransaction),
    }
}

/// Checks a message as a publish does, and makes its row.
pub(super) fn row<M: Serialize>(
    bus: &Bus,
    mut envelope: Envelope,
    message: &M,
    delay: Option<Duration>,
) -> Result<NewRow, Refusal> {
    let broker = &bus.0.broker;
    broker.check(&envelope)?;
    broker.intercept(&mut envelope)?;
    let body = serde_json::to_string(message);
    let body = body.map_err(|error| Refusal::Codec(error.to_string()))?;
    if let Some(limit) = broker.limits.body_limit.filter(|limit| body.len() > *limit) {
        let size = body.len();
        return Err(Refusal::TooLarge { size, limit });
    }
    let now_ms = broker.services.clock.wall_ms();
    Ok(row_of(&envelope, body, delay, now_ms))
}

/// Writes one message.
pub(super) async fn write<M: Serialize, C: StoreConnection>(
    bus: &Bus,
    envelope: Envelope,
    message: &M,
    delay: Option<Duration>,
    connection: &mut C,
) -> Result<Recorded, TransactionRefusal> {
    let link = link(bus)?;
    let store = store(link, connection)?;
    let id = envelope.id;
    let row = row(bus, envelope, message, delay)?;
    write_rows(link, store, &[row], connection).await?;
    Ok(Recorded { id })
}

/// Writes many.
pub(super) async fn write_all<C: StoreConnection>(
    bus: &Bus,
    rows: &[NewRow],
    connection: &mut C,
) -> Result<(), TransactionRefusal> {
    let link = link(bus)?;
    let store = store(link, connection)?;
    Ok(write_rows(link, store, rows, connection).await?)
}

async fn write_rows<C: StoreConnection>(
    link: &StoreLink,
    store: &C::Store,
    rows: &[NewRow],
    connection: &mut C,
) -> Result<(), DatabaseError> {
    crash_point("before-insert");
    connection.insert(store, rows).await?;
    crash_point("after-insert");
    let written = rows.len() as u64;
    link.counts.written.fetch_add(written, Ordering::Relaxed);
    link.bell.ring(Ring::Written);
    Ok(())
}
