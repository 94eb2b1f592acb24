//! Durable queues go on by themselves, and at once, when what held them up is over; and meanwhile they ask for nothing that they
//! cannot have.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::store::{Placed, Pool, Seen, World, over_both};
use crate::common::{Door, end, eventually};
use postroom::{Bus, Context, Durable, Failure, Filter, Problem, Relay, Retry};

over_both!(
    what_is_to_be_waited_for_for_ever_holds_up_nothing_else,
    a_process_is_ready_again_though_nobody_writes_any_more,
);

/// Longer than is waited for here: only what rings tells.
const SLOW: Duration = Duration::from_secs(600);

async fn bus(world: &World, durable: Durable) -> Bus {
    let builder = match world.is_sqlite() {
        true => world.builder(),
        false => {
            let store = world.postgres_store().notify();
            Bus::builder("shop").store(store.lock_timeout(Duration::from_millis(200)))
        }
    };
    builder.durable_settings(durable).start().await.unwrap()
}

fn is_in_trouble(bus: &Bus) -> bool {
    let health = bus.health();
    let mut conditions = health.conditions().iter();
    conditions.any(|found| found.problem == Problem::Database)
}

/// Looks at the table of queues, as PostgreSQL counts them.
async fn looks(world: &World) -> i64 {
    world
        .number(
            "SELECT CAST(coalesce(sum(seq_scan + idx_scan), 0) AS BIGINT) FROM pg_stat_user_tables \
             WHERE relname = 'postroom_queue' AND schemaname = current_schema",
        )
        .await
}

