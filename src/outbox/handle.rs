use std::sync::Arc;

use sqlx::Transaction;

use super::shared::Shared;
use crate::ports::crash_point;
use crate::store::{DatabaseError, DeadRow, Ring};

/// The outbox of a bus: what was written by
/// [`Publish::in_transaction`](crate::Publish::in_transaction), and the relay that publishes it.
///
/// Had from [`Bus::outbox`](crate::Bus::outbox); cheap to clone.
#[derive(Clone)]
pub struct Outbox(pub(crate) Arc<Shared>);

impl Outbox {
    /// Lets the relay begin. **Call it when all subscribers of this process have started**: what a former process left
    /// behind is published at once, and an event that comes before its subscriber is published to nobody.
    ///
    /// Until then rows are written and stay, and the bus is unready
    /// ([`Problem::RelayNotStarted`](crate::Problem::RelayNotStarted)). Calling it again does nothing. Where nothing is
    /// subscribed to in memory, [`Relay::start_with_bus`](crate::Relay::start_with_bus) saves the call.
    pub fn start_relay(&self) {
        self.0.started.send_replace(true);
    }

    /// Commits a transaction and wakes the relay at once.
    ///
    /// A transaction that is committed by itself is found too, some milliseconds later: a row written arms the relay,
    /// which then looks again and again at growing intervals up to its slow poll.
    ///
    /// # Errors
    /// The database's. Whether the transaction was committed is then not known; if it was, the rows are published.
    ///
    /// # Cancel safety
    /// Dropped before its end, the transaction may have been committed or not.
    pub async fn commit<DB: sqlx::Database>(
        &self,
        transaction: Transaction<'_, DB>,
    ) -> Result<(), sqlx::Error> {
        crash_point("before-commit");
        let committed = transaction.commit().await;
        crash_point("after-commit");
        self.wake();
        committed
    }

    /// Wakes the relay: for who commits by other means.
    pub fn wake(&self) {
        self.0.tree.link.bell.ring(Ring::Committed);
    }

    /// Rows that could not be published and were given up, oldest first, at most so many. Messages that their handlers
    /// could not handle are elsewhere: [`Bus::dead_letters`](crate::Bus::dead_letters). Watch both.
    ///
    /// # Errors
    /// The database's.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn dead(&self, most: u32) -> Result<Vec<DeadRow>, DatabaseError> {
        let work =
            async move |session: &mut dyn crate::store::StoreSession| session.dead(most).await;
        self.0.tree.with_session(work).await
    }

    /// Lets a row that was given up be tried again, with its attempts counted anew and the same id. False: there is
    /// none of this id. Safe to repeat.
    ///
    /// # Errors
    /// The database's.
    ///
    /// # Cancel safety
    /// Dropped before its end, it may have been replayed or not; it can be asked again.
    pub async fn replay(&self, id: &str) -> Result<bool, DatabaseError> {
        let id = id.to_owned();
        let work =
            async move |session: &mut dyn crate::store::StoreSession| session.replay(&id).await;
        let was_there = self.0.tree.with_session(work).await?;
        self.wake();
        Ok(was_there)
    }

    /// Deletes a row that was given up. False: there is none of this id.
    ///
    /// # Errors
    /// The database's.
    ///
    /// # Cancel safety
    /// Dropped before its end, it may have been deleted or not; it can be asked again.
    pub async fn discard(&self, id: &str) -> Result<bool, DatabaseError> {
        let id = id.to_owned();
        let work =
            async move |session: &mut dyn crate::store::StoreSession| session.discard(&id).await;
        self.0.tree.with_session(work).await
    }
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("name", &self.0.tree.name)
            .finish_non_exhaustive()
    }
}
