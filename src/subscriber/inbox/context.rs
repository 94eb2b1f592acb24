use std::ops::{Deref, DerefMut};

use crate::store::TxStore;
use crate::subscriber::Context;

/// The delivery in hand, and the transaction in which it is handled.
///
/// It is a [`Context`] in all else: what it [publishes](Context::publish) and [sends](Context::send) is written into
/// the same transaction, as rows of the [outbox](crate::Outbox), and so is sent if and only if that commits. A command
/// to a queue that does not exist is seen by the relay, and not here.
///
/// [`Context::request`] is outside of the transaction, as it is outside of rule 9. On SQLite, which has one writer at a
/// time, do not ask another transactional handler from here: it would wait for this one's end until a timeout.
pub struct TxContext<'a, S: TxStore> {
    pub(super) context: Context<'a>,
    pub(super) connection: Box<S::Connection>,
}

impl<S: TxStore> TxContext<'_, S> {
    /// The connection, in the transaction: pass it to `sqlx`, or to what writes by it.
    ///
    /// Do not end the transaction: it is committed after the handler's `Ok`, and rolled back otherwise. One that was
    /// ended by hand, or that PostgreSQL has given up for an error that the handler ignored, fails the attempt; where
    /// it was *committed* by hand, the message counts as handled, and what it was to send is lost.
    /// `begin` (by `sqlx::Connection` or `Acquire`) makes a transaction nested in this one, and is fine.
    #[inline]
    pub fn tx(&mut self) -> &mut S::Connection {
        &mut self.connection
    }
}

impl<'a, S: TxStore> Deref for TxContext<'a, S> {
    type Target = Context<'a>;

    fn deref(&self) -> &Context<'a> {
        &self.context
    }
}

impl<S: TxStore> DerefMut for TxContext<'_, S> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.context
    }
}

impl<S: TxStore> std::fmt::Debug for TxContext<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TxContext")
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}
