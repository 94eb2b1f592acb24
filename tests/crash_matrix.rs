//! The crash matrix of the outbox: a process dies, as by `kill -9`, at each named point, while it writes transactions
//! and relays them. Afterwards another relays the rest. The oracle knows by ids: what committed is published, what did
//! not is not, and only what was published and not marked yet is published twice, with the same id.
//!
//! `POSTROOM_CRASH_ROUNDS` is how often each cell runs (1), each time at another passing of its point.
#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use common::end;
use common::process::{Cell, Notes, dies_at, rounds, task};
use common::store::{Placed, Pool, Seen, Tx, World};
use postroom::{Bus, Interceptor, RawMessage, Relay};

/// A point, and at which passing of it the process dies first.
const POINTS: [(&str, u64); 13] = [
    ("before-insert", 20),
    ("after-insert", 20),
    ("before-commit", 20),
    ("after-commit", 20),
    ("before-claim", 3),
    ("after-claim", 3),
    ("before-publish", 20),
    ("after-publish", 20),
    ("after-confirm", 20),
    ("before-mark", 2),
    ("after-mark", 2),
    ("before-clean-up", 4),
    ("after-clean-up", 4),
];

/// The relay's window. The most that may be published twice is twice as much: those on their way, and those that are
/// published and not marked yet.
const WINDOW: u32 = 16;

/// What is accepted is written down.
struct Log(Notes);

impl Interceptor for Log {
    fn accepted(&self, message: RawMessage<'_>) {
        if let Ok(placed) = message.decode::<Placed>() {
            self.0.write(placed.order, message.envelope().id());
        }
    }
}

async fn bus(world: &World, service: &str, log: &Path) -> Bus {
    let relay = Relay::new()
        .lease(Duration::from_secs(1))
        .window(WINDOW)
        .slow_poll(Duration::from_millis(100))
        .keep_published(Duration::from_millis(400));
    let bus = world
        .with_store(Bus::builder(service))
        .relay(relay)
        .intercept(Log(Notes::open(log)));
    let bus = bus.start().await.unwrap();
    Seen::default().subscribe(&bus).await;
    bus
}

/// Not a test by itself: the process that dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies() {
    let Some(task) = task() else {
        return;
    };
    let (address, log) = task.split_once(' ').unwrap();
    let world = World::found_at(address).await;
    let bus = bus(&world, "child", Path::new(log)).await;
    for order in 0.. {
        let mut tx = world.begin().await;
        let insert = format!("INSERT INTO orders (id) VALUES ({order})");
        let insert = sqlx::AssertSqlSafe(insert);
        match &mut tx {
            Tx::Sqlite(tx) => drop(sqlx::query(insert).execute(&mut **tx).await.unwrap()),
            Tx::Postgres(tx) => drop(sqlx::query(insert).execute(&mut **tx).await.unwrap()),
        }
        match order % 5 {
            0 => tx.place(&bus, order).await,
            key => tx.place_keyed(&bus, order, &key.to_string()).await,
        };
        if order % 7 == 3 {
            tx.roll_back().await;
        } else {
            tx.commit_by(&bus).await;
        }
    }
}

async fn cell(world: World, point: &str, passing: u64) {
    let what = format!("{point}:{passing}");
    end(&world.bus().await).await;
    let key = if world.is_sqlite() {
        "INTEGER"
    } else {
        "BIGINT"
    };
    world
        .run(&format!("CREATE TABLE orders (id {key} PRIMARY KEY)"))
        .await;
    let log = std::env::temp_dir().join(format!("postroom-crash-{:x}", fastrand::u64(..)));
    let task = format!("{} {}", world.address(), log.display());
    dies_at(&what, "a_process_that_dies", &task).await;

    let bus = bus(&world, "heir", &log).await;
    let left = "SELECT count(*) FROM postroom_outbox WHERE status <> 'published'";
    world.until(left, 0).await;
    end(&bus).await;
    let committed: BTreeSet<u64> = match world.pool() {
        Pool::Sqlite(pool) => {
            sqlx::query_scalar::<_, i64>("SELECT id FROM orders")
                .fetch_all(pool)
                .await
        }
        Pool::Postgres(pool) => {
            sqlx::query_scalar("SELECT id FROM orders")
                .fetch_all(pool)
                .await
        }
    }
    .unwrap()
    .into_iter()
    .map(|id| id as u64)
    .collect();
    let published = Notes::read(&log);
    assert!(!committed.is_empty(), "{what}");
    let published_orders: BTreeSet<u64> = published.keys().copied().collect();
    assert_eq!(published_orders, committed, "{what}");
    let mut repeated = 0;
    for (order, ids) in &published {
        assert!(
            ids.iter().all(|id| *id == ids[0]),
            "{what}: {order} has several ids"
        );
        repeated += ids.len() - 1;
    }
    // Whatever the point, rows may be on their way at that moment.
    assert!(
        repeated <= 2 * WINDOW as usize,
        "{what}: {repeated} published twice"
    );
    Cell {
        what: "outbox",
        database: world.database(),
        died_at: &what,
        kept: committed.len(),
        lost: committed.difference(&published_orders).count(),
        repeated,
    }
    .record();
    std::fs::remove_file(log).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_sqlite() {
    for (point, first) in POINTS {
        for round in 0..rounds() {
            cell(World::sqlite().await, point, first + round).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_postgres() {
    for (point, first) in POINTS {
        for round in 0..rounds() {
            cell(World::postgres().await, point, first + round).await;
        }
    }
}
