//! Tables of an earlier version are brought to this one with what is in them, by one process at a time.
#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod common;

use common::store::{Pool, Seen, World, over_both};
use common::{end, eventually};
use postroom::{Migration, Postgres, Sqlite, Store};
use sqlx::AssertSqlSafe;

over_both!(
    rows_of_each_earlier_version_are_published_by_this_one,
    many_processes_that_start_at_once_migrate_once,
);

fn migrations(world: &World) -> Vec<Migration> {
    match world.pool() {
        Pool::Sqlite(pool) => Sqlite::new(pool).migrations(),
        Pool::Postgres(pool) => Postgres::new(pool).migrations(),
    }
}

/// Makes the tables as the program of that version did.
async fn make(world: &World, version: usize) {
    let now = match world.is_sqlite() {
        true => "TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
        false => "TIMESTAMPTZ NOT NULL DEFAULT now()",
    };
    world
        .run(&format!(
            "CREATE TABLE postroom_schema (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at {now})"
        ))
        .await;
    for migration in migrations(world).into_iter().take(version) {
        let sql = AssertSqlSafe(migration.sql);
        match world.pool() {
            Pool::Sqlite(pool) => drop(sqlx::raw_sql(sql).execute(pool).await.unwrap()),
            Pool::Postgres(pool) => drop(sqlx::raw_sql(sql).execute(pool).await.unwrap()),
        }
    }
}

const VERSION: &str = "SELECT CAST(max(version) AS BIGINT) FROM postroom_schema";

async fn rows_of_each_earlier_version_are_published_by_this_one(world: World) {
    let newest = migrations(&world).len();
    for version in 1..=newest {
        let tables = "outbox lanes relays inbox queue consumers dead_letters schema";
        for table in tables.split(' ') {
            world
                .run(&format!("DROP TABLE IF EXISTS postroom_{table}"))
                .await;
        }
        make(&world, version).await;
        assert_eq!(world.number(VERSION).await, version as i64);
        // What its program left behind: a row that waits, one that is given up, and one that is published.
        for (id, status) in [(1, "waiting"), (2, "dead"), (3, "published")] {
            world
                .run(&format!(
                    "INSERT INTO postroom_outbox (id, kind, address, lane, body, status) VALUES \
                     ('01970000-0000-7000-8000-00000000000{id}', 'event', 'ordering.order-placed', 1, \
                     '{{\"order\":{id}}}', '{status}')"
                ))
                .await;
        }
        let (bus, seen) = (world.bus().await, Seen::default());
        assert_eq!(world.number(VERSION).await, newest as i64);
        seen.subscribe(&bus).await;
        eventually("what waited is handled", || seen.len() >= 1).await;
        let outbox = bus.outbox().unwrap();
        let dead = outbox.dead(10).await.unwrap();
        assert_eq!(dead.len(), 1, "of version {version}");
        assert!(outbox.replay(&dead[0].id).await.unwrap());
        eventually("what was given up is replayed", || seen.len() >= 2).await;
        assert_eq!(seen.orders(), [1, 2], "of version {version}");
        end(&bus).await;
    }
}

async fn many_processes_that_start_at_once_migrate_once(world: World) {
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