/// Its row is due for as long as it is in hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retried_message_that_is_in_hand_is_no_reason_to_look_again() {
    let world = World::postgres().await;
    let bus = bus(&world, Durable::new().slow_poll(SLOW)).await;
    let (door, started) = (Door::closed(), Seen::default());
    let handler = {
        let (door, started) = (door.clone(), started.clone());
        async move |placed: &Placed, cx: &mut Context<'_>| {
            if cx.attempt() == 1 {
                return Err(Failure::retry_after(Duration::from_millis(20), "once"));
            }
            started.note(placed.order);
            door.pass().await;
            Ok(())
        }
    };
    let subscriber = bus.subscribe_fn::<Placed, _>("seen", handler).durable();
    subscriber.start().await.unwrap();
    bus.publish(Placed { order: 1 }).await.unwrap();
    eventually("it is started again", || started.len() == 1).await;
    // What is counted of a connection comes within a second.
    let begun = Instant::now();
    let mut before = looks(&world).await;
    let mut asked = 0;
    while begun.elapsed() < Duration::from_secs(4) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = looks(&world).await;
        asked = now - before;
        if begun.elapsed() < Duration::from_millis(1500) {
            before = now;
        }
    }
    // Three seconds of it: the count of rows, at most.
    assert!(asked < 20, "{asked} looks");
    door.open();
    eventually("it is settled", || {
        crate::common::queue(&bus, "seen").acked == 1
    })
    .await;
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_while_the_table_is_locked_is_read_when_it_is_free() {
    let world = World::postgres().await;
    let bus = bus(&world, Durable::new().slow_poll(SLOW)).await;
    let seen = Seen::default();
    let handler = {
        let seen = seen.clone();
        async move |placed: &Placed, cx: &mut Context<'_>| {
            if cx.attempt() == 1 {
                return Err(Failure::retry_after(Duration::from_millis(400), "once"));
            }
            seen.note(placed.order);
            Ok(())
        }
    };
    let subscriber = bus.subscribe_fn::<Placed, _>("seen", handler).durable();
    subscriber.start().await.unwrap();
    bus.publish(Placed { order: 1 }).await.unwrap();
    let waits = "SELECT count(*) FROM postroom_queue WHERE due_at IS NOT NULL";
    world.until(waits, 1).await;
    let mut tx = world.begin().await;
    tx.run("LOCK TABLE postroom_queue IN ACCESS EXCLUSIVE MODE")
        .await;
    eventually("it could not be read", || is_in_trouble(&bus)).await;
    assert_eq!(seen.len(), 0);
    tx.roll_back().await;
    eventually("it is handled", || seen.len() == 1).await;
    eventually("all is well", || !is_in_trouble(&bus)).await;
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_is_told_to_the_process_that_consumes() {
    let world = World::postgres().await;
    let durable = || Durable::new().slow_poll(SLOW);
    let (first, second) = (bus(&world, durable()).await, bus(&world, durable()).await);
    let seen = Arc::new(Seen::default());
    for bus in [&first, &second] {
        let seen = Arc::clone(&seen);
        let handler = async move |placed: &Placed, _: &mut Context<'_>| {
            seen.note(placed.order);
            match seen.len() {
                1 => Err(Failure::reject("the first time")),
                _ => Ok(()),
            }
        };
        let subscriber = bus.subscribe_fn::<Placed, _>("seen", handler).durable();
        subscriber.start().await.unwrap();
        eventually("it is held", || first.snapshot().durable.unwrap().held == 1).await;
    }
    first.publish(Placed { order: 1 }).await.unwrap();
    world
        .until("SELECT count(*) FROM postroom_dead_letters", 1)
        .await;
    let letters = second.dead_letters();
    let letter = letters.list(&Filter::all()).await.unwrap()[0].id;
    letters.replay(letter).await.unwrap();
    eventually("it is handled again", || seen.len() == 2).await;
    eventually("it is settled", || {
        crate::common::queue(&first, "seen").acked == 1
    })
    .await;
    // Of the letter one has the making in its books, and the other the replay.
    for bus in [second, first] {
        assert!(bus.shutdown(crate::common::PATIENCE).await.clean);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_beside_another_one_waits_for_what_becomes_of_it() {
    let world = World::postgres().await;
    let bus = world.builder().start().await.unwrap();
    let handler = async |_: &Placed, _: &mut Context<'_>| Err(Failure::reject("never"));
    let subscriber = bus.subscribe_fn::<Placed, _>("seen", handler).durable();
    subscriber.start().await.unwrap();
    bus.publish(Placed { order: 1 }).await.unwrap();
    let letters = "SELECT count(*) FROM postroom_dead_letters";
    world.until(letters, 1).await;
    let found = bus.dead_letters().list(&Filter::all()).await.unwrap();
    let mut other = world.begin().await;
    other
        .run("SELECT id FROM postroom_dead_letters FOR UPDATE")
        .await;
    let replaying = {
        let (bus, id) = (bus.clone(), found[0].id);
        tokio::spawn(async move { bus.dead_letters().replay(id).await })
    };
    // A row's lock is waited for under one of its place.
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'tuple' \
                   AND relation = 'postroom_dead_letters'::regclass";
    world.until(waiting, 1).await;
    other.run("DELETE FROM postroom_dead_letters").await;
    other.commit().await;
    replaying.await.unwrap().unwrap();
    let queued = "SELECT count(*) FROM postroom_queue";
    assert_eq!(
        world.number(queued).await,
        0,
        "it was not handed back twice"
    );
    end(&bus).await;
}

/// A count that takes longer than a statement may ends the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_cannot_be_counted_in_time_is_written_to() {
    let world = World::postgres().await;
    let paused = |bus: Bus| async move {
        let subscription = Seen::default().subscribe_durable(&bus).await;
        subscription.pause();
        bus
    };
    let first = paused(world.bus().await).await;
    first.publish(Placed { order: 0 }).await.unwrap();
    end(&first).await;
    // Whoever counts rows waits at each of them.
    for statement in [
        "ALTER TABLE postroom_queue RENAME TO kept",
        "CREATE FUNCTION is_seen() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$ BEGIN \
         IF current_query() LIKE 'SELECT count(%' THEN PERFORM pg_sleep(60); END IF; \
         RETURN true; END $$",
        "CREATE VIEW postroom_queue AS SELECT * FROM kept WHERE is_seen()",
    ] {
        world.run(statement).await;
    }
    let store = world.postgres_store();
    let store = store.statement_timeout(Duration::from_millis(200));
    let bus = Bus::builder("shop").store(store).start().await.unwrap();
    let bus = paused(bus).await;
    for order in 1..20 {
        let publish = bus.publish(Placed { order });
        publish.timeout(crate::common::PATIENCE).await.unwrap();
    }
    eventually("the count was given up", || {
        bus.snapshot().outbox.unwrap().database_errors > 0
    })
    .await;
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_ready_again_though_it_has_nothing_to_read_any_more() {
    let world = World::postgres().await;
    let bus = bus(&world, Durable::new().slow_poll(Duration::from_millis(100))).await;
    let seen = Seen::default();
    let subscription = seen.subscribe_durable(&bus).await;
    bus.publish(Placed { order: 1 }).await.unwrap();
    eventually("it is handled", || seen.len() == 1).await;
    world.until("SELECT count(*) FROM postroom_queue", 0).await;
    let mut tx = world.begin().await;
    tx.run("LOCK TABLE postroom_queue IN ACCESS EXCLUSIVE MODE")
        .await;
    eventually("it could not be read", || is_in_trouble(&bus)).await;
    subscription.stop(crate::common::PATIENCE).await;
    // The last look was given up too: it does not find the table free.
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted \
                   AND relation = 'postroom_queue'::regclass";
    world.until(waiting, 0).await;
    tx.roll_back().await;
    eventually("it is ready again", || !is_in_trouble(&bus)).await;
    end(&bus).await;
}

async fn what_is_to_be_waited_for_for_ever_holds_up_nothing_else(world: World) {
    let ever = Duration::MAX;
    let relay = Relay::new()
        .slow_poll(ever)
        .lease(ever)
        .keep_handled(ever)
        .keep_published(ever)
        .publish_timeout(ever)
        .backoff(ever..ever)
        .start_with_bus();
    let durable = Durable::new().slow_poll(ever).lease(ever);
    let bus = world.builder().relay(relay).durable_settings(durable);
    let bus = bus.start().await.unwrap();
    let seen = Seen::default();
    let handler = {
        let seen = seen.clone();
        async move |placed: &Placed, _: &mut Context<'_>| match placed.order {
            0 => Err(Failure::retry_after(ever, "not in this life")),
            order => {
                seen.note(order);
                Ok(())
            }
        }
    };
    let subscriber = bus.subscribe_fn::<Placed, _>("seen", handler).durable();
    let policy = Retry::fixed(Duration::from_secs(1));
    subscriber.retry(policy).start().await.unwrap();
    for order in 0..10 {
        bus.publish(Placed { order }).await.unwrap();
    }
    eventually("the others are handled", || seen.len() == 9).await;
    // All of their rows are gone, and the one that failed waits in the table.
    world.until("SELECT count(*) FROM postroom_queue", 1).await;
    world
        .until(
            "SELECT count(*) FROM postroom_queue WHERE attempts = 1 AND due_at IS NOT NULL",
            1,
        )
        .await;
    let mut tx = world.begin().await;
    tx.place(&bus, 10).await;
    tx.commit_by(&bus).await;
    eventually("what the outbox has too", || seen.len() == 10).await;
    eventually("nothing is wrong", || !is_in_trouble(&bus)).await;
    assert_eq!(bus.snapshot().durable.unwrap().lost, 0);
    end(&bus).await;
}

