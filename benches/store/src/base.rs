//! The databases, the broker, and what every contestant writes.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, ensure};
use postroom::{Builder, Bus, Event, Postgres, Relay, Sqlite};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, Transaction};

/// 256 bytes of JSON, about.
#[derive(Clone, Serialize, Deserialize)]
pub struct Numbered {
    pub id: u64,
    pub padding: String,
}

impl Event for Numbered {
    const TOPIC: &'static str = "load.numbered";
}

impl Numbered {
    pub fn new(id: u64) -> Self {
        let padding = "x".repeat(230);
        Self { id, padding }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Sqlite, Self::Postgres];

    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// A database of one run's own.
pub struct Base {
    pub pool: Pool,
    directory: Option<PathBuf>,
    schema: String,
}

pub enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

pub enum Tx {
    Sqlite(Transaction<'static, sqlx::Sqlite>),
    Postgres(Transaction<'static, sqlx::Postgres>),
}

impl Drop for Base {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

impl Base {
    pub async fn make(kind: Kind, services: &Services) -> anyhow::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "b_{}_{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        match kind {
            Kind::Sqlite => {
                let directory = std::env::temp_dir().join(format!("postroom-{name}"));
                std::fs::create_dir_all(&directory)?;
                let options = SqliteConnectOptions::new()
                    .filename(directory.join("bench.db"))
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Normal);
                let pool = SqlitePoolOptions::new()
                    .max_connections(2)
                    .connect_with(options)
                    .await?;
                Ok(Self {
                    pool: Pool::Sqlite(pool),
                    directory: Some(directory),
                    schema: String::new(),
                })
            }
            Kind::Postgres => {
                let options: PgConnectOptions = services.database_url.parse()?;
                let options = options.options([("search_path", &name)]);
                let pool = PgPoolOptions::new()
                    .max_connections(4)
                    .connect_with(options)
                    .await?;
                let make = format!("CREATE SCHEMA {name}");
                sqlx::query(AssertSqlSafe(make)).execute(&pool).await?;
                Ok(Self {
                    pool: Pool::Postgres(pool),
                    directory: None,
                    schema: name,
                })
            }
        }
    }

    pub fn store(&self, builder: Builder) -> Builder {
        match &self.pool {
            Pool::Sqlite(pool) => builder.store(Sqlite::new(pool)),
            Pool::Postgres(pool) => builder.store(Postgres::new(pool).schema(&self.schema)),
        }
    }

    pub fn bus(&self) -> Builder {
        self.store(Bus::builder("bench")).relay(Relay::new())
    }

    pub async fn begin(&self) -> anyhow::Result<Tx> {
        Ok(match &self.pool {
            Pool::Sqlite(pool) => Tx::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?),
            Pool::Postgres(pool) => Tx::Postgres(pool.begin().await?),
        })
    }

    pub async fn run(&self, sql: &str) -> anyhow::Result<()> {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.pool {
            Pool::Sqlite(pool) => sqlx::query(sql).execute(pool).await.map(drop)?,
            Pool::Postgres(pool) => sqlx::query(sql).execute(pool).await.map(drop)?,
        }
        Ok(())
    }

    /// Fills the outbox, with rows of any lane.
    pub async fn fill(&self, rows: u64) -> anyhow::Result<()> {
        let more = [("lane", "n % 32"), ("status", "'waiting'")];
        self.fill_table("postroom_outbox", &more, rows).await
    }

    /// Fills a durable queue.
    pub async fn fill_queue(&self, queue: &str, rows: u64) -> anyhow::Result<()> {
        let queue = format!("'{queue}'");
        self.fill_table("postroom_queue", &[("queue", &queue)], rows)
            .await
    }

    /// Fills a table of messages by one statement, as fast as can be: with these columns more.
    async fn fill_table(
        &self,
        table: &str,
        more: &[(&str, &str)],
        rows: u64,
    ) -> anyhow::Result<()> {
        let body = serde_json::to_string(&Numbered::new(0))?;
        let (columns, values): (Vec<_>, Vec<_>) = more.iter().copied().unzip();
        let (numbers, digits) = match &self.pool {
            Pool::Sqlite(_) => (
                format!(
                    "(WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows}) \
                     SELECT n FROM n)"
                ),
                "printf('%012d', n)",
            ),
            Pool::Postgres(_) => (
                format!("generate_series(1, {rows}) AS n"),
                "lpad(n::text, 12, '0')",
            ),
        };
        // Ids of version 7 that differ in their last digits.
        let sql = format!(
            "INSERT INTO {table} (id, kind, address, body, {}) \
             SELECT '01970000-0000-7000-8000-' || {digits}, 'event', 'load.numbered', '{body}', {} FROM {numbers}",
            columns.join(", "),
            values.join(", "),
        );
        self.run(&sql).await?;
        if let Pool::Postgres(_) = &self.pool {
            self.run(&format!("ANALYZE {table}")).await?;
        }
        Ok(())
    }
}

