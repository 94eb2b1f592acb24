//! Transactional handlers for tests, over whichever database: each order that is handled leaves a row in `effects`.

use std::future::Future;
use std::time::Duration;

use postroom::{Bus, Event, Failure, Postgres, Problem, Retry, Sqlite, TxContext, TxStore};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Connection};

use super::store::{Placed, Pool, PrivatePostgres, World};

/// Runs a test over both databases, by the type of the store.
#[allow(unused_macros, reason = "each test binary uses a part of it")]
macro_rules! over_both_stores {
    ($($name:ident),* $(,)?) => {
        mod over_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let world = crate::common::store::World::sqlite().await;
                super::$name::<postroom::Sqlite>(world).await;
            })*
        }
        mod over_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let world = crate::common::store::World::postgres().await;
                super::$name::<postroom::Postgres>(world).await;
            })*
        }
    };
}
#[allow(unused_imports, reason = "each test binary uses a part of it")]
pub(crate) use over_both_stores;

/// What the tests do with a handler's connection.
pub(crate) trait Db: TxStore {
    fn run(
        connection: &mut Self::Connection,
        sql: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Runs it in a transaction of its own within, and ends that.
    fn run_nested(
        connection: &mut Self::Connection,
        sql: &str,
        commits: bool,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

macro_rules! impl_db {
    ($store:ty) => {
        impl Db for $store {
            async fn run(connection: &mut Self::Connection, sql: &str) -> Result<(), sqlx::Error> {
                let sql = AssertSqlSafe(sql.to_owned());
                sqlx::query(sql).execute(connection).await.map(drop)
            }

            async fn run_nested(
                connection: &mut Self::Connection,
                sql: &str,
                commits: bool,
            ) -> Result<(), sqlx::Error> {
                let mut nested = connection.begin().await?;
                sqlx::query(AssertSqlSafe(sql.to_owned()))
                    .execute(&mut *nested)
                    .await?;
                match commits {
                    true => nested.commit().await,
                    false => nested.rollback().await,
                }
            }
        }
    };
}
impl_db!(Sqlite);
impl_db!(Postgres);

/// Published by handlers, in their transaction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub(crate) order: u64,
}
impl Event for Taken {
    const TOPIC: &'static str = "catalog.stock-taken";
}

/// What a handler does.
pub(crate) async fn take<S: Db>(cx: &mut TxContext<'_, S>, order: u64) -> Result<(), Failure> {
    let sql = effect(order);
    S::run(cx.tx(), &sql).await?;
    cx.publish(Taken { order }).key(order);
    Ok(())
}

pub(crate) fn effect(order: u64) -> String {
    format!("INSERT INTO effects (placed) VALUES ({order})")
}

impl World {
    /// Makes the table of effects, which lets an order be handled twice, so that it is seen.
    pub(crate) async fn make_effects(&self) {
        let number = match self.is_sqlite() {
            true => "INTEGER PRIMARY KEY AUTOINCREMENT",
            false => "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        };
        let make = format!("CREATE TABLE effects (number {number}, placed BIGINT NOT NULL)");
        self.run(&make).await;
    }

    /// The orders that were handled, in order of their handling.
    pub(crate) async fn effects(&self) -> Vec<u64> {
        const SQL: &str = "SELECT placed FROM effects ORDER BY number";
        let orders: Vec<i64> = match self.pool() {
            Pool::Sqlite(pool) => sqlx::query_scalar(SQL).fetch_all(pool).await.unwrap(),
            Pool::Postgres(pool) => sqlx::query_scalar(SQL).fetch_all(pool).await.unwrap(),
        };
        orders.into_iter().map(|order| order as u64).collect()
    }

    pub(crate) async fn sorted_effects(&self) -> Vec<u64> {
        let mut orders = self.effects().await;
        orders.sort_unstable();
        orders
    }

    pub(crate) async fn until_effects(&self, wanted: i64) {
        self.until("SELECT count(*) FROM effects", wanted).await;
    }

    /// Records in the inbox.
    pub(crate) async fn records(&self) -> i64 {
        self.number("SELECT count(*) FROM postroom_inbox").await
    }

    /// Writes orders in a transaction, for the relay.
    pub(crate) async fn place(&self, bus: &Bus, orders: std::ops::Range<u64>) {
        let mut tx = self.begin().await;
        for order in orders {
            tx.place(bus, order).await;
        }
        tx.commit_by(bus).await;
    }

    /// Lets everything that was published be published again, with the same ids.
    pub(crate) async fn publish_again(&self, bus: &Bus) {
        self.run(
            "UPDATE postroom_outbox SET status = 'waiting', published_at = NULL \
             WHERE status = 'published' AND address = 'ordering.order-placed'",
        )
        .await;
        bus.outbox().unwrap().wake();
    }
}

/// How many messages the inbox knew already.
pub(crate) fn duplicates(bus: &Bus) -> u64 {
    bus.snapshot().outbox.unwrap().duplicates
}

/// A subscriber by the name of `stock` that takes each order.
pub(crate) async fn stock<S: Db>(bus: &Bus) {
    bus.transactional_fn::<Placed, S, _>("stock", async |placed, cx| take(cx, placed.order).await)
        .start()
        .await
        .unwrap();
}

/// What is wrong with a queue because of its database.
pub(crate) fn trouble(bus: &Bus, queue: &str) -> Option<String> {
    let health = bus.health();
    let mut conditions = health.conditions().iter();
    let found = conditions
        .find(|condition| condition.problem == Problem::Database && condition.subject == queue);
    found.map(|condition| condition.detail.clone().unwrap())
}

/// Effects, from a server whose connections may have been lost.
pub(crate) async fn effects_of(server: &PrivatePostgres) -> Vec<u64> {
    let mut effects = server.world().await.effects().await;
    effects.sort_unstable();
    effects
}

/// Retries that come soon.
pub(crate) fn quick() -> Retry {
    Retry::exponential(Duration::from_millis(1)..Duration::from_millis(5)).attempts(5)
}
