use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{ConnectOptions, Row};

use super::dialect;
use super::driver::{impl_driver, impl_store_connection};
use super::handling::{impl_nesting, impl_tx_store};
use super::migration::Migration;
use super::session::{Session, bounded};
use super::statements::Statements;
use super::tables::Tables;
use crate::store::{
    DatabaseError, DatabaseProblem, HandlingLimits, Store, StoreFuture, StoreSession, Turn, Turns,
};

const DURING: &str = "connect";

/// Messages kept in a SQLite file, beside the application's own tables.
///
/// | setting | default | how to choose |
/// |---|---|---|
/// | `prefix` | `postroom_` | one for each bus that shares a file; at most 30 characters |
/// | `busy_timeout` | 5 s | longer than your longest writing transaction |
/// | `statement_timeout` | 10 s | longer than `busy_timeout` |
///
/// It opens connections of its own by the pool's options, as journal mode and synchronous level, and takes none of
/// the pool's. **Use WAL** (`SqliteJournalMode::Wal`): without it every reader waits for every writer. A database in
/// memory cannot be used, since it has no other connections.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use postroom::{Bus, Sqlite};
/// use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool};
///
/// let options = SqliteConnectOptions::new()
///     .filename("shop.db")
///     .create_if_missing(true)
///     .journal_mode(SqliteJournalMode::Wal);
/// let pool = SqlitePool::connect_with(options).await?;
/// let bus = Bus::builder("shop").store(Sqlite::new(&pool)).start().await?;
/// # bus.shutdown(std::time::Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Sqlite {
    options: Arc<SqliteConnectOptions>,
    tables: Tables,
    busy_timeout: Duration,
    statement_timeout: Duration,
    statements: Arc<Statements>,
    turns: Turns,
}

/// SQLite tells nobody; what it was told by another process is asked for by `PRAGMA data_version`.
fn statements(tables: &Tables) -> Arc<Statements> {
    Arc::new(Statements::new(&dialect::SQLITE, tables, |_| String::new()))
}

impl Sqlite {
    /// By the connect options of a pool.
    #[must_use]
    pub fn new(pool: &SqlitePool) -> Self {
        Self::with_options(pool.connect_options().as_ref().clone())
    }

    /// By connect options, for who has no pool.
    #[must_use]
    pub fn with_options(options: SqliteConnectOptions) -> Self {
        let tables = Tables::default();
        Self {
            options: Arc::new(options),
            statements: statements(&tables),
            tables,
            busy_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            turns: Turns::new(),
        }
    }

    /// How the names of the tables begin: at most 30 characters of `a` to `z`, `0` to `9` and `_`.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.tables.prefix = prefix.into();
        self.statements = statements(&self.tables);
        self
    }

    /// How long its own connections wait for a lock, before they say [`DatabaseProblem::Busy`].
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// The longest that one statement of its own may take.
    #[must_use]
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = timeout;
        self
    }

    fn check(&self) -> Result<(), DatabaseError> {
        self.tables.check()?;
        let file = self.options.get_filename().to_string_lossy().into_owned();
        if file.is_empty() || file.starts_with("file:sqlx-in-memory") || file.contains(":memory:") {
            return Err(DatabaseError::new(
                DatabaseProblem::Configuration,
                DURING,
                "a database in memory has no other connections: use a file",
            ));
        }
        Ok(())
    }

    /// Opens a connection as the store's own are, on the runtime that this is awaited on.
    ///
    /// # Errors
    /// When the names, the options or the file cannot be used.
    pub async fn connect(&self) -> Result<SqliteConnection, DatabaseError> {
        self.check()?;
        let options = self
            .options
            .as_ref()
            .clone()
            .busy_timeout(self.busy_timeout)
            .disable_statement_logging();
        bounded::<_, SqliteConnection>(DURING, self.statement_timeout, options.connect()).await
    }

    /// As the application's own connections are, but for how long it waits for the lock.
    async fn open_for_handling(
        &self,
        limits: HandlingLimits,
    ) -> Result<SqliteConnection, DatabaseError> {
        self.check()?;
        let patience = self.busy_timeout.min(limits.one_wait());
        let options = self.options.as_ref().clone().busy_timeout(patience);
        bounded::<_, SqliteConnection>(DURING, self.statement_timeout, options.connect()).await
    }
}

/// Without the options.
impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite")
            .field("prefix", &self.tables.prefix)
            .finish_non_exhaustive()
    }
}

impl Store for Sqlite {
    fn database(&self) -> &'static str {
        dialect::SQLITE.name
    }

    fn migrations(&self) -> Vec<Migration> {
        self.statements.migrations.clone()
    }

    fn open(&self) -> StoreFuture<'_, Box<dyn StoreSession>> {
        Box::pin(async move {
            let connection = self.connect().await?;
            let patience = self.statement_timeout;
            Ok(Session::open(
                connection,
                &self.statements,
                patience,
                Some((self.turns.clone(), self.busy_timeout)),
            ))
        })
    }
}

/// SQLite keeps bytes that somebody has written in place of a text. One such row is not to stop the others.
fn text_or_bytes(row: &SqliteRow, at: usize) -> Result<Option<String>, sqlx::Error> {
    let text = row.try_get(at);
    if text.is_ok() {
        return text;
    }
    let bytes: Option<Vec<u8>> = row.try_get_unchecked(at)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

impl_driver!(SqliteConnection, sqlx::Sqlite, SqliteRow, text_or_bytes, {
    async fn data_version(&mut self) -> Result<Option<i64>, sqlx::Error> {
        let version = sqlx::query_scalar("PRAGMA data_version");
        version.fetch_one(&mut *self).await.map(Some)
    }

    fn problem(error: &dyn sqlx::error::DatabaseError) -> DatabaseProblem {
        let code = error.code().and_then(|code| code.parse::<u32>().ok());
        match code.map(|code| code & 0xff) {
            // 15: another process stands still between two locks of the WAL.
            Some(5 | 6 | 15) => DatabaseProblem::Busy,
            Some(8) => DatabaseProblem::ReadOnly,
            Some(13) => DatabaseProblem::Full,
            Some(10 | 14) => DatabaseProblem::Unreachable,
            _ if error.message().starts_with("no such table") => DatabaseProblem::Schema,
            _ => DatabaseProblem::Other,
        }
    }
});

impl_nesting!(SqliteConnection);
impl_tx_store!(Sqlite, SqliteConnection, {
    async fn turn(&self, patience: Duration) -> Turn {
        self.turns.next(patience).await
    }
});
impl_store_connection!(Sqlite, sqlx::Sqlite, SqliteConnection);
