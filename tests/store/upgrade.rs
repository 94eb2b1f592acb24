//! Tables of an earlier version are brought to this one with what is in them, by one process at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::inbox::{Db, duplicates, over_both_stores, stock};
use crate::common::store::{Placed, Pool, Seen, World};
use crate::common::{end, eventually};
use postroom::{Bus, Filter, Migration, Postgres, Sqlite, Store};
use sqlx::AssertSqlSafe;

over_both_stores!(
    what_each_earlier_version_left_is_taken_up_by_this_one,
    each_version_is_made_as_it_was,
    many_processes_that_start_at_once_migrate_once,
);

/// The tables of that version and what its program left in them, as they were written down then.
fn left_by(world: &World, version: usize) -> String {
    let database = if world.is_sqlite() {
        "sqlite"
    } else {
        "postgres"
    };
    let file = format!(
        "{}/tests/store/upgrades/{database}-{version}.sql",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"))
}

async fn run_all(world: &World, sql: String) {
    let sql = AssertSqlSafe(sql);
    match world.pool() {
        Pool::Sqlite(pool) => drop(sqlx::raw_sql(sql).execute(pool).await.unwrap()),
        Pool::Postgres(pool) => drop(sqlx::raw_sql(sql).execute(pool).await.unwrap()),
    }
}

async fn clear(world: &World) {
    let tables = "outbox lanes relays inbox queue consumers dead_letters schema";
    let tables = tables.split(' ').map(|table| format!("postroom_{table}"));
    for table in tables.chain(["effects".to_owned()]) {
        world.run(&format!("DROP TABLE IF EXISTS {table}")).await;
    }
}

fn migrations(world: &World) -> Vec<Migration> {
    match world.pool() {
        Pool::Sqlite(pool) => Sqlite::new(pool).migrations(),
        Pool::Postgres(pool) => Postgres::new(pool).migrations(),
    }
}

/// Columns and indexes, each as a text.
async fn shape(world: &World) -> BTreeSet<String> {
    let sql = match world.is_sqlite() {
        true => {
            "SELECT name || ': ' || coalesce(sql, '') FROM sqlite_master WHERE name LIKE 'postroom%'"
        }
        false => {
            "SELECT concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default, is_identity) \
             FROM information_schema.columns WHERE table_schema = current_schema() \
             UNION ALL SELECT replace(indexdef, current_schema() || '.', '') FROM pg_indexes \
             WHERE schemaname = current_schema()"
        }
    };
    let without_comments = |text: String| {
        let lines = text.lines().map(|line| line.split("--").next().unwrap());
        let words = lines.flat_map(str::split_whitespace);
        words.collect::<Vec<_>>().join(" ")
    };
    let texts = world.texts(sql).await;
    texts.into_iter().map(without_comments).collect()
}

/// A migration that was released is never changed: what it made is out there.
async fn each_version_is_made_as_it_was<S: Db>(world: World) {
    let all = migrations(&world);
    for version in 1..=all.len() {
        clear(&world).await;
        run_all(&world, left_by(&world, version)).await;
        let then = shape(&world).await;
        assert!(then.len() > 8, "{then:?}");
        clear(&world).await;
        // Where the versions stand is made by whoever migrates.
        let left = left_by(&world, version);
        let schema = left.split_inclusive(");\n").next().unwrap().to_owned();
        assert!(schema.contains("postroom_schema"), "{schema}");
        run_all(&world, schema).await;
        for migration in &all[..version] {
            run_all(&world, migration.sql.clone()).await;
        }
        assert_eq!(shape(&world).await, then, "version {version}");
        assert_eq!(world.number(VERSION).await, version as i64);
    }
}

const VERSION: &str = "SELECT CAST(max(version) AS BIGINT) FROM postroom_schema";

/// Subscribes by a durable queue that writes down orders and attempts.
async fn keep(bus: &Bus) -> Arc<Mutex<BTreeSet<(u64, u32)>>> {
    let kept = Arc::<Mutex<BTreeSet<(u64, u32)>>>::default();
    let noted = Arc::clone(&kept);
    bus.subscribe_fn::<Placed, _>("kept", async move |placed, cx| {
        noted.lock().unwrap().insert((placed.order, cx.attempt()));
        Ok(())
    })
    .durable()
    .start()
    .await
    .unwrap();
    kept
}

async fn what_each_earlier_version_left_is_taken_up_by_this_one<S: Db>(world: World) {
    let newest = migrations(&world).len();
    for version in 1..=newest {
        clear(&world).await;
        run_all(&world, left_by(&world, version)).await;
        assert_eq!(world.number(VERSION).await, version as i64);
        world.make_effects().await;
        let (bus, seen) = (world.bus().await, Seen::default());
        let what = format!("of version {version}");
        assert_eq!(world.number(VERSION).await, newest as i64, "{what}");
        let kept = keep(&bus).await;
        stock::<S>(&bus).await;
        // Starts the relay too.
        seen.subscribe(&bus).await;

        // The outbox: what waited, for a retry or for its time, and what was given up.
        eventually("what waited is handled", || seen.len() >= 4).await;
        let orders = seen.orders();
        let at = |order| orders.iter().position(|seen| *seen == order);
        assert!(at(1) < at(2), "a key's order, {what}: {orders:?}");
        let outbox = bus.outbox().unwrap();
        let dead = outbox.dead(10).await.unwrap();
        assert_eq!(dead.len(), 1, "{what}");
        assert_eq!(dead[0].attempts, 10, "{what}");
        assert!(outbox.replay(&dead[0].id).await.unwrap());
        eventually("what was given up is replayed", || seen.len() >= 5).await;
        assert_eq!(seen.sorted(), [1, 2, 3, 4, 6], "{what}");
        assert_eq!(world.rows("scheduled").await, 1, "{what}");

        // The inbox: what was handled is known.
        let is_known = version >= 2;
        let handled: &[u64] = if is_known {
            &[2, 3, 4, 6]
        } else {
            &[1, 2, 3, 4, 6]
        };
        world.until_effects(handled.len() as i64).await;
        assert_eq!(world.sorted_effects().await, handled, "{what}");
        eventually("the duplicate is counted", || {
            duplicates(&bus) == u64::from(is_known)
        })
        .await;

        // Durable queues, and dead letters.
        let mut expected: BTreeSet<_> = [1, 2, 3, 4, 6].map(|order| (order, 1)).into();
        if version >= 3 {
            expected.extend([(11, 1), (12, 3), (13, 1)]);
            let letters = bus.dead_letters();
            let all = letters.list(&Filter::all()).await.unwrap();
            assert_eq!(all.len(), 1, "{what}");
            assert_eq!((&*all[0].queue, &*all[0].errors[0]), ("kept", "never"));
            letters.replay(all[0].id).await.unwrap();
        }
        eventually("what was queued is handled", || {
            *kept.lock().unwrap() == expected
        })
        .await;
        // A dead letter that another program made is in no book of this one.
        bus.shutdown(Duration::from_secs(5)).await;
    }
}

async fn many_processes_that_start_at_once_migrate_once<S: Db>(world: World) {
    let starts: Vec<_> = (0..8)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move { world.bus().await })
        })
        .collect();
    for start in starts {
        let bus = start.await.unwrap();
        eventually("its tables are there", || {
            let health = bus.health();
            let mut conditions = health.conditions().iter();
            !conditions.any(|found| found.problem == postroom::Problem::Database)
        })
        .await;
        end(&bus).await;
    }
    let newest = migrations(&world).len() as i64;
    let count = "SELECT count(*) FROM postroom_schema";
    assert_eq!(world.number(count).await, newest, "each step once");
}