async fn a_process_is_ready_again_though_nobody_writes_any_more(world: World) {
    let bus = bus(&world, Durable::new()).await;
    let seen = Seen::default();
    seen.subscribe_durable(&bus).await;
    bus.publish(Placed { order: 1 }).await.unwrap();
    eventually("it is handled", || seen.len() == 1).await;
    // As a disk that is full says it.
    let refusing = match world.pool() {
        Pool::Sqlite(_) => "",
        Pool::Postgres(_) => {
            world
                .run(
                    "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS \
                     $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$",
                )
                .await;
            world
                .run(
                    "CREATE TRIGGER is_full BEFORE INSERT ON postroom_queue \
                     FOR EACH ROW EXECUTE FUNCTION full_disk()",
                )
                .await;
            "DROP TRIGGER is_full ON postroom_queue"
        }
    };
    // SQLite is locked by another writer meanwhile.
    let tx = match world.is_sqlite() {
        true => Some(world.begin().await),
        false => None,
    };
    let publish = bus.publish(Placed { order: 2 });
    publish.timeout(Duration::from_secs(1)).await.unwrap_err();
    eventually("it is unready", || is_in_trouble(&bus)).await;
    match tx {
        Some(tx) => tx.roll_back().await,
        None => world.run(refusing).await,
    }
    eventually("it is ready again", || !is_in_trouble(&bus)).await;
    end(&bus).await;
}
