//! Databases for tests: a SQLite file in a directory of its own, or a schema of its own in PostgreSQL, that of
//! `DATABASE_URL` or a private instance by `scripts/postgres`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use postroom::{Builder, Bus, Context, Event, Outcome, Postgres, Relay, Sqlite};
use postroom::{Recorded, Subscriber, Subscription, TransactionRefusal};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Transaction};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/postgres");

/// Runs a test over both databases.
#[allow(unused_macros, reason = "each test binary uses a part of it")]
macro_rules! over_both {
    ($($name:ident),* $(,)?) => {
        mod over_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::common::store::World::sqlite().await).await;
            })*
        }
        mod over_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::common::store::World::postgres().await).await;
            })*
        }
    };
}
#[allow(unused_imports, reason = "each test binary uses a part of it")]
pub(crate) use over_both;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Placed {
    pub(crate) order: u64,
}
impl Event for Placed {
    const TOPIC: &'static str = "ordering.order-placed";
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Charge {
    pub(crate) cents: u64,
}
impl postroom::Command for Charge {
    const QUEUE: &'static str = "payment.charge";
    type Reply = ();
}

/// A database of a test's own.
#[derive(Clone)]
pub(crate) struct World(Arc<Place>);

pub(crate) struct Place {
    pub(crate) pool: Pool,
    /// Of SQLite.
    directory: Option<PathBuf>,
    schema: String,
}

pub(crate) enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

pub(crate) enum Tx {
    Sqlite(Transaction<'static, sqlx::Sqlite>),
    Postgres(Transaction<'static, sqlx::Postgres>),
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

pub(crate) fn sqlite_options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(Duration::from_secs(20))
}

/// A PostgreSQL that a test may break; stopped when it is dropped or this process has ended.
pub(crate) struct PrivatePostgres {
    pub(crate) url: String,
    pub(crate) directory: String,
}

impl PrivatePostgres {
    pub(crate) fn start() -> Self {
        let owner = std::process::id().to_string();
        let output = script(&["start", "--owner", &owner]);
        let value = |name: &str| {
            let found = output
                .split_whitespace()
                .find_map(|word| word.strip_prefix(name));
            found
                .unwrap_or_else(|| panic!("no {name} in {output}"))
                .to_owned()
        };
        Self {
            url: value("DATABASE_URL="),
            directory: value("POSTGRES_DIR="),
        }
    }

    /// As [`start`](Self::start), off the test's own threads.
    pub(crate) async fn begin() -> Arc<Self> {
        let starting = tokio::task::spawn_blocking(Self::start);
        Arc::new(starting.await.unwrap())
    }

    /// As [`run`](Self::run), off the test's own threads.
    pub(crate) async fn told(self: &Arc<Self>, command: &'static str) {
        let server = Arc::clone(self);
        let running = tokio::task::spawn_blocking(move || server.run(command));
        running.await.unwrap();
    }

    fn run(&self, command: &str) {
        match command {
            "start" => drop(script(&["start", "--dir", &self.directory])),
            command => drop(script(&[command, &self.directory])),
        }
    }

    pub(crate) async fn world(&self) -> World {
        World::at(&self.url, "public").await
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        let _ = Command::new(SCRIPT)
            .args(["stop", &self.directory])
            .output();
    }
}

fn script(arguments: &[&str]) -> String {
    let output = Command::new(SCRIPT).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "scripts/postgres {arguments:?}: {text}"
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The URL of the PostgreSQL that all tests of this process share.
pub(crate) fn postgres_url() -> String {
    static PRIVATE: OnceLock<PrivatePostgres> = OnceLock::new();
    match std::env::var("DATABASE_URL") {
        Ok(url) if url.starts_with("postgres") => url,
        _ => PRIVATE.get_or_init(PrivatePostgres::start).url.clone(),
    }
}

impl World {
    pub(crate) async fn sqlite() -> Self {
        let name = format!("postroom-store-{:x}", fastrand::u64(..));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let options = sqlite_options(&directory.join("shop.db"));
        let pool = SqlitePoolOptions::new().max_connections(8);
        let pool = pool.connect_with(options).await.unwrap();
        Self(Arc::new(Place {
            pool: Pool::Sqlite(pool),
            directory: Some(directory),
            schema: String::new(),
        }))
    }

    pub(crate) async fn postgres() -> Self {
        let url = tokio::task::spawn_blocking(postgres_url).await.unwrap();
        Self::at(&url, &format!("t_{:x}", fastrand::u64(..))).await
    }

    /// In a schema of a PostgreSQL.
    pub(crate) async fn at(url: &str, schema: &str) -> Self {
        let options: PgConnectOptions = url.parse().unwrap();
        let options = options.options([("search_path", schema)]);
        let pool = PgPoolOptions::new()
            .max_connections(8)
            .connect_with(options)
            .await
            .unwrap();
        let make = format!("CREATE SCHEMA IF NOT EXISTS {schema}");
        sqlx::query(AssertSqlSafe(make))
            .execute(&pool)
            .await
            .unwrap();
        Self(Arc::new(Place {
            pool: Pool::Postgres(pool),
            directory: None,
            schema: schema.to_owned(),
        }))
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.0.pool
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        matches!(self.0.pool, Pool::Sqlite(_))
    }

    /// The database's name, for a table.
    pub(crate) fn database(&self) -> &'static str {
        match self.is_sqlite() {
            true => "SQLite",
            false => "PostgreSQL",
        }
    }

    /// Where a child process finds it.
    pub(crate) fn address(&self) -> String {
        match &self.0.directory {
            Some(directory) => directory.join("shop.db").display().to_string(),
            None => format!("{}#{}", postgres_url(), self.0.schema),
        }
    }

    /// What a child process was told by [`address`](Self::address).
    pub(crate) async fn found_at(address: &str) -> Self {
        if let Some((url, schema)) = address.split_once('#') {
            return Self::at(url, schema).await;
        }
        let options = sqlite_options(Path::new(address));
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options)
            .await
            .unwrap();
        Self(Arc::new(Place {
            pool: Pool::Sqlite(pool),
            directory: None,
            schema: String::new(),
        }))
    }

    /// A relay that does in a test's time what it does in minutes, and keeps what was published, so that it can be seen.
    pub(crate) fn relay() -> Relay {
        Relay::new()
            .slow_poll(Duration::from_millis(200))
            .keep_published(Duration::from_secs(600))
            .backoff(Duration::from_millis(100)..Duration::from_millis(400))
    }

    pub(crate) fn with_store(&self, builder: Builder) -> Builder {
        match &self.0.pool {
            Pool::Sqlite(pool) => builder.store(Sqlite::new(pool)),
            Pool::Postgres(pool) => builder.store(Postgres::new(pool).schema(&self.0.schema)),
        }
    }

    /// The store of a PostgreSQL, to be set up otherwise.
    pub(crate) fn postgres_store(&self) -> Postgres {
        match &self.0.pool {
            Pool::Postgres(pool) => Postgres::new(pool).schema(&self.0.schema),
            Pool::Sqlite(_) => panic!("not in PostgreSQL"),
        }
    }

    pub(crate) fn builder(&self) -> Builder {
        self.with_store(Bus::builder("shop")).relay(Self::relay())
    }

    pub(crate) async fn bus(&self) -> Bus {
        self.builder().start().await.unwrap()
    }

    pub(crate) async fn begin(&self) -> Tx {
        match &self.0.pool {
            Pool::Sqlite(pool) => Tx::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await.unwrap()),
            Pool::Postgres(pool) => Tx::Postgres(pool.begin().await.unwrap()),
        }
    }

