//! The database of a service: a SQLite file, or a schema in PostgreSQL. With `--services` each has its own; in one process
//! they share one. No service reads another's documents.
//!
//! What a service knows is kept as *documents*: JSON with a kind, an id and a state, in one table that can be read with
//! plain SQL. A handler changes them in its [transaction](postroom::TxContext::tx); that the message was handled and
//! what is sent are parts of the same.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use postroom::{Builder, Sqlite, TxStore};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::place::Place;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqliteSynchronous,
};

/// The reads and writes of a service, within a transaction of its own or without one.
pub trait Documents: Send {
    /// The body of a document. In a transaction nobody else changes it, or looks at it to do so, until that ends.
    fn read(
        &mut self,
        kind: &'static str,
        id: &str,
    ) -> impl Future<Output = Result<Option<String>, sqlx::Error>> + Send;

    fn write(
        &mut self,
        kind: &'static str,
        id: &str,
        state: &str,
        body: String,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// All ids and bodies of a kind; those in one state, if one is given.
    fn read_all(
        &mut self,
        kind: &'static str,
        state: Option<&str>,
    ) -> impl Future<Output = Result<Vec<(String, String)>, sqlx::Error>> + Send;

    /// How many documents of a kind are in each state.
    fn count(
        &mut self,
        kind: &'static str,
    ) -> impl Future<Output = Result<Vec<(String, i64)>, sqlx::Error>> + Send;

    /// How many rows of the outbox have still somewhere to go, and how many were given up.
    fn outbox(&mut self) -> impl Future<Output = Result<(i64, i64), sqlx::Error>> + Send;
}

/// A store in whose transactions the services handle messages.
pub trait Shelf: TxStore<Connection: Documents> {}

impl<S: TxStore<Connection: Documents>> Shelf for S {}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS documents (kind TEXT NOT NULL, id TEXT NOT NULL, state TEXT NOT NULL, \
     body TEXT NOT NULL, PRIMARY KEY (kind, id))";
const WRITE: &str = "INSERT INTO documents (kind, id, state, body) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (kind, id) DO UPDATE SET state = excluded.state, body = excluded.body";
const READ_ALL: &str =
    "SELECT id, body FROM documents WHERE kind = $1 AND state = coalesce($2, state)";
const COUNT: &str = "SELECT state, count(*) FROM documents WHERE kind = $1 GROUP BY state";
const OUTBOX: &str = "SELECT (SELECT count(*) FROM postroom_outbox WHERE status IN ('waiting', 'retrying', 'scheduled')), \
     (SELECT count(*) FROM postroom_outbox WHERE status = 'dead')";

macro_rules! impl_documents {
    ($connection:ty, $read:literal) => {
        impl Documents for $connection {
            async fn read(
                &mut self,
                kind: &'static str,
                id: &str,
            ) -> Result<Option<String>, sqlx::Error> {
                let read = sqlx::query_scalar($read).bind(kind).bind(id);
                read.fetch_optional(self).await
            }

            async fn write(
                &mut self,
                kind: &'static str,
                id: &str,
                state: &str,
                body: String,
            ) -> Result<(), sqlx::Error> {
                let write = sqlx::query(WRITE).bind(kind).bind(id);
                write.bind(state).bind(body).execute(self).await.map(drop)
            }

            async fn read_all(
                &mut self,
                kind: &'static str,
                state: Option<&str>,
            ) -> Result<Vec<(String, String)>, sqlx::Error> {
                let read = sqlx::query_as(READ_ALL).bind(kind).bind(state);
                read.fetch_all(self).await
            }

            async fn count(
                &mut self,
                kind: &'static str,
            ) -> Result<Vec<(String, i64)>, sqlx::Error> {
                sqlx::query_as(COUNT).bind(kind).fetch_all(self).await
            }

            async fn outbox(&mut self) -> Result<(i64, i64), sqlx::Error> {
                sqlx::query_as(OUTBOX).fetch_one(self).await
            }
        }
    };
}

// The transaction has the whole file's lock from its beginning.
impl_documents!(
    SqliteConnection,
    "SELECT body FROM documents WHERE kind = $1 AND id = $2"
);
#[cfg(feature = "postgres")]
impl_documents!(
    sqlx::PgConnection,
    "SELECT body FROM documents WHERE kind = $1 AND id = $2 FOR UPDATE"
);

/// Why a document was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("a document cannot be read: {0}")]
    Document(#[from] serde_json::Error),
    #[error(transparent)]
    DeadLetters(#[from] postroom::StoreError),
    #[error("no directory for the database: {0}")]
    Directory(#[from] std::io::Error),
}

/// Reads a document.
pub async fn get<T: DeserializeOwned>(
    documents: &mut impl Documents,
    kind: &'static str,
    id: impl ToString,
) -> Result<Option<T>, DataError> {
    let body = documents.read(kind, &id.to_string()).await?;
    Ok(body.map(|body| serde_json::from_str(&body)).transpose()?)
}

/// Writes a document, in the place of the one before.
pub async fn put(
    documents: &mut impl Documents,
    kind: &'static str,
    id: impl ToString,
    state: &str,
    document: &impl Serialize,
) -> Result<(), DataError> {
    let body = serde_json::to_string(document)?;
    Ok(documents.write(kind, &id.to_string(), state, body).await?)
}

/// All documents of a kind.
pub async fn all<T: DeserializeOwned>(
    documents: &mut impl Documents,
    kind: &'static str,
) -> Result<Vec<(String, T)>, DataError> {
    decoded(documents.read_all(kind, None).await?)
}

/// All documents of a kind that are in a state.
pub async fn in_state<T: DeserializeOwned>(
    documents: &mut impl Documents,
    kind: &'static str,
    state: &str,
) -> Result<Vec<(String, T)>, DataError> {
    decoded(documents.read_all(kind, Some(state)).await?)
}

fn decoded<T: DeserializeOwned>(
    documents: Vec<(String, String)>,
) -> Result<Vec<(String, T)>, DataError> {
    let decode = |(id, body): (String, String)| Ok((id, serde_json::from_str(&body)?));
    documents.into_iter().map(decode).collect()
}

/// The database of a process, opened.
#[derive(Clone)]
pub enum Database {
    Sqlite(SqlitePool),
    #[cfg(feature = "postgres")]
    Postgres(sqlx::PgPool, String),
}

/// Does the same with a connection to either.
macro_rules! with_connection {
    ($database:expr, $connection:ident => $work:expr) => {
        match $database {
            Database::Sqlite(pool) => {
                let $connection = &mut *pool.acquire().await?;
                $work
            }
            #[cfg(feature = "postgres")]
            Database::Postgres(pool, _) => {
                let $connection = &mut *pool.acquire().await?;
                $work
            }
        }
    };
}

type Found<T> = Result<T, DataError>;

impl Database {
    /// The one of this name, made where it is not there.
    pub async fn open(place: &Place, name: &str) -> Found<Self> {
        let database = match place {
            Place::Files(directory) => Self::file(directory, name).await?,
            #[cfg(feature = "postgres")]
            Place::Postgres(url) => Self::schema(url, &Place::schema(name)).await?,
        };
        match &database {
            Self::Sqlite(pool) => sqlx::query(TABLE).execute(pool).await.map(drop)?,
            #[cfg(feature = "postgres")]
            Self::Postgres(pool, _) => sqlx::query(TABLE).execute(pool).await.map(drop)?,
        }
        Ok(database)
    }

    async fn file(directory: &Path, name: &str) -> Found<Self> {
        std::fs::create_dir_all(directory)?;
        let options = SqliteConnectOptions::new()
            .filename(directory.join(format!("{name}.db")))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // Survives `kill -9`; the default, `Full`, survives a power cut too, and costs a write to the disk for
            // each transaction.
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(10));
        Ok(Self::Sqlite(SqlitePool::connect_with(options).await?))
    }

    #[cfg(feature = "postgres")]
    async fn schema(url: &str, schema: &str) -> Found<Self> {
        use sqlx::postgres::{PgConnectOptions, PgPool};

        let options: PgConnectOptions = url.parse()?;
        let options = options.options([("search_path", schema)]);
        let pool = PgPool::connect_with(options).await?;
        let make = sqlx::AssertSqlSafe(format!("CREATE SCHEMA IF NOT EXISTS {schema}"));
        sqlx::query(make).execute(&pool).await?;
        Ok(Self::Postgres(pool, schema.to_owned()))
    }

    /// Gives the bus this database as its store.
    pub fn store_of(&self, builder: Builder) -> Builder {
        match self {
            Self::Sqlite(pool) => builder.store(Sqlite::new(pool)),
            #[cfg(feature = "postgres")]
            Self::Postgres(pool, schema) => {
                builder.store(postroom::Postgres::new(pool).schema(schema))
            }
        }
    }

    pub async fn get<T: DeserializeOwned>(
        &self,
        kind: &'static str,
        id: impl ToString,
    ) -> Found<Option<T>> {
        with_connection!(self, connection => get(connection, kind, id).await)
    }

    pub async fn put(
        &self,
        kind: &'static str,
        id: impl ToString,
        state: &str,
        document: &impl Serialize,
    ) -> Found<()> {
        with_connection!(self, connection => put(connection, kind, id, state, document).await)
    }

    pub async fn all<T: DeserializeOwned>(&self, kind: &'static str) -> Found<Vec<(String, T)>> {
        with_connection!(self, connection => all(connection, kind).await)
    }

    /// How many documents of a kind are in each state.
    pub async fn count(&self, kind: &'static str) -> Found<BTreeMap<String, u64>> {
        let counts = with_connection!(self, connection => connection.count(kind).await)?;
        let counts = counts.into_iter();
        Ok(counts
            .map(|(state, count)| (state, count.unsigned_abs()))
            .collect())
    }

    /// How many rows of the outbox have still somewhere to go, and how many were given up.
    pub async fn outbox(&self) -> Found<(u64, u64)> {
        let (open, dead) = with_connection!(self, connection => connection.outbox().await)?;
        Ok((open.unsigned_abs(), dead.unsigned_abs()))
    }

    pub async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            #[cfg(feature = "postgres")]
            Self::Postgres(pool, _) => pool.close().await,
        }
    }
}
