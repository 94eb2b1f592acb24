use std::any::Any;
use std::marker::PhantomData;

use crate::ports::LocalBoxFuture;
use crate::store::{
    DatabaseError, DatabaseProblem, HandlingLimits, NewRow, StoreLink, Turn, TxStore,
};

/// A connection whose type its transactor knows. It never leaves its worker's thread.
pub(super) type Connection = Box<dyn Any>;

/// A transaction that was begun; or one that was not, for a message that was handled before.
pub(super) struct Begun {
    pub(super) connection: Connection,
    pub(super) turn: Turn,
    pub(super) is_new: bool,
}

/// Who handles which message.
#[derive(Clone, Copy)]
pub(super) struct Handling<'a> {
    pub(super) link: &'a StoreLink,
    pub(super) consumer: &'a str,
    pub(super) message_id: &'a str,
}

/// A kind of store, seen by a worker that does not know its type.
#[derive(Clone, Copy)]
#[doc(hidden)]
pub struct Transactor(pub(super) &'static dyn Transact);

pub(super) trait Transact: Sync {
    /// Whether the bus's store is one of this kind.
    fn is_of(&self, link: &StoreLink) -> bool;

    /// Begins on the connection that was kept, or on a new one, when it is its turn.
    fn begin<'a>(
        &'a self,
        handling: Handling<'a>,
        kept: Option<Connection>,
        limits: HandlingLimits,
    ) -> LocalBoxFuture<'a, Result<Begun, DatabaseError>>;

    /// Writes what the handler sends, and commits. The connection comes back where it is of use.
    fn commit<'a>(
        &'a self,
        handling: Handling<'a>,
        connection: Connection,
        rows: Vec<NewRow>,
    ) -> LocalBoxFuture<'a, (Option<Connection>, Result<(), DatabaseError>)>;

    /// The connection comes back where it is of use.
    fn roll_back<'a>(
        &'a self,
        link: &'a StoreLink,
        connection: Connection,
    ) -> LocalBoxFuture<'a, Option<Connection>>;
}

/// By the type of the store.
pub(super) struct Over<S>(PhantomData<fn(S)>);

impl Transactor {
    pub(super) const fn over<S: TxStore>() -> Self {
        Self(&Over::<S>(PhantomData))
    }

    /// Whether the bus's store is one of this kind.
    pub(crate) fn is_of(&self, link: &StoreLink) -> bool {
        self.0.is_of(link)
    }
}

impl<S: TxStore> Over<S> {
    fn store(link: &StoreLink) -> Result<&S, DatabaseError> {
        link.store_as().ok_or_else(|| {
            // Refused when the subscription was started.
            DatabaseError::new(
                DatabaseProblem::Configuration,
                "handle a message",
                "the store is of another kind",
            )
        })
    }
}

impl<S: TxStore> Transact for Over<S> {
    fn is_of(&self, link: &StoreLink) -> bool {
        link.store_as::<S>().is_some()
    }

    fn begin<'a>(
        &'a self,
        handling: Handling<'a>,
        kept: Option<Connection>,
        limits: HandlingLimits,
    ) -> LocalBoxFuture<'a, Result<Begun, DatabaseError>> {
        Box::pin(async move {
            let store = Self::store(handling.link)?;
            let Handling {
                consumer,
                message_id,
                ..
            } = handling;
            let begun = |connection, turn, is_new| Begun {
                connection,
                turn,
                is_new,
            };
            let kept = kept.and_then(|kept| kept.downcast::<S::Connection>().ok());
            let turn = store.turn(limits.one_wait()).await;
            if let Some(mut connection) = kept {
                match store
                    .begin_handling(&mut connection, consumer, message_id)
                    .await
                {
                    Ok(is_new) => return Ok(begun(connection, turn, is_new)),
                    Err(error) if error.keeps_connection() => return Err(error),
                    // It may have been lost while it lay here, and a new one be well.
                    Err(_) => {}
                }
            }
            let mut connection = Box::new(store.connect_for_handling(limits).await?);
            let is_new = store
                .begin_handling(&mut connection, consumer, message_id)
                .await?;
            Ok(begun(connection, turn, is_new))
        })
    }

    fn commit<'a>(
        &'a self,
        handling: Handling<'a>,
        connection: Connection,
        rows: Vec<NewRow>,
    ) -> LocalBoxFuture<'a, (Option<Connection>, Result<(), DatabaseError>)> {
        Box::pin(async move {
            let Handling {
                link,
                consumer,
                message_id,
            } = handling;
            let store = match Self::store(link) {
                Ok(store) => store,
                Err(error) => return (None, Err(error)),
            };
            let Ok(mut connection) = connection.downcast::<S::Connection>() else {
                return (None, Err(taken_away()));
            };
            let committing = store.commit_handling(&mut connection, consumer, message_id, &rows);
            let committed = committing.await;
            let is_of_use = match &committed {
                Ok(()) => true,
                Err(error) => error.keeps_connection(),
            };
            (is_of_use.then_some(connection as Connection), committed)
        })
    }

    fn roll_back<'a>(
        &'a self,
        link: &'a StoreLink,
        connection: Connection,
    ) -> LocalBoxFuture<'a, Option<Connection>> {
        Box::pin(async move {
            let store = Self::store(link).ok()?;
            let mut connection = connection.downcast::<S::Connection>().ok()?;
            // A connection that is dropped is rolled back too.
            store.roll_back_handling(&mut connection).await.ok()?;
            Some(connection as Connection)
        })
    }
}

/// The connection of an attempt is gone, and with it the transaction.
pub(super) fn taken_away() -> DatabaseError {
    DatabaseError::new(
        DatabaseProblem::Other,
        "commit what a handler did",
        "the transaction was given up before its handler ended",
    )
}