    /// Runs a statement.
    pub(crate) async fn run(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.0.pool {
            Pool::Sqlite(pool) => drop(sqlx::query(sql).execute(pool).await.unwrap()),
            Pool::Postgres(pool) => drop(sqlx::query(sql).execute(pool).await.unwrap()),
        }
    }

    /// One number.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.0.pool {
            Pool::Sqlite(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            Pool::Postgres(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
        }
    }

    /// Texts, in order.
    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.0.pool {
            Pool::Sqlite(pool) => sqlx::query_scalar(sql).fetch_all(pool).await.unwrap(),
            Pool::Postgres(pool) => sqlx::query_scalar(sql).fetch_all(pool).await.unwrap(),
        }
    }

    /// Rows of a status.
    pub(crate) async fn rows(&self, status: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM postroom_outbox WHERE status = '{status}'");
        self.number(&sql).await
    }

    /// Waits until a query answers with this number.
    pub(crate) async fn until(&self, sql: &str, wanted: i64) {
        let end = std::time::Instant::now() + super::PATIENCE;
        loop {
            let found = self.number(sql).await;
            if found == wanted {
                return;
            }
            assert!(
                std::time::Instant::now() < end,
                "{sql}: {found}, and not {wanted}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until nobody has anything under way in a table: what a process that is gone has sent, PostgreSQL still does.
    pub(crate) async fn until_quiet(&self, table: &str) {
        let mut tx = self.begin().await;
        if !self.is_sqlite() {
            tx.run(&format!("LOCK TABLE {table} IN SHARE MODE")).await;
        }
        tx.roll_back().await;
    }

    /// Waits until so many rows have a status.
    pub(crate) async fn until_rows(&self, status: &str, wanted: i64) {
        let sql = format!("SELECT count(*) FROM postroom_outbox WHERE status = '{status}'");
        self.until(&sql, wanted).await;
    }
}

impl Tx {
    pub(crate) async fn place(&mut self, bus: &Bus, order: u64) -> Recorded {
        self.write(bus.publish(Placed { order })).await.unwrap()
    }

    pub(crate) async fn place_keyed(&mut self, bus: &Bus, order: u64, key: &str) -> Recorded {
        self.write(bus.publish(Placed { order }).key(key))
            .await
            .unwrap()
    }

    pub(crate) async fn write<M: Serialize + Send + Sync + 'static>(
        &mut self,
        publish: postroom::Publish<'_, M>,
    ) -> Result<Recorded, TransactionRefusal> {
        let written = match self {
            Self::Sqlite(tx) => publish.in_transaction(tx).await,
            Self::Postgres(tx) => publish.in_transaction(tx).await,
        };
        written.map_err(|error| error.kind().clone())
    }

    pub(crate) async fn run(&mut self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::Sqlite(tx) => drop(sqlx::query(sql).execute(&mut **tx).await.unwrap()),
            Self::Postgres(tx) => drop(sqlx::query(sql).execute(&mut **tx).await.unwrap()),
        }
    }

    pub(crate) async fn commit(self) {
        match self {
            Self::Sqlite(tx) => tx.commit().await.unwrap(),
            Self::Postgres(tx) => tx.commit().await.unwrap(),
        }
    }

    pub(crate) async fn commit_by(self, bus: &Bus) {
        let outbox = bus.outbox().unwrap();
        match self {
            Self::Sqlite(tx) => outbox.commit(tx).await.unwrap(),
            Self::Postgres(tx) => outbox.commit(tx).await.unwrap(),
        }
    }

    pub(crate) async fn roll_back(self) {
        match self {
            Self::Sqlite(tx) => tx.rollback().await.unwrap(),
            Self::Postgres(tx) => tx.rollback().await.unwrap(),
        }
    }
}

/// What was handled, in order.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<u64>>>);

impl Seen {
    pub(crate) fn orders(&self) -> Vec<u64> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn sorted(&self) -> Vec<u64> {
        let mut orders = self.orders();
        orders.sort_unstable();
        orders
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) fn note(&self, order: u64) {
        self.0.lock().unwrap().push(order);
    }

    /// Subscribes by a durable queue.
    pub(crate) async fn subscribe_durable(&self, bus: &Bus) -> Subscription {
        let seen = self.clone();
        bus.subscriber("seen", move || seen.clone())
            .on::<Placed>()
            .durable()
            .start()
            .await
            .unwrap()
    }

    /// Subscribes, and then starts the relay.
    pub(crate) async fn subscribe(&self, bus: &Bus) {
        let seen = self.clone();
        bus.subscriber("seen", move || seen.clone())
            .on::<Placed>()
            .start()
            .await
            .unwrap();
        bus.outbox().unwrap().start_relay();
    }
}

impl Subscriber<Placed> for Seen {
    async fn handle(&mut self, placed: &Placed, _: &mut Context<'_>) -> Outcome {
        self.note(placed.order);
        Ok(())
    }
}