impl Tx {
    pub async fn publish(&mut self, bus: &Bus, message: Numbered) -> anyhow::Result<()> {
        match self {
            Self::Sqlite(tx) => bus.publish(message).in_transaction(tx).await.map(drop)?,
            Self::Postgres(tx) => bus.publish(message).in_transaction(tx).await.map(drop)?,
        }
        Ok(())
    }

    pub async fn publish_batch(
        &mut self,
        bus: &Bus,
        messages: impl Iterator<Item = Numbered>,
    ) -> anyhow::Result<()> {
        let mut batch = bus.batch();
        for message in messages {
            batch.add(bus.publish(message))?;
        }
        match self {
            Self::Sqlite(tx) => batch.in_transaction(tx).await?,
            Self::Postgres(tx) => batch.in_transaction(tx).await?,
        }
        Ok(())
    }

    /// What somebody writes by hand.
    pub async fn insert(&mut self, message: &Numbered) -> anyhow::Result<()> {
        const SQL: &str = "INSERT INTO bare (id, address, body) VALUES ($1, $2, $3)";
        let id = postroom::MessageId::new().to_string();
        let body = serde_json::to_string(message)?;
        match self {
            Self::Sqlite(tx) => {
                let insert = sqlx::query(SQL).bind(id).bind(Numbered::TOPIC).bind(body);
                insert.execute(&mut **tx).await.map(drop)?;
            }
            Self::Postgres(tx) => {
                let insert = sqlx::query(SQL).bind(id).bind(Numbered::TOPIC).bind(body);
                insert.execute(&mut **tx).await.map(drop)?;
            }
        }
        Ok(())
    }

    pub async fn commit(self) -> anyhow::Result<()> {
        match self {
            Self::Sqlite(tx) => tx.commit().await?,
            Self::Postgres(tx) => tx.commit().await?,
        }
        Ok(())
    }

    pub async fn commit_by(self, bus: &Bus) -> anyhow::Result<()> {
        let outbox = bus.outbox().context("a bus without a store")?;
        match self {
            Self::Sqlite(tx) => outbox.commit(tx).await?,
            Self::Postgres(tx) => outbox.commit(tx).await?,
        }
        Ok(())
    }
}

/// A PostgreSQL and a RabbitMQ: those of the environment, or private ones for the run.
pub struct Services {
    pub database_url: String,
    pub amqp_url: String,
    stop: Vec<(&'static str, String)>,
}

impl Services {
    pub fn find() -> anyhow::Result<Arc<Self>> {
        let mut stop = Vec::new();
        let mut find =
            |variable: &str, script: &'static str, directory: &str| -> anyhow::Result<String> {
                if let Ok(url) = std::env::var(variable) {
                    return Ok(url);
                }
                let owner = std::process::id().to_string();
                let path = script_path(script);
                let output = Command::new(&path)
                    .args(["start", "--owner", &owner])
                    .output();
                let output = output.with_context(|| path.display().to_string())?;
                ensure!(
                    output.status.success(),
                    "{}",
                    String::from_utf8_lossy(&output.stderr)
                );
                let text = String::from_utf8(output.stdout)?;
                let value = |name: &str| -> anyhow::Result<String> {
                    let name = format!("{name}=");
                    let found = text
                        .split_whitespace()
                        .find_map(|word| word.strip_prefix(&name));
                    found
                        .map(str::to_owned)
                        .with_context(|| format!("no {name} in {text}"))
                };
                stop.push((script, value(directory)?));
                value(variable)
            };
        let database_url = find("DATABASE_URL", "postgres", "POSTGRES_DIR")?;
        let amqp_url = find("AMQP_URL", "rabbitmq", "RABBITMQ_DIR")?;
        Ok(Arc::new(Self {
            database_url,
            amqp_url,
            stop,
        }))
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        for (script, directory) in &self.stop {
            let _ = Command::new(script_path(script))
                .args(["stop", directory])
                .output();
        }
    }
}

fn script_path(script: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../scripts")
        .join(script)
}
