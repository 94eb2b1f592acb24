//! Transactional handlers over a database that is down, locked, slow, or lost at the worst moment.

use std::time::{Duration, Instant};

use crate::common::inbox::{duplicates, effects_of, quick, stock, take, trouble};
use crate::common::store::{Placed, Pool, PrivatePostgres, World};
use crate::common::{Door, Log, end, eventually, queue};
use postroom::{Bus, Failure, Postgres, Retry, Sqlite};

async fn bus(world: &World) -> Bus {
    let builder = match world.pool() {
        Pool::Postgres(pool) => Bus::builder("shop").store(
            Postgres::new(pool)
                .statement_timeout(Duration::from_millis(1000))
                .lock_timeout(Duration::from_millis(300)),
        ),
        Pool::Sqlite(pool) => {
            Bus::builder("shop").store(Sqlite::new(pool).busy_timeout(Duration::from_millis(100)))
        }
    };
    let bus = builder.relay(World::relay()).start().await.unwrap();
    bus.outbox().unwrap().start_relay();
    bus
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_wait_for_a_database_that_is_down_and_spend_no_attempt() {
    let server = PrivatePostgres::begin().await;
    let world = server.world().await;
    world.make_effects().await;
    let bus = bus(&world).await;
    let attempts = Log::new();
    let noted = attempts.clone();
    bus.transactional_fn::<Placed, Postgres, _>("stock", async move |placed, cx| {
        noted.push((placed.order, cx.attempt()));
        take(cx, placed.order).await
    })
    .retry(quick())
    .start()
    .await
    .unwrap();
    // Its connection is one that was used, and is lost.
    bus.publish(Placed { order: 0 }).await.unwrap();
    eventually("the first is handled", || queue(&bus, "stock").acked == 1).await;
    server.told("kill").await;
    for order in 1..10 {
        bus.publish(Placed { order }).await.unwrap();
    }
    eventually("its health says so", || {
        trouble(&bus, "stock").is_some_and(|text| text.contains("cannot be reached"))
    })
    .await;
    assert!(!bus.health().is_ready() && bus.health().is_live());
    // Long enough for more tries than there are attempts.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    server.told("start").await;
    eventually("all are handled", || queue(&bus, "stock").acked == 10).await;
    assert!(trouble(&bus, "stock").is_none());
    let wanted: Vec<_> = (0..10).map(|order| (order, 1)).collect();
    assert_eq!(attempts.all(), wanted);
    assert_eq!(effects_of(&server).await, (0..10).collect::<Vec<_>>());
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_lost_in_the_middle_fails_the_attempt_and_the_next_one_succeeds() {
    let server = PrivatePostgres::begin().await;
    let world = server.world().await;
    world.make_effects().await;
    let bus = bus(&world).await;
    let (inside, door) = (Log::new(), Door::closed());
    let (noted, waits) = (inside.clone(), door.clone());
    bus.transactional_fn::<Placed, Postgres, _>("stock", async move |placed, cx| {
        take(cx, placed.order).await?;
        noted.push(cx.attempt());
        waits.pass().await;
        Ok(())
    })
    .retry(quick())
    .start()
    .await
    .unwrap();
    bus.publish(Placed { order: 7 }).await.unwrap();
    eventually("it is in the middle", || inside.len() == 1).await;
    server.told("kill").await;
    door.open();
    eventually("the attempt has failed, and the next waits", || {
        trouble(&bus, "stock").is_some()
    })
    .await;
    server.told("start").await;
    eventually("it is handled", || queue(&bus, "stock").acked == 1).await;
    assert_eq!(inside.all(), [1, 2]);
    assert_eq!(effects_of(&server).await, [7]);
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_holds_messages_in_bounds() {
    let server = PrivatePostgres::begin().await;
    let world = server.world().await;
    world.make_effects().await;
    let bus = bus(&world).await;
    stock::<Postgres>(&bus).await;
    bus.publish(Placed { order: 0 }).await.unwrap();
    world.until_effects(1).await;
    server.told("freeze").await;
    bus.publish(Placed { order: 1 }).await.unwrap();
    eventually("its health says so", || {
        trouble(&bus, "stock").is_some_and(|text| text.contains("did not answer in time"))
    })
    .await;
    server.told("thaw").await;
    world.until_effects(2).await;
    eventually("it is well again", || trouble(&bus, "stock").is_none()).await;
    end(&bus).await;
    assert_eq!(world.sorted_effects().await, [0, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serializable_transactions_count_each_message_once() {
    let server = PrivatePostgres::begin().await;
    let world = server.world().await;
    world
        .run("ALTER DATABASE postroom SET default_transaction_isolation = 'serializable'")
        .await;
    world.run("CREATE TABLE counter (units BIGINT)").await;
    world.run("INSERT INTO counter VALUES (0)").await;
    let bus = bus(&world).await;
    bus.transactional_fn::<Placed, Postgres, _>("count", async |_, cx| {
        let units: i64 = sqlx::query_scalar("SELECT units FROM counter")
            .fetch_one(&mut *cx.tx())
            .await?;
        tokio::task::yield_now().await;
        sqlx::query("UPDATE counter SET units = $1")
            .bind(units + 1)
            .execute(cx.tx())
            .await?;
        Ok(())
    })
    .workers(4)
    .retry(Retry::exponential(Duration::from_millis(1)..Duration::from_millis(20)).attempts(1000))
    .start()
    .await
    .unwrap();
    for order in 0..60 {
        bus.publish(Placed { order }).await.unwrap();
    }
    eventually("all are handled", || queue(&bus, "count").acked == 60).await;
    assert!(queue(&bus, "count").retried > 0, "nothing was contested");
    assert_eq!(world.number("SELECT units FROM counter").await, 60);
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_another_is_writing_is_waited_for() {
    let world = World::postgres().await;
    world.make_effects().await;
    let bus = bus(&world).await;
    bus.transactional_fn::<Placed, Postgres, _>("stock", async |placed, cx| {
        assert_eq!(cx.attempt(), 1);
        take(cx, placed.order).await
    })
    .timeout(Duration::from_millis(600))
    .start()
    .await
    .unwrap();
    for commits in [false, true] {
        let mut tx = world.begin().await;
        let id = tx.place(&bus, u64::from(commits)).await.id;
        let mut writing = world.begin().await;
        let crate::common::store::Tx::Postgres(other) = &mut writing else {
            return;
        };
        let record = format!("INSERT INTO postroom_inbox VALUES ('stock', '{id}')");
        sqlx::query(sqlx::AssertSqlSafe(record))
            .execute(&mut **other)
            .await
            .unwrap();
        tx.commit_by(&bus).await;
        // Longer than half of the timeout: it is given up, and tried again.
        eventually("it is held", || trouble(&bus, "stock").is_some()).await;
        match commits {
            true => writing.commit().await,
            false => writing.roll_back().await,
        }
        let settled = if commits { 2 } else { 1 };
        eventually("it is settled", || queue(&bus, "stock").acked == settled).await;
    }
    assert_eq!(world.effects().await, [0]);
    assert_eq!(duplicates(&bus), 1);
    assert_eq!(queue(&bus, "stock").retried, 0);
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_wait_for_a_file_that_is_locked_and_hold_up_neither_pause_nor_stop() {
    let world = World::sqlite().await;
    world.make_effects().await;
    let bus = bus(&world).await;
    let attempts = Log::new();
    let noted = attempts.clone();
    let stock = bus
        .transactional_fn::<Placed, Sqlite, _>("stock", async move |placed, cx| {
            noted.push((placed.order, cx.attempt()));
            match (placed.order, cx.attempt()) {
                (2, 1) => Err(Failure::retry("not yet")),
                _ => take(cx, placed.order).await,
            }
        })
        .retry(quick())
        .start()
        .await
        .unwrap();
    let Pool::Sqlite(pool) = world.pool() else {
        return;
    };
    let lock = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    for order in 0..4 {
        bus.publish(Placed { order }).await.unwrap();
    }
    eventually("its health says so", || {
        trouble(&bus, "stock").is_some_and(|text| text.contains("is locked"))
    })
    .await;
    stock.pause();
    eventually("it has put them down", || {
        let queue = queue(&bus, "stock");
        (queue.queued, queue.in_flight) == (4, 0)
    })
    .await;
    stock.resume().await;
    eventually("it tries again", || queue(&bus, "stock").in_flight > 0).await;
    lock.rollback().await.unwrap();
    world.until_effects(4).await;
    assert_eq!(
        attempts.all(),
        [(0, 1), (1, 1), (2, 1), (3, 1), (2, 2)],
        "the wait counted for nothing"
    );
    eventually("it is well again", || trouble(&bus, "stock").is_none()).await;
    // And a stop in such a wait.
    let lock = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    bus.publish(Placed { order: 4 }).await.unwrap();
    eventually("it is held", || trouble(&bus, "stock").is_some()).await;
    let begun = Instant::now();
    let report = stock.stop(Duration::from_secs(2)).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{report:?}");
    eventually("who is gone has no trouble", || {
        trouble(&bus, "stock").is_none()
    })
    .await;
    lock.rollback().await.unwrap();
    bus.shutdown(Duration::from_secs(5)).await;
    assert_eq!(world.effects().await, [0, 1, 3, 2]);
}
