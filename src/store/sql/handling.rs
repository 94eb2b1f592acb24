//! Transactions in which messages are handled.
//!
//! Each message costs two round trips: one begins and records it, one checks and commits. That is why both are several
//! statements in one text, and why sqlx's own `begin` is not used: it takes one for itself. How deeply transactions are
//! nested, sqlx counts in the connection and does not ask the database: the count is raised once, by `pin`, and so a
//! handler's own `begin` makes a savepoint, as it must.

use std::time::Duration;

use super::driver::Driver;
use super::rows;
use super::session::bounded;
use super::statements::Statements;
use crate::store::{DatabaseError, DatabaseProblem, NewRow};

const BEGIN: &str = "begin to handle a message";
const WRITE: &str = "write what a handler sends";
const COMMIT: &str = "commit what a handler did";
const ROLL_BACK: &str = "roll back what a handler did";

/// A connection that counts its nested transactions.
pub(super) trait Nesting: Driver {
    /// Makes that sqlx takes the connection for one in a transaction, as it is now.
    fn begin_for_good(&mut self) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

macro_rules! impl_nesting {
    ($connection:ty) => {
        impl crate::store::sql::handling::Nesting for $connection {
            async fn begin_for_good(&mut self) -> Result<(), sqlx::Error> {
                let transaction = sqlx::Connection::begin(self).await?;
                // It holds nothing but a reference to the connection.
                std::mem::forget(transaction);
                Ok(())
            }
        }
    };
}
pub(super) use impl_nesting;

/// Statements that are sent as one text, which takes no parameters; with a message's record in them, or not.
pub(super) struct Template {
    before: String,
    /// What stands behind the record.
    after: Option<String>,
}

impl Template {
    /// `$` stands for the consumer and the message's id, with a comma between them.
    pub(super) fn new(text: &str) -> Self {
        match text.split_once('$') {
            Some((before, after)) => Self {
                before: before.to_owned(),
                after: Some(after.to_owned()),
            },
            None => Self {
                before: text.to_owned(),
                after: None,
            },
        }
    }

    fn fill(&self, quote: fn(&str) -> String, message: [&str; 2], last: &str) -> String {
        match &self.after {
            Some(after) => {
                let [consumer, id] = message.map(quote);
                format!("{}{consumer}, {id}{after}{last}", self.before)
            }
            None => format!("{}{last}", self.before),
        }
    }
}

/// Makes that sqlx takes the connection for one in a transaction, while it is in none.
pub(super) async fn pin<D: Nesting>(
    connection: &mut D,
    patience: Duration,
) -> Result<(), DatabaseError> {
    bounded::<_, D>(BEGIN, patience, connection.begin_for_good()).await?;
    bounded::<_, D>(BEGIN, patience, connection.run("ROLLBACK".to_owned())).await
}

pub(super) async fn begin<D: Nesting>(
    connection: &mut D,
    statements: &Statements,
    patience: Duration,
    message: [&str; 2],
) -> Result<bool, DatabaseError> {
    let sql = statements
        .begin_handling
        .fill(statements.dialect.quote, message, "");
    let rows = bounded::<_, D>(BEGIN, patience, connection.count_rows(sql)).await?;
    if rows > 0 {
        return Ok(true);
    }
    bounded::<_, D>(BEGIN, patience, connection.run("ROLLBACK".to_owned())).await?;
    Ok(false)
}

/// What the database says where the transaction is another than it was, or given up.
const LOST: [&str; 3] = ["(22012)", "(25P02)", "no such savepoint"];

pub(super) async fn commit<D: Nesting>(
    connection: &mut D,
    statements: &Statements,
    patience: Duration,
    message: [&str; 2],
    messages: &[NewRow],
) -> Result<(), DatabaseError> {
    let last = if messages.is_empty() { "; COMMIT" } else { "" };
    let quote = statements.dialect.quote;
    let sql = statements.check_handling.fill(quote, message, last);
    let checked = bounded::<_, D>(COMMIT, patience, connection.run(sql)).await;
    checked.map_err(|error| {
        let text = error.to_string();
        if !LOST.iter().any(|sign| text.contains(sign)) {
            return error;
        }
        let text = format!("the handler has ended it, or ignored an error in it: {text}");
        DatabaseError::new(DatabaseProblem::Other, COMMIT, text)
    })?;
    if messages.is_empty() {
        return Ok(());
    }
    let written = rows::insert(connection, statements, messages);
    bounded::<_, D>(WRITE, patience, written).await?;
    bounded::<_, D>(COMMIT, patience, connection.run("COMMIT".to_owned())).await
}

pub(super) async fn roll_back<D: Nesting>(
    connection: &mut D,
    patience: Duration,
) -> Result<(), DatabaseError> {
    bounded::<_, D>(ROLL_BACK, patience, connection.run("ROLLBACK".to_owned())).await
}

macro_rules! impl_tx_store {
    ($store:ty, $connection:ty, { $($rest:item)* }) => {
        impl crate::store::TxStore for $store {
            type Connection = $connection;

            async fn connect_for_handling(
                &self,
                limits: crate::store::HandlingLimits,
            ) -> Result<$connection, DatabaseError> {
                let mut connection = self.open_for_handling(limits).await?;
                crate::store::sql::handling::pin(&mut connection, self.statement_timeout).await?;
                Ok(connection)
            }

            async fn begin_handling<'a>(
                &'a self,
                connection: &'a mut $connection,
                consumer: &'a str,
                message_id: &'a str,
            ) -> Result<bool, DatabaseError> {
                let (all, patience) = (&*self.statements, self.statement_timeout);
                let message = [consumer, message_id];
                crate::store::sql::handling::begin(connection, all, patience, message).await
            }

            async fn commit_handling<'a>(
                &'a self,
                connection: &'a mut $connection,
                consumer: &'a str,
                message_id: &'a str,
                rows: &'a [crate::store::NewRow],
            ) -> Result<(), DatabaseError> {
                let (all, patience) = (&*self.statements, self.statement_timeout);
                let message = [consumer, message_id];
                crate::store::sql::handling::commit(connection, all, patience, message, rows).await
            }

            async fn roll_back_handling<'a>(
                &'a self,
                connection: &'a mut $connection,
            ) -> Result<(), DatabaseError> {
                crate::store::sql::handling::roll_back(connection, self.statement_timeout).await
            }

            $($rest)*
        }
    };
}
pub(super) use impl_tx_store;
