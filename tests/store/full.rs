//! A database that is full: a SQLite file that may not grow any more, a PostgreSQL that says that its disk is.

use std::time::Duration;

use crate::common::store::{Placed, Seen, World, sqlite_options};
use crate::common::{end, eventually};
use postroom::{Bus, DatabaseProblem, Problem, Refusal, Sqlite, TransactionRefusal};
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

/// A server that says so, as PostgreSQL does when its disk is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_disk_is_full_refuses_what_is_written_and_is_well_again() {
    let world = World::postgres().await;
    let bus = world.builder().start().await.unwrap();
    let seen = Seen::default();
    seen.subscribe(&bus).await;
    let durable = Seen::default();
    let note = durable.clone();
    bus.subscriber("durable", move || note.clone())
        .on::<Placed>()
        .durable()
        .start()
        .await
        .unwrap();
    let mut tx = world.begin().await;
    tx.place(&bus, 1).await;
    tx.commit().await;
    eventually("both have it", || seen.len() + durable.len() == 2).await;
    world
        .run(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$",
        )
        .await;
    for table in ["postroom_outbox", "postroom_queue", "postroom_dead_letters"] {
        world
            .run(&format!(
                "CREATE TRIGGER full_disk BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION full_disk()"
            ))
            .await;
    }
    let mut tx = world.begin().await;
    let refused = tx
        .write(bus.publish(Placed { order: 2 }))
        .await
        .unwrap_err();
    let TransactionRefusal::Database(error) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(error.problem(), DatabaseProblem::Full);
    tx.roll_back().await;
    let publish = bus
        .publish(Placed { order: 2 })
        .timeout(Duration::from_millis(300));
    let refused = publish.await.unwrap_err();
    assert!(
        matches!(
            refused.kind(),
            Refusal::NotStored { .. } | Refusal::Unconfirmed { .. }
        ),
        "{:?}",
        refused.kind()
    );
    assert_eq!(refused.into_message().unwrap().order, 2);
    eventually("its health says so", || {
        let health = bus.health();
        let mut conditions = health.conditions().iter();
        conditions.any(|condition| condition.problem == Problem::Database)
    })
    .await;
    for table in ["postroom_outbox", "postroom_queue", "postroom_dead_letters"] {
        world
            .run(&format!("DROP TRIGGER full_disk ON {table}"))
            .await;
    }
    let publish = bus.publish(Placed { order: 3 });
    publish.await.unwrap();
    eventually("it is well again", || bus.health().is_ready()).await;
    eventually("both have it", || {
        seen.orders() == [1, 3] && durable.orders().ends_with(&[3])
    })
    .await;
    end(&bus).await;
}
