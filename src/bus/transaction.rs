use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use super::Bus;
use crate::broker::Gate;
use crate::message::{Envelope, MessageId};
use crate::ports::{Refusal, crash_point};
use crate::store::{DatabaseError, Ring, StoreConnection, row_of};

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

/// Checks a message as a publish does, and writes it as a row.
pub(super) async fn write<M: Serialize, C: StoreConnection>(
    bus: &Bus,
    mut envelope: Envelope,
    message: &M,
    delay: Option<Duration>,
    connection: &mut C,
) -> Result<Recorded, TransactionRefusal> {
    let broker = &bus.0.broker;
    if !broker.admits(Gate::Draining) {
        return Err(Refusal::Closed.into());
    }
    let link = broker.services.store.as_ref();
    let link = link.ok_or(TransactionRefusal::NoStore)?;
    let store = link.store_as::<C::Store>();
    let store = store.ok_or_else(|| TransactionRefusal::OtherDatabase {
        store: link.store.database(),
    })?;
    broker.check(&envelope)?;
    broker.intercept(&mut envelope)?;
    let body = serde_json::to_string(message);
    let body = body.map_err(|error| Refusal::Codec(error.to_string()))?;
    if let Some(limit) = broker.limits.body_limit.filter(|limit| body.len() > *limit) {
        let size = body.len();
        return Err(Refusal::TooLarge { size, limit }.into());
    }
    let now_ms = broker.services.clock.wall_ms();
    let row = row_of(&envelope, body, delay, now_ms);
    crash_point("before-insert");
    connection.insert(store, &row).await?;
    crash_point("after-insert");
    link.counts.written.fetch_add(1, Ordering::Relaxed);
    link.bell.ring(Ring::Written);
    Ok(Recorded { id: envelope.id })
}
