use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgRow};

use super::dialect;
use super::driver::{Driver, impl_driver, impl_store_connection};
use super::handling::{impl_nesting, impl_tx_store};
use super::migration::Migration;
use super::session::{Session, bounded};
use super::statements::Statements;
use super::tables::Tables;
use crate::store::{
    DatabaseError, DatabaseProblem, HandlingLimits, Store, StoreFuture, StoreSession,
};

const DURING: &str = "connect";
/// How much longer than its handler's timeout a transaction may stand still.
const SLACK: Duration = Duration::from_secs(30);

/// Messages kept in PostgreSQL, beside the application's own tables. Needs PostgreSQL 11 or later.
///
/// | setting | default | how to choose |
/// |---|---|---|
/// | `prefix` | `postroom_` | one for each bus that shares a schema; at most 30 characters |
/// | `schema` | the first of the search path | made if it is missing |
/// | `lock_timeout` | 5 s | longer than your longest transaction that locks the store's own tables: mostly none does |
/// | `statement_timeout` | 10 s | longer than `lock_timeout` |
///
/// It opens connections of its own by the pool's options, and takes none of the pool's: two for the relay, and one
/// for a moment to look at what was given up. For TLS to the server choose one of sqlx's features, as
/// `tls-rustls-ring`.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use postroom::{Bus, Postgres};
/// use sqlx::PgPool;
///
/// let pool = PgPool::connect("postgres://shop@localhost/shop").await?;
/// let bus = Bus::builder("shop").store(Postgres::new(&pool).schema("mail")).start().await?;
/// # bus.shutdown(std::time::Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Postgres {
    options: Arc<PgConnectOptions>,
    tables: Tables,
    lock_timeout: Duration,
    statement_timeout: Duration,
    statements: Arc<Statements>,
}

impl Postgres {
    /// By the connect options of a pool.
    #[must_use]
    pub fn new(pool: &PgPool) -> Self {
        Self::with_options(pool.connect_options().as_ref().clone())
    }

    /// By connect options, for who has no pool.
    #[must_use]
    pub fn with_options(options: PgConnectOptions) -> Self {
        let tables = Tables::default();
        Self {
            options: Arc::new(options),
            statements: Arc::new(Statements::new(&dialect::POSTGRES, &tables)),
            tables,
            lock_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
        }
    }

    /// How the names of the tables begin: at most 30 characters of `a` to `z`, `0` to `9` and `_`.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.tables.prefix = prefix.into();
        self.statements = Arc::new(Statements::new(&dialect::POSTGRES, &self.tables));
        self
    }

    /// In which schema the tables are; made by the migrations if it is missing. The same characters as a prefix.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.tables.schema = Some(schema.into());
        self.statements = Arc::new(Statements::new(&dialect::POSTGRES, &self.tables));
        self
    }

    /// How long its own connections wait for a lock, before they say [`DatabaseProblem::Busy`].
    #[must_use]
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// The longest that one statement of its own may take.
    #[must_use]
    pub fn statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = timeout;
        self
    }

    /// Opens a connection as the store's own are, on the runtime that this is awaited on.
    ///
    /// # Errors
    /// When the names or the options cannot be used, or the server cannot be reached.
    pub async fn connect(&self) -> Result<PgConnection, DatabaseError> {
        self.tables.check()?;
        let options = self.options.as_ref().clone().disable_statement_logging();
        let mut connection =
            bounded::<_, PgConnection>(DURING, self.statement_timeout, options.connect()).await?;
        // The server ends by itself what nobody waits for any more. A plan that knows the lists is worth its making;
        // one that is compiled is not (measured: a second for a look of 30 ms), nor one that reads all of a lane to
        // sort it, where its index has the order.
        // Whatever the default of the database is: what is serializable of the application's must not fail for what we
        // read, and fences do not need more.
        let settings = format!(
            "SET lock_timeout = {}; SET statement_timeout = {}; SET plan_cache_mode = force_custom_plan; \
             SET jit = off; SET enable_bitmapscan = off; \
             SET default_transaction_isolation = 'read committed'; \
             SET idle_in_transaction_session_timeout = {}",
            self.lock_timeout.as_millis(),
            self.statement_timeout.as_millis(),
            self.statement_timeout.as_millis().saturating_mul(2),
        );
        let setting = connection.run(settings);
        bounded::<_, PgConnection>(DURING, self.statement_timeout, setting).await?;
        Ok(connection)
    }

    /// As the application's own connections are. With a timeout the server ends by itself what its handler cannot be
    /// waiting for any more, and nothing earlier, whatever the default of the database is.
    async fn open_for_handling(
        &self,
        limits: HandlingLimits,
    ) -> Result<PgConnection, DatabaseError> {
        self.tables.check()?;
        let options = self.options.as_ref().clone();
        let patience = self.statement_timeout.min(limits.patience);
        let mut connection =
            bounded::<_, PgConnection>(DURING, patience, options.connect()).await?;
        if let Some(timeout) = limits.timeout {
            let longest = timeout
                .saturating_add(SLACK)
                .as_millis()
                .min(i32::MAX as u128);
            let settings = format!(
                "SET statement_timeout = {longest}; SET idle_in_transaction_session_timeout = {longest}"
            );
            bounded::<_, PgConnection>(DURING, patience, connection.run(settings)).await?;
        }
        Ok(connection)
    }
}

/// Without the options.
impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("prefix", &self.tables.prefix)
            .finish_non_exhaustive()
    }
}

impl Store for Postgres {
    fn database(&self) -> &'static str {
        dialect::POSTGRES.name
    }

    fn migrations(&self) -> Vec<Migration> {
        self.statements.migrations.clone()
    }

    fn open(&self) -> StoreFuture<'_, Box<dyn StoreSession>> {
        Box::pin(async move {
            let connection = self.connect().await?;
            let patience = self.statement_timeout;
            Ok(Session::open(connection, &self.statements, patience, None))
        })
    }
}

impl_driver!(PgConnection, sqlx::Postgres, PgRow, {
    async fn data_version(&mut self) -> Result<Option<i64>, sqlx::Error> {
        Ok(None)
    }

    fn problem(error: &dyn sqlx::error::DatabaseError) -> DatabaseProblem {
        match error.code().as_deref() {
            Some("55P03") => DatabaseProblem::Busy,
            Some("57014") => DatabaseProblem::Timeout,
            Some("25006") => DatabaseProblem::ReadOnly,
            Some("42P01" | "42703" | "3F000") => DatabaseProblem::Schema,
            Some(code) => match &code[..2] {
                "08" | "28" | "57" | "3D" => DatabaseProblem::Unreachable,
                "40" => DatabaseProblem::Serialization,
                "53" if code == "53300" => DatabaseProblem::Unreachable,
                "53" => DatabaseProblem::Full,
                _ => DatabaseProblem::Other,
            },
            None => DatabaseProblem::Other,
        }
    }
});

impl_nesting!(PgConnection);
impl_tx_store!(Postgres, PgConnection, {});
impl_store_connection!(Postgres, sqlx::Postgres, PgConnection);
