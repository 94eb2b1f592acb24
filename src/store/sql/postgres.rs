use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions, PgRow};

use super::dialect;
use super::driver::{self, Driver, impl_driver, impl_store_connection};
use super::handling::{impl_nesting, impl_tx_store};
use super::migration::Migration;
use super::session::{Session, bounded};
use super::statements::Statements;
use super::tables::Tables;
use crate::store::{
    DatabaseError, DatabaseProblem, HandlingLimits, Store, StoreFuture, StoreListener,
    StoreSession, Told,
};

const DURING: &str = "connect";
/// How much longer than its handler's timeout a transaction may stand still.
const SLACK: Duration = Duration::from_secs(30);

/// Messages kept in PostgreSQL, beside the application's own tables. Needs PostgreSQL 12 or later.
///
/// | setting | default | how to choose |
/// |---|---|---|
/// | `prefix` | `postroom_` | one for each bus that shares a schema; at most 30 characters |
/// | `schema` | the first of the search path | made if it is missing |
/// | `lock_timeout` | 5 s | longer than your longest transaction that locks the store's own tables: mostly none does; so long too may a process stand still in a transaction of the store's own, before the server ends that |
/// | `statement_timeout` | 10 s | longer than `lock_timeout` |
/// | `notify` | off | on where several processes share the work, and a second is long |
///
/// It opens connections of its own by the pool's options, and takes none of the pool's; how many is said in
/// `docs/outbox.md`. For TLS to the server choose one of sqlx's features, as
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
    notifies: bool,
    statements: Arc<Statements>,
}

fn statements(tables: &Tables, notifies: bool) -> Arc<Statements> {
    // For each row; those of one transaction are one.
    let tells = |table: &str| match notifies {
        true => format!(" RETURNING pg_notify('{}', '')", tables.channel(table)),
        false => String::new(),
    };
    Arc::new(Statements::new(&dialect::POSTGRES, tables, tells))
}

/// Hears what is told on one channel.
struct Listener(PgListener);

impl StoreListener for Listener {
    fn heard(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            // None: the connection was lost and is there again, and something may have been told meanwhile.
            let heard = self.0.try_recv().await;
            heard.map_err(|error| driver::error::<PgConnection>("listen", &error))?;
            // More of the same is not worth a look of its own.
            while self.0.next_buffered().is_some() {}
            Ok(())
        })
    }
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
            statements: statements(&tables, false),
            tables,
            notifies: false,
            lock_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
        }
    }

    /// How the names of the tables begin: at most 30 characters of `a` to `z`, `0` to `9` and `_`.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.tables.prefix = prefix.into();
        self.statements = statements(&self.tables, self.notifies);
        self
    }

    /// In which schema the tables are; made by the migrations if it is missing. The same characters as a prefix.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.tables.schema = Some(schema.into());
        self.statements = statements(&self.tables, self.notifies);
        self
    }

    /// Tells the other processes of what is written into the outbox and into durable queues, by NOTIFY in the transaction
    /// that writes it, and listens to them. Without it they see it by their slow polls. A process sees its own at once in
    /// any case, but in the outbox only that of lanes that it holds, which it shares with the other processes.
    ///
    /// It costs a connection for the outbox and one for durable queues, and makes the commits of all transactions that write
    /// a message take turns for a moment: a lock of PostgreSQL's. Where thousands of them commit in a second, measure it.
    /// Needs a connection of the server's own: a pooler that hands transactions to different connections (as
    /// PgBouncer may) hears nothing.
    #[must_use]
    pub fn notify(mut self) -> Self {
        self.notifies = true;
        self.statements = statements(&self.tables, true);
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
            // A process that stands still in the middle of a transaction keeps its successor waiting no longer than this.
            self.lock_timeout.as_millis(),
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

    fn listen(&self, to: Told) -> Option<StoreFuture<'_, Box<dyn StoreListener>>> {
        if !self.notifies {
            return None;
        }
        let table = match to {
            Told::Outbox => "outbox",
            Told::Queues => "queue",
        };
        Some(Box::pin(async move {
            self.tables.check()?;
            let options = self.options.as_ref().clone().disable_statement_logging();
            // The listener opens its connection by a pool, and has all of it.
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .acquire_timeout(self.statement_timeout)
                .connect_lazy_with(options);
            let listening = async {
                let mut listener = PgListener::connect_with(&pool).await?;
                listener.listen(&self.tables.channel(table)).await?;
                Ok(listener)
            };
            let listener = bounded::<_, PgConnection>("listen", self.statement_timeout, listening);
            Ok(Box::new(Listener(listener.await?)) as Box<dyn StoreListener>)
        }))
    }
}

impl_driver!(PgConnection, sqlx::Postgres, PgRow, sqlx::Row::try_get, {
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
