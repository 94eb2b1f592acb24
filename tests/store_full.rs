//! A SQLite file that may not grow any more.
#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod common;

use std::time::Duration;

use common::store::{Placed, Seen, World, sqlite_options};
use common::{end, eventually};
use postroom::{Bus, DatabaseProblem, Problem, Sqlite, TransactionRefusal};
use sqlx::sqlite::SqlitePoolOptions;

/// Every connection of the pool, and of the store by its options, stops there.
const PAGES: &str = "100";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_file_refuses_what_is_written_and_loses_nothing_that_is_in_it() {
    let world = World::sqlite().await;
    let options = sqlite_options(world.address().as_ref()).pragma("max_page_count", PAGES);
    let open = SqlitePoolOptions::new().max_connections(2);
    let pool = open.clone().connect_with(options.clone()).await.unwrap();
    let bus = Bus::builder("shop")
        .store(Sqlite::new(&pool))
        .relay(World::relay().keep_published(Duration::ZERO))
        .start()
        .await
        .unwrap();
    // One row in each transaction, until one is refused.
    let mut written = 0;
    let refused = loop {
        let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
        let publish = bus.publish(Placed { order: written });
        let publish = publish.header("padding", &"x".repeat(500));
        match publish.in_transaction(&mut tx).await {
            Ok(_) => tx.commit().await.unwrap(),
            Err(error) => break error,
        }
        written += 1;
        assert!(written < 10_000, "it is never full");
    };
    match refused.kind() {
        TransactionRefusal::Database(error) => assert_eq!(error.problem(), DatabaseProblem::Full),
        other => panic!("{other}"),
    }
    assert_eq!(refused.into_message().order, written, "given back");
    assert_eq!(world.rows("waiting").await, written as i64);
    // To publish them makes room, though a mark may need a page first: nothing is started anew.
    let seen = Seen::default();
    seen.subscribe(&bus).await;
    eventually("all are handled", || seen.len() as u64 >= written).await;
    world.until_rows("waiting", 0).await;
    assert_eq!(seen.sorted(), (0..written).collect::<Vec<_>>(), "once each");
    eventually("it is well", || {
        let health = bus.health();
        let mut conditions = health.conditions().iter();
        !conditions.any(|found| found.problem == Problem::Database)
    })
    .await;
    // SQLite has rolled back the refused transaction by itself, which sqlx's connection does not know.
    pool.close().await;
    let pool = open.connect_with(options).await.unwrap();
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let publish = bus.publish(Placed { order: written });
    publish.in_transaction(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    eventually("there is room again", || seen.len() as u64 == written + 1).await;
    end(&bus).await;
}
