//! A database that is down, restarted, frozen, locked, read-only: bounded waits, clear conditions, and recovery without
//! a restart of the process.

use std::time::{Duration, Instant};

use crate::common::store::{Placed, Pool, PrivatePostgres, Seen, World, sqlite_options};
use crate::common::{end, eventually};
use postroom::{
    Bus, DatabaseProblem, Lifecycle, LifecycleKind, Migrations, Postgres, Problem, Relay, Sqlite,
    StartError, WhenDown,
};

/// A private server, started beside the test's runtime.
fn trouble(bus: &Bus) -> Option<String> {
    let health = bus.health();
    let mut conditions = health.conditions().iter();
    let found = conditions.find(|condition| condition.problem == Problem::Database);
    found.map(|condition| condition.detail.clone().unwrap())
}

fn impatient(pool: &sqlx::PgPool) -> Postgres {
    Postgres::new(pool)
        .statement_timeout(Duration::from_millis(500))
        .lock_timeout(Duration::from_millis(200))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_and_started_again_loses_and_repeats_nothing() {
    let server = PrivatePostgres::begin().await;
    let world = server.world().await;
    let Pool::Postgres(pool) = world.pool() else {
        return;
    };
    let (told, events) = (Seen::default(), Seen::default());
    let bus = Bus::builder("shop")
        .store(impatient(pool))
        .relay(World::relay())
        .start()
        .await
        .unwrap();
    let noted = events.clone();
    bus.subscribe_fn::<Lifecycle, _>("lifecycle", async move |event, _| {
        if event.subject == "shop.store" {
            noted.note(match event.kind {
                LifecycleKind::Disconnected => 0,
                LifecycleKind::Connected => 1,
                _ => 2,
            });
        }
        Ok(())
    })
    .start()
    .await
    .unwrap();
    told.subscribe(&bus).await;
    for order in 0..500 {
        let mut tx = world.begin().await;
        tx.place(&bus, order).await;
        tx.commit().await;
    }
    server.told("kill").await;
    eventually("its health says so", || trouble(&bus).is_some()).await;
    assert!(!bus.health().is_ready());
    assert!(bus.health().is_live());
    let begun = Instant::now();
    server.told("start").await;
    eventually("it is well again", || trouble(&bus).is_none()).await;
    assert!(begun.elapsed() < Duration::from_secs(15));
    let mut tx = loop {
        // Connections of the pool that were lost are found out one after another.
        match pool.begin().await {
            Ok(tx) => break crate::common::store::Tx::Postgres(tx),
            Err(_) => tokio::task::yield_now().await,
        }
    };
    tx.place(&bus, 500).await;
    tx.commit().await;
    world.until_rows("published", 501).await;
    eventually("all are handled", || told.len() >= 501).await;
    assert_eq!(told.sorted(), (0..=500).collect::<Vec<_>>());
    eventually("it is told", || events.orders() == [0, 1]).await;
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_is_not_waited_for_and_comes_back() {
    let server = PrivatePostgres::begin().await;
    let world = server.world().await;
    let Pool::Postgres(pool) = world.pool() else {
        return;
    };
    let (bus, seen) = (
        Bus::builder("shop")
            .store(impatient(pool))
            .relay(World::relay())
            .start()
            .await
            .unwrap(),
        Seen::default(),
    );
    seen.subscribe(&bus).await;
    // A start does not wait for ever for its tables.
    eventually("its tables are there", || trouble(&bus).is_none()).await;
    let mut tx = world.begin().await;
    for order in 0..100 {
        tx.place(&bus, order).await;
    }
    tx.commit().await;
    server.told("freeze").await;
    eventually("its health says so", || {
        trouble(&bus).is_some_and(|text| text.contains("did not answer in time"))
    })
    .await;
    server.told("thaw").await;
    world.until_rows("published", 100).await;
    eventually("it is well again", || trouble(&bus).is_none()).await;
    assert_eq!(seen.sorted(), (0..100).collect::<Vec<_>>());
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_is_started_while_its_database_is_down() {
    let server = PrivatePostgres::begin().await;
    let url = server.url.replace("postroom@", "postroom:hunter2@");
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    server.told("kill").await;
    let store =
        || Postgres::with_options(options.clone()).statement_timeout(Duration::from_secs(1));
    let failed = Bus::builder("shop")
        .store(store())
        .store_when_down(WhenDown::Fail)
        .start()
        .await;
    let error = match failed {
        Err(StartError::Store(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(error.problem(), DatabaseProblem::Unreachable);
    let texts = format!("{error} {error:?} {:?}", store());
    assert!(!texts.contains("hunter2"), "{texts}");
    let bus = Bus::builder("shop")
        .store(store())
        .relay(World::relay())
        .start()
        .await
        .unwrap();
    assert!(trouble(&bus).is_some_and(|text| text.contains("cannot be reached")));
    assert!(!trouble(&bus).unwrap().contains("hunter2"));
    server.told("start").await;
    eventually("it is well again", || trouble(&bus).is_none()).await;
    let (world, seen) = (server.world().await, Seen::default());
    seen.subscribe(&bus).await;
    let mut tx = world.begin().await;
    tx.place(&bus, 1).await;
    tx.commit().await;
    eventually("it is handled", || seen.orders() == [1]).await;
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_does_not_wait_for_a_database_that_is_down() {
    let server = PrivatePostgres::begin().await;
    let world = server.world().await;
    let Pool::Postgres(pool) = world.pool() else {
        return;
    };
    let (bus, seen) = (
        Bus::builder("shop")
            .store(impatient(pool))
            .start()
            .await
            .unwrap(),
        Seen::default(),
    );
    seen.subscribe(&bus).await;
    server.told("freeze").await;
    let begun = Instant::now();
    let report = bus.shutdown(Duration::from_secs(3)).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{report:?}");
    server.told("thaw").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serializable_transactions_of_the_application_do_not_fail_for_the_relay() {
    let server = PrivatePostgres::begin().await;
    let world = server.world().await;
    world
        .run("ALTER DATABASE postroom SET default_transaction_isolation = 'serializable'")
        .await;
    let Pool::Postgres(pool) = world.pool() else {
        return;
    };
    let mut relays = Vec::new();
    for number in 0..2 {
        let relay = World::relay().lease(Duration::from_secs(1)).clean_batch(5);
        let bus = Bus::builder(format!("relay-{number}"))
            .store(Postgres::new(pool))
            .relay(relay);
        relays.push((bus.start().await.unwrap(), Seen::default()));
    }
    for (bus, seen) in &relays {
        seen.subscribe(bus).await;
    }
    for order in 0..2_000 {
        let mut tx = world.begin().await;
        tx.place(&relays[0].0, order).await;
        tx.commit().await;
    }
    world.until_rows("published", 2_000).await;
    let all = || {
        relays
            .iter()
            .flat_map(|(_, seen)| seen.orders())
            .collect::<Vec<_>>()
    };
    eventually("all are handled", || all().len() >= 2_000).await;
    let mut all = all();
    all.sort_unstable();
    assert!(all.iter().copied().eq(0..2_000));
    for (bus, _) in &relays {
        eventually("it is well", || trouble(bus).is_none()).await;
        end(bus).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_becomes_read_only_is_told_of_and_comes_back() {
    let server = PrivatePostgres::begin().await;
    let world = server.world().await;
    let Pool::Postgres(pool) = world.pool() else {
        return;
    };
    let (bus, seen) = (
        Bus::builder("shop")
            .store(impatient(pool))
            .relay(World::relay().lease(Duration::from_secs(1))),
        Seen::default(),
    );
    let bus = bus.start().await.unwrap();
    seen.subscribe(&bus).await;
    world
        .run("ALTER SYSTEM SET default_transaction_read_only = on")
        .await;
    world.run("SELECT pg_reload_conf()").await;
    eventually("its health says so", || {
        trouble(&bus).is_some_and(|text| text.contains("is read-only"))
    })
    .await;
    world.run("SET default_transaction_read_only = off; ").await;
    let mut tx = pool.acquire().await.unwrap();
    sqlx::raw_sql("SET default_transaction_read_only = off")
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::raw_sql("ALTER SYSTEM RESET default_transaction_read_only")
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::raw_sql("SELECT pg_reload_conf()")
        .execute(&mut *tx)
        .await
        .unwrap();
    eventually("it is well again", || trouble(&bus).is_none()).await;
    let mut tx = world.begin().await;
    tx.place(&bus, 1).await;
    tx.commit().await;
    world.until_rows("published", 1).await;
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_file_is_waited_for_in_bounds_and_nothing_is_published_twice() {
    let world = World::sqlite().await;
    let Pool::Sqlite(pool) = world.pool() else {
        return;
    };
    let store = Sqlite::new(pool).busy_timeout(Duration::from_millis(50));
    let relay = World::relay().lease(Duration::from_secs(30));
    let (bus, seen) = (
        Bus::builder("shop")
            .store(store)
            .relay(relay)
            .start()
            .await
            .unwrap(),
        Seen::default(),
    );
    let mut tx = world.begin().await;
    for order in 0..50 {
        tx.place(&bus, order).await;
    }
    tx.commit().await;
    // The relay has its lanes, and then another process writes for a long time.
    seen.subscribe(&bus).await;
    eventually("they are handled", || seen.len() == 50).await;
    world.until_rows("published", 50).await;
    let mut tx = world.begin().await;
    for order in 50..60 {
        tx.place(&bus, order).await;
    }
    tx.commit().await;
    let lock = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    eventually("they are handled, though they cannot be marked", || {
        seen.len() == 60
    })
    .await;
    eventually("its health says so", || {
        trouble(&bus).is_some_and(|text| text.contains("is locked"))
    })
    .await;
    lock.rollback().await.unwrap();
    world.until_rows("published", 60).await;
    eventually("it is well again", || trouble(&bus).is_none()).await;
    assert_eq!(seen.sorted(), (0..60).collect::<Vec<_>>(), "none twice");
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_takes_no_writes_is_told_of() {
    let world = World::sqlite().await;
    end(&world.bus().await).await;
    let options = sqlite_options(world.address().as_ref())
        .read_only(true)
        .create_if_missing(false);
    let bus = Bus::builder("shop")
        .store(Sqlite::with_options(options))
        .relay(Relay::new().start_with_bus());
    let bus = bus.start().await.unwrap();
    eventually("its health says so", || {
        trouble(&bus).is_some_and(|text| text.contains("is read-only"))
    })
    .await;
    bus.shutdown(Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_in_memory_is_refused() {
    let pool = sqlx::SqlitePool::connect("sqlite::memory:").await.unwrap();
    let store = Sqlite::new(&pool);
    let failed = Bus::builder("shop")
        .store(store)
        .store_when_down(WhenDown::Fail)
        .start()
        .await;
    match failed {
        Err(StartError::Store(error)) => {
            assert_eq!(error.problem(), DatabaseProblem::Configuration);
            assert!(error.to_string().contains("in memory"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_nobody_has_made_are_told_of_and_used_when_they_are_there() {
    let world = World::sqlite().await;
    let Pool::Sqlite(pool) = world.pool() else {
        return;
    };
    let store = Sqlite::new(pool).prefix("mail_");
    let assuming = || {
        Bus::builder("shop")
            .store(store.clone())
            .migrations(Migrations::Assume)
            .relay(World::relay())
    };
    let failed = assuming().store_when_down(WhenDown::Fail).start().await;
    match failed {
        Err(StartError::Store(error)) => assert_eq!(error.problem(), DatabaseProblem::Schema),
        other => panic!("{other:?}"),
    }
    let bus = assuming().start().await.unwrap();
    assert!(trouble(&bus).is_some_and(|text| text.contains("migrate them")));
    // By the user's own tool: the statements, in order.
    let schema = "CREATE TABLE mail_schema (version INTEGER PRIMARY KEY, name TEXT NOT NULL, \
                  applied_at TEXT NOT NULL DEFAULT (datetime()))";
    world.run(schema).await;
    for migration in postroom::Store::migrations(&store) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(migration.sql))
            .execute(pool)
            .await
            .unwrap();
    }
    eventually("it is well again", || trouble(&bus).is_none()).await;
    let seen = Seen::default();
    seen.subscribe(&bus).await;
    let mut tx = pool.begin().await.unwrap();
    bus.publish(Placed { order: 1 })
        .in_transaction(&mut tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    eventually("it is handled", || seen.orders() == [1]).await;
    // A program that is older than its tables does not touch them.
    world
        .run("INSERT INTO mail_schema (version, name) VALUES (99, 'of tomorrow')")
        .await;
    end(&bus).await;
    let failed = Bus::builder("shop")
        .store(store)
        .store_when_down(WhenDown::Fail)
        .start()
        .await;
    match failed {
        Err(StartError::Store(error)) => {
            assert!(error.to_string().contains("of version 99"), "{error}")
        }
        other => panic!("{other:?}"),
    }
}
