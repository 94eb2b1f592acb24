use std::future::Future;
use std::sync::Arc;

use crate::store::{DatabaseError, DatabaseProblem};

/// What a statement is given.
pub(super) enum Value {
    Number(Option<i64>),
    Text(Option<String>),
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(Some(number))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Some(text))
    }
}

/// The columns of a row, which are numbers and texts.
pub(super) trait Cells {
    fn number(&self, at: usize) -> Result<Option<i64>, sqlx::Error>;
    fn text(&self, at: usize) -> Result<Option<String>, sqlx::Error>;

    fn some_number(&self, at: usize) -> Result<i64, sqlx::Error> {
        self.number(at)?.ok_or(sqlx::Error::RowNotFound)
    }

    fn some_text(&self, at: usize) -> Result<String, sqlx::Error> {
        self.text(at)?.ok_or(sqlx::Error::RowNotFound)
    }
}

/// A connection that runs our statements.
pub(super) trait Driver: Send + Sized + 'static {
    type Row: Cells + Send;

    fn fetch(
        &mut self,
        sql: &Arc<str>,
        values: Vec<Value>,
    ) -> impl Future<Output = Result<Vec<Self::Row>, sqlx::Error>> + Send;

    /// How many rows it changed.
    fn execute(
        &mut self,
        sql: &Arc<str>,
        values: Vec<Value>,
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;

    /// Several statements, without values: how many rows they returned.
    fn count_rows(
        &mut self,
        sql: String,
    ) -> impl Future<Output = Result<usize, sqlx::Error>> + Send;

    /// Several statements, without values.
    fn run(&mut self, sql: String) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// A number that is another one after a commit of another connection; none: the database has none.
    fn data_version(&mut self) -> impl Future<Output = Result<Option<i64>, sqlx::Error>> + Send;

    /// What kind of trouble the database tells of.
    fn problem(error: &dyn sqlx::error::DatabaseError) -> DatabaseProblem;
}

macro_rules! impl_driver {
    ($connection:ty, $database:ty, $row:ty, $text:path, { $($rest:item)* }) => {
        impl crate::store::sql::driver::Cells for $row {
            fn number(&self, at: usize) -> Result<Option<i64>, sqlx::Error> {
                sqlx::Row::try_get(self, at)
            }

            fn text(&self, at: usize) -> Result<Option<String>, sqlx::Error> {
                $text(self, at)
            }
        }

        impl crate::store::sql::driver::Driver for $connection {
            type Row = $row;

            async fn fetch(
                &mut self,
                sql: &std::sync::Arc<str>,
                values: Vec<crate::store::sql::driver::Value>,
            ) -> Result<Vec<$row>, sqlx::Error> {
                let mut query =
                    sqlx::query::<$database>(sqlx::AssertSqlSafe(std::sync::Arc::clone(sql)));
                for value in values {
                    query = match value {
                        crate::store::sql::driver::Value::Number(number) => query.bind(number),
                        crate::store::sql::driver::Value::Text(text) => query.bind(text),
                    };
                }
                query.fetch_all(self).await
            }

            async fn execute(
                &mut self,
                sql: &std::sync::Arc<str>,
                values: Vec<crate::store::sql::driver::Value>,
            ) -> Result<u64, sqlx::Error> {
                let mut query =
                    sqlx::query::<$database>(sqlx::AssertSqlSafe(std::sync::Arc::clone(sql)));
                for value in values {
                    query = match value {
                        crate::store::sql::driver::Value::Number(number) => query.bind(number),
                        crate::store::sql::driver::Value::Text(text) => query.bind(text),
                    };
                }
                Ok(query.execute(self).await?.rows_affected())
            }

            async fn count_rows(&mut self, sql: String) -> Result<usize, sqlx::Error> {
                let script = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
                sqlx::Executor::fetch_all(self, script).await.map(|rows| rows.len())
            }

            async fn run(&mut self, sql: String) -> Result<(), sqlx::Error> {
                let script = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
                sqlx::Executor::execute(self, script).await.map(drop)
            }

            $($rest)*
        }
    };
}
pub(super) use impl_driver;

macro_rules! impl_store_connection {
    ($store:ty, $database:ty, $connection:ty) => {
        impl crate::store::StoreConnection for $connection {
            type Store = $store;

            fn is_in_transaction(&self) -> bool {
                sqlx::Connection::is_in_transaction(self)
            }

            async fn insert<'a>(
                &'a mut self,
                store: &'a $store,
                rows: &'a [crate::store::NewRow],
            ) -> Result<(), DatabaseError> {
                let written = crate::store::sql::rows::insert(self, &store.statements, rows);
                written.await.map_err(|error| {
                    crate::store::sql::driver::error::<$connection>("write a message", &error)
                })
            }

            async fn record_handled<'a>(
                &'a mut self,
                store: &'a $store,
                consumer: &'a str,
                message_id: &'a str,
            ) -> Result<bool, DatabaseError> {
                let values = vec![consumer.into(), message_id.into()];
                let written = crate::store::sql::driver::Driver::execute(
                    self,
                    &store.statements.record_handled,
                    values,
                );
                let written = written.await.map_err(|error| {
                    crate::store::sql::driver::error::<$connection>("write into the inbox", &error)
                });
                Ok(written? > 0)
            }
        }

        impl crate::store::StoreConnection for sqlx::Transaction<'_, $database> {
            type Store = $store;

            fn is_in_transaction(&self) -> bool {
                true
            }

            async fn insert<'a>(
                &'a mut self,
                store: &'a $store,
                rows: &'a [crate::store::NewRow],
            ) -> Result<(), DatabaseError> {
                <$connection as crate::store::StoreConnection>::insert(&mut **self, store, rows)
                    .await
            }

            async fn record_handled<'a>(
                &'a mut self,
                store: &'a $store,
                consumer: &'a str,
                message_id: &'a str,
            ) -> Result<bool, DatabaseError> {
                let connection = &mut **self;
                <$connection as crate::store::StoreConnection>::record_handled(
                    connection, store, consumer, message_id,
                )
                .await
            }
        }
    };
}
pub(super) use impl_store_connection;

/// What sqlx says, in our words: without values, and without how to connect.
pub(super) fn error<D: Driver>(during: &'static str, error: &sqlx::Error) -> DatabaseError {
    let (problem, text) = match error {
        sqlx::Error::Database(error) => {
            let code = error.code().map(|code| format!(" ({code})"));
            let text = format!("{}{}", error.message(), code.unwrap_or_default());
            (D::problem(&**error), text)
        }
        sqlx::Error::Io(error) => (DatabaseProblem::Unreachable, error.to_string()),
        sqlx::Error::Tls(error) => (DatabaseProblem::Unreachable, error.to_string()),
        sqlx::Error::Protocol(text) => (DatabaseProblem::Unreachable, text.clone()),
        sqlx::Error::WorkerCrashed => (
            DatabaseProblem::Unreachable,
            "the thread of its connection has ended".to_owned(),
        ),
        // Might tell how to connect.
        sqlx::Error::Configuration(_) => (
            DatabaseProblem::Configuration,
            "the connect options cannot be used".to_owned(),
        ),
        sqlx::Error::ColumnDecode { index, .. } => (
            DatabaseProblem::Schema,
            format!("the column {index} has another type"),
        ),
        sqlx::Error::RowNotFound => (DatabaseProblem::Schema, "a value is missing".to_owned()),
        _ => (DatabaseProblem::Other, "sqlx could not".to_owned()),
    };
    DatabaseError::new(problem, during, text)
}
