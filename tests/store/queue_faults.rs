//! Durable queues whose database is down or locked, whose messages it does not take, or whose process was stopped for
//! longer than its lease: bounded waits, clear conditions, recovery without a restart, and nothing lost.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::common::process::{Process, task};
use crate::common::store::{Placed, Pool, PrivatePostgres, Seen, Tx, World, over_both};
use crate::common::{Door, end, eventually};
use postroom::parts::{
    BuriedRow, Failures, QueueWrite, RetriedRow, StoreSession, TakeQueued, TakenRow,
};
use postroom::{
    Bus, Context, Durable, Failure, Order, Postgres, Problem, Refusal, Retry, Sqlite, Store,
};

over_both!(
    the_settlement_of_a_process_that_lost_its_queue_is_refused,
    a_process_stopped_beyond_its_lease_cannot_settle_what_its_successor_has,
    a_message_that_the_database_does_not_take_is_refused_alone,
);

const ROWS: &str = "SELECT count(*) FROM postroom_queue";

fn durable() -> Durable {
    Durable::new()
        .lease(Duration::from_secs(1))
        .slow_poll(Duration::from_millis(200))
}

async fn start(world: &World) -> Bus {
    let builder = world.builder().durable_settings(durable());
    builder.start().await.unwrap()
}

fn trouble(bus: &Bus) -> bool {
    let health = bus.health();
    let mut conditions = health.conditions().iter();
    conditions.any(|found| found.problem == Problem::Database && found.subject == "shop.queues")
}

async fn session(world: &World) -> Box<dyn StoreSession> {
    let store: Box<dyn Store> = match world.pool() {
        Pool::Sqlite(pool) => Box::new(Sqlite::new(pool)),
        // The search path of the pool is the world's schema.
        Pool::Postgres(pool) => Box::new(Postgres::new(pool)),
    };
    store.open().await.unwrap()
}

async fn the_settlement_of_a_process_that_lost_its_queue_is_refused(world: World) {
    let bus = start(&world).await;
    let subscription = Seen::default().subscribe_durable(&bus).await;
    subscription.pause();
    for order in 0..3 {
        bus.publish(Placed { order }).await.unwrap();
    }
    end(&bus).await;
    let (mut old, mut new) = (session(&world).await, session(&world).await);
    let queues = ["seen".to_owned()];
    let lease = Duration::from_millis(200);
    let held = old.hold_queues("old", lease, &queues, &[]).await.unwrap();
    assert_eq!((held[0].queue.as_str(), held[0].fence), ("seen", 2));
    let others = new.hold_queues("new", lease, &queues, &[]).await.unwrap();
    assert!(others.is_empty(), "it is not free: {others:?}");
    let all = TakeQueued {
        queue: "seen".to_owned(),
        most: 10,
        except: Vec::new(),
    };
    let rows = old.take_queued(&all).await.unwrap();
    assert_eq!(rows.len(), 3);
    // The old one stands still, its lease runs out by the database's clock, and the new one takes over.
    let end_at = Instant::now() + crate::common::PATIENCE;
    let long = Duration::from_secs(60);
    loop {
        let held = new.hold_queues("new", long, &queues, &[]).await.unwrap();
        if let Some(held) = held.first() {
            assert_eq!(held.fence, 3);
            break;
        }
        assert!(Instant::now() < end_at);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let row = |at: usize, fence| TakenRow {
        position: rows[at].row.position,
        fence,
    };
    let failures = || Failures {
        attempts: 1,
        errors: vec!["it\0failed".to_owned()],
        first_failed_ms: 1_700_000_000_123,
        last_failed_ms: 1_700_000_001_456,
        awaited_handler: true,
    };
    let write = |fence| QueueWrite {
        done: vec![row(0, fence)],
        retried: vec![RetriedRow {
            row: row(1, fence),
            failures: failures(),
            delay: Some(Duration::from_millis(1)),
        }],
        buried: vec![BuriedRow {
            row: row(2, fence),
            letter: postroom::MessageId::new().to_string(),
            reason: "exhausted".to_owned(),
            failures: failures(),
        }],
        ..QueueWrite::default()
    };
    for (holder, fence) in [("old", 2), ("old", 3), ("new", 2)] {
        let written = old.write_queues(holder, &write(fence)).await.unwrap();
        assert_eq!(
            (written.done, written.retried.len(), written.buried.len()),
            (0, 0, 0),
            "{holder} {fence}"
        );
    }
    assert_eq!(world.number(ROWS).await, 3, "nothing was settled");
    let untouched = "SELECT count(*) FROM postroom_queue WHERE attempts = 0 AND due_at IS NULL";
    assert_eq!(world.number(untouched).await, 3);
    let settled = write(3);
    // Once, and again when it is not known whether it was done.
    for done in [1, 0] {
        let written = new.write_queues("new", &settled).await.unwrap();
        assert_eq!(written.done, done);
        assert_eq!(written.retried, [rows[1].row.position]);
        assert_eq!(written.buried, [rows[2].row.position]);
    }
    let letters = "SELECT count(*) FROM postroom_dead_letters";
    assert_eq!(world.number(letters).await, 1);
    // What is in hand is no reason to ask again.
    let taken = [rows[1].row.position];
    assert!(new.next_queued("seen", &[]).await.unwrap().is_some());
    assert!(new.next_queued("seen", &taken).await.unwrap().is_none());
    // What was written is read back as it was.
    let end_at = Instant::now() + crate::common::PATIENCE;
    let again = loop {
        let again = new.take_queued(&all).await.unwrap();
        if !again.is_empty() {
            break again;
        }
        assert!(Instant::now() < end_at);
    };
    assert_eq!(again.len(), 1);
    let mut expected = failures();
    expected.errors = vec!["it\u{fffd}failed".to_owned()];
    assert_eq!(again[0].failures, Some(expected));
    assert!(again[0].has_waited);
}

/// Not a test by itself: the process that is stopped. It takes its time with each message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_with_a_queue() {
    let Some(task) = task() else {
        return;
    };
    let (address, file) = task.split_once(' ').unwrap();
    let world = World::found_at(address).await;
    let bus = world
        .with_store(Bus::builder("child"))
        .durable_settings(durable());
    let bus = bus.start().await.unwrap();
    let file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(file)
        .unwrap();
    bus.subscribe_fn::<Placed, _>("seen", async move |placed, _| {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut file = &file;
        let line = format!("{}\n", placed.order);
        file.write_all(line.as_bytes()).unwrap();
        Ok(())
    })
    .durable()
    .start()
    .await
    .unwrap();
    std::future::pending::<()>().await;
}

async fn a_process_stopped_beyond_its_lease_cannot_settle_what_its_successor_has(world: World) {
    let bus = start(&world).await;
    let path = std::env::temp_dir().join(format!("postroom-handled-{:x}", fastrand::u64(..)));
    let task = format!("{} {}", world.address(), path.display());
    let child = Process::start("queue_faults::a_process_with_a_queue", &task);
    let by_child = || -> Vec<u64> {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    };
    let held =
        "SELECT count(*) FROM postroom_consumers WHERE queue = 'seen' AND holder LIKE 'child/%'";
    // Its tables are there before it asks.
    world
        .until(
            "SELECT count(*) FROM postroom_schema WHERE name = 'queues'",
            1,
        )
        .await;
    world.until(held, 1).await;
    let seen = Seen::default();
    let subscription = seen.subscribe_durable(&bus).await;
    subscription.pause();
    for order in 0..30 {
        bus.publish(Placed { order }).await.unwrap();
    }
    eventually("the child handles", || by_child().len() >= 5).await;
    // Between two of its commits, so that SQLite's lock is free: the next is some 100 ms away.
    let before = by_child().len();
    eventually("it has written the last one", || by_child().len() > before).await;
    tokio::time::sleep(Duration::from_millis(40)).await;
    child.stop();
    let ours =
        "SELECT count(*) FROM postroom_consumers WHERE queue = 'seen' AND holder LIKE 'shop/%'";
    world.until(ours, 1).await;
    eventually("the successor has them in hand", || {
        subscription.snapshot().queued > 0
    })
    .await;
    let left = world.number(ROWS).await;
    assert_eq!(left as u64, subscription.snapshot().queued);
    let done = by_child().len();
    child.signal("-CONT");
    eventually("the child ends what it had begun", || {
        by_child().len() > done
    })
    .await;
    // It has to be seen for a while that nothing comes of it: longer than a lease.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(world.number(ROWS).await, left, "nothing of it was settled");
    assert_eq!(by_child().len(), done + 1, "and it began nothing more");
    subscription.resume().await;
    world.until(ROWS, 0).await;
    let mut all = by_child();
    all.extend(seen.orders());
    all.sort_unstable();
    all.dedup();
    assert_eq!(all, (0..30).collect::<Vec<_>>());
    end(&bus).await;
    let _ = std::fs::remove_file(path);
}

async fn a_message_that_the_database_does_not_take_is_refused_alone(world: World) {
    let bus = start(&world).await;
    let seen = Seen::default();
    seen.subscribe_durable(&bus).await;
    // PostgreSQL has no text with a NUL in it; SQLite has.
    let is_taken = world.is_sqlite();
    let mut publishers = Vec::new();
    for order in 0..40 {
        let bus = bus.clone();
        publishers.push(tokio::spawn(async move {
            let publish = bus.publish(Placed { order });
            match order % 20 {
                7 => publish.correlation("a\0b").await.map(drop),
                _ => publish.await.map(drop),
            }
        }));
    }
    for (order, publisher) in publishers.into_iter().enumerate() {
        let answer = publisher.await.unwrap();
        if order % 20 == 7 && !is_taken {
            let refused = answer.unwrap_err();
            assert!(
                matches!(refused.kind(), Refusal::NotStored { .. }),
                "{refused}"
            );
            assert_eq!(refused.into_message().unwrap().order, order as u64);
        } else {
            answer.unwrap();
        }
    }
    let expected: Vec<u64> = (0..40)
        .filter(|order| is_taken || order % 20 != 7)
        .collect();
    world.until(ROWS, 0).await;
    eventually("all are handled", || seen.len() >= expected.len()).await;
    assert_eq!(seen.sorted(), expected);
    eventually("it is well again", || !trouble(&bus)).await;
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_and_started_again_loses_nothing() {
    let server = PrivatePostgres::begin().await;
    let world = server.world().await;
    let Pool::Postgres(pool) = world.pool() else {
        return;
    };
    let store = Postgres::new(pool)
        .statement_timeout(Duration::from_millis(500))
        .lock_timeout(Duration::from_millis(200));
    let builder = Bus::builder("shop")
        .store(store)
        .durable_settings(durable());
    let bus = builder.start().await.unwrap();
    let seen = Seen::default();
    let subscription = seen.subscribe_durable(&bus).await;
    subscription.pause();
    for order in 0..20 {
        bus.publish(Placed { order }).await.unwrap();
    }
    server.told("kill").await;
    subscription.resume().await;
    let begun = Instant::now();
    let late = bus
        .publish(Placed { order: 99 })
        .timeout(Duration::from_millis(400))
        .await
        .unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(
        matches!(
            late.kind(),
            Refusal::NotStored { .. } | Refusal::Unconfirmed { .. }
        ),
        "{late}"
    );
    let is_unknown = matches!(late.kind(), Refusal::Unconfirmed { .. });
    assert_eq!(late.into_message().unwrap().order, 99);
    eventually("its health says so", || trouble(&bus)).await;
    assert!(!bus.health().is_ready() && bus.health().is_live());
    let waiting: Vec<_> = (20..40)
        .map(|order| {
            let bus = bus.clone();
            tokio::spawn(async move { bus.publish(Placed { order }).await.map(drop) })
        })
        .collect();
    server.told("start").await;
    for waiting in waiting {
        waiting.await.unwrap().unwrap();
    }
    eventually("all are handled", || {
        let mut orders = seen.sorted();
        orders.retain(|order| *order != 99);
        orders.dedup();
        orders == (0..40).collect::<Vec<_>>()
    })
    .await;
    assert!(is_unknown || !seen.orders().contains(&99));
    eventually("it is well again", || !trouble(&bus)).await;
    eventually("all are settled", || {
        let books = subscription.snapshot();
        books.queued + books.in_flight + books.waiting == 0
    })
    .await;
    end(&bus).await;
}

/// Until the transaction ends the leases can be read, not renewed; they have run out by then.
async fn a_lease_runs_out(world: &World) -> Tx {
    let mut tx = world.begin().await;
    tx.run("LOCK TABLE postroom_consumers IN SHARE MODE").await;
    // A process regards its own as run out before the database does.
    let valid = "SELECT count(*) FROM postroom_consumers WHERE leased_until > clock_timestamp()";
    world.until(valid, 0).await;
    tx
}

/// A lease that could not be renewed in time, and was not taken by another process, is the same lease again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_while_a_lease_had_run_out_is_handled_as_soon_as_it_is_renewed() {
    let world = World::postgres().await;
    // Longer than is waited for here: only the renewal tells.
    let durable = durable().slow_poll(Duration::from_secs(600));
    let bus = world
        .builder()
        .durable_settings(durable)
        .start()
        .await
        .unwrap();
    let seen = Seen::default();
    seen.subscribe_durable(&bus).await;
    bus.publish(Placed { order: 0 }).await.unwrap();
    eventually("it is held", || seen.len() == 1).await;
    let tx = a_lease_runs_out(&world).await;
    bus.publish(Placed { order: 1 }).await.unwrap();
    assert_eq!(seen.orders(), [0]);
    tx.roll_back().await;
    eventually("it is handled", || seen.len() == 2).await;
    let fence = "SELECT fence FROM postroom_consumers";
    assert_eq!(world.number(fence).await, 1, "it was taken over anew");
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_up_while_a_lease_has_run_out_is_not_handled_again() {
    let world = World::postgres().await;
    let bus = start(&world).await;
    let (door, seen) = (Door::closed(), Seen::default());
    let handler = {
        let (door, seen) = (door.clone(), seen.clone());
        async move |placed: &Placed, _: &mut Context<'_>| {
            seen.note(placed.order);
            door.pass().await;
            Err(Failure::reject("no"))
        }
    };
    let subscriber = bus.subscribe_fn::<Placed, _>("seen", handler).durable();
    subscriber.start().await.unwrap();
    bus.publish(Placed { order: 1 }).await.unwrap();
    eventually("it is in hand", || seen.len() == 1).await;
    let tx = a_lease_runs_out(&world).await;
    door.open();
    world
        .until("SELECT count(*) FROM postroom_dead_letters", 1)
        .await;
    tx.roll_back().await;
    // The next one shows that the queue goes on.
    bus.publish(Placed { order: 2 }).await.unwrap();
    world.until(ROWS, 0).await;
    assert_eq!(seen.orders(), [1, 2]);
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_at_once_is_not_begun_while_a_lease_has_run_out() {
    let world = World::postgres().await;
    let bus = start(&world).await;
    let (door, tried) = (Door::closed(), Seen::default());
    let handler = {
        let (door, tried) = (door.clone(), tried.clone());
        async move |_: &Placed, cx: &mut Context<'_>| {
            tried.note(u64::from(cx.attempt()));
            if cx.attempt() > 1 {
                return Ok(());
            }
            door.pass().await;
            Err(Failure::retry("again"))
        }
    };
    let subscriber = bus.subscribe_fn::<Placed, _>("seen", handler).durable();
    let subscriber = subscriber.retry(Retry::fixed(Duration::ZERO).attempts(3).immediate(2));
    let subscription = subscriber.start().await.unwrap();
    bus.publish(Placed { order: 1 }).await.unwrap();
    eventually("it is in hand", || tried.len() == 1).await;
    let tx = a_lease_runs_out(&world).await;
    door.open();
    eventually("it is given back", || {
        subscription.snapshot().in_flight == 0
    })
    .await;
    let noted = "SELECT count(*) FROM postroom_queue WHERE attempts = 1";
    world.until(noted, 1).await;
    assert_eq!(tried.orders(), [1], "another process may have it");
    tx.roll_back().await;
    world.until(ROWS, 0).await;
    assert_eq!(tried.orders(), [1, 2], "its failed attempt counts");
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_waits_holds_up_no_other_one_after_a_late_renewal() {
    let world = World::postgres().await;
    let bus = start(&world).await;
    let (failed, seen) = (Seen::default(), Seen::default());
    let handler = {
        let (failed, seen) = (failed.clone(), seen.clone());
        async move |placed: &Placed, _: &mut Context<'_>| match placed.order {
            1 => {
                failed.note(1);
                let long = Duration::from_secs(600);
                Err(Failure::retry_after(long, "not in this test"))
            }
            order => {
                seen.note(order);
                Ok(())
            }
        }
    };
    let subscriber = bus.subscribe_fn::<Placed, _>("seen", handler).durable();
    let subscriber = subscriber.order(Order::Keyed { lanes: 4 });
    let subscription = subscriber.start().await.unwrap();
    let publish = async |order, key| drop(bus.publish(Placed { order }).key(key).await.unwrap());
    publish(1, "a").await;
    publish(2, "a").await;
    eventually("one waits, and one is behind it", || {
        let books = subscription.snapshot();
        failed.len() == 1 && (books.waiting, books.queued) == (1, 1)
    })
    .await;
    let tx = a_lease_runs_out(&world).await;
    publish(3, "b").await;
    tx.roll_back().await;
    eventually("the other key goes on", || seen.len() == 1).await;
    assert_eq!(seen.orders(), [3]);
    eventually("it is behind it again", || {
        let books = subscription.snapshot();
        (books.waiting, books.queued) == (1, 1)
    })
    .await;
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_file_is_waited_for_and_gives_the_message_back() {
    let world = World::sqlite().await;
    let Pool::Sqlite(pool) = world.pool() else {
        return;
    };
    let store = Sqlite::new(pool).busy_timeout(Duration::from_millis(100));
    let builder = Bus::builder("shop")
        .store(store)
        .durable_settings(durable());
    let bus = builder.start().await.unwrap();
    let seen = Seen::default();
    seen.subscribe_durable(&bus).await;
    bus.publish(Placed { order: 0 }).await.unwrap();
    world.until(ROWS, 0).await;
    let lock = world.begin().await;
    let begun = Instant::now();
    let publish = bus.publish(Placed { order: 1 });
    let refused = publish.timeout(Duration::from_millis(300)).await;
    let refused = refused.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(5));
    let is_unknown = matches!(refused.kind(), Refusal::Unconfirmed { .. });
    assert!(
        is_unknown || matches!(refused.kind(), Refusal::NotStored { .. }),
        "{refused}"
    );
    eventually("its health says so", || trouble(&bus)).await;
    let waiting = tokio::spawn({
        let bus = bus.clone();
        async move { bus.publish(Placed { order: 2 }).await.map(drop) }
    });
    eventually("the lock is waited for", || {
        begun.elapsed() > Duration::from_secs(1)
    })
    .await;
    lock.roll_back().await;
    waiting.await.unwrap().unwrap();
    eventually("it is handled", || seen.orders().contains(&2)).await;
    eventually("it is well again", || !trouble(&bus)).await;
    if !is_unknown {
        assert_eq!(seen.orders(), [0, 2], "what was given back is not written");
    }
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_with_a_database_that_does_not_answer_ends_in_time() {
    const DEADLINE: Duration = Duration::from_secs(2);
    let server = PrivatePostgres::begin().await;
    let world = server.world().await;
    let bus = start(&world).await;
    let seen = Seen::default();
    let kept = seen.subscribe_durable(&bus).await;
    // Gives up what it is sent, so that its dead letter has to be stored.
    bus.subscribe_fn::<Placed, _>("in-memory", async |_: &Placed, _: &mut Context<'_>| {
        Err(Failure::reject(std::io::Error::other("no")))
    })
    .start()
    .await
    .unwrap();
    kept.pause();
    for order in 0..20 {
        bus.publish(Placed { order }).await.unwrap();
    }
    eventually("all have been given up", || {
        bus.snapshot().queue("in-memory").unwrap().dead_lettered == 20
    })
    .await;
    server.told("freeze").await;
    kept.resume().await;
    // Handled, and not settled; and what is published meanwhile is not stored.
    eventually("all are handled", || seen.len() == 20).await;
    let published = ["now", "later"].map(|when| {
        let publish = bus.clone();
        tokio::spawn(async move {
            let publish = publish.publish(Placed { order: 99 });
            let publish = match when {
                "now" => publish,
                _ => publish.delay(Duration::from_secs(60)),
            };
            publish.await.map(drop)
        })
    });
    tokio::task::yield_now().await;
    let begun = Instant::now();
    let report = bus.shutdown(DEADLINE).await;
    let took = begun.elapsed();
    assert!(
        took < DEADLINE + Duration::from_secs(1),
        "{took:?}, {report:?}"
    );
    for published in published {
        // At once, and not only at its own deadline.
        let refused = tokio::time::timeout(Duration::from_secs(10), published).await;
        let refused = refused.unwrap().unwrap().unwrap_err();
        assert_eq!(refused.into_message().unwrap().order, 99);
    }
    server.told("thaw").await;
    // What was not known to be settled is handled once more, and nothing is lost.
    let heir = start(&world).await;
    let again = Seen::default();
    again.subscribe_durable(&heir).await;
    world
        .until(
            "SELECT count(*) FROM postroom_queue WHERE queue = 'seen'",
            0,
        )
        .await;
    end(&heir).await;
    assert!(
        again
            .orders()
            .iter()
            .all(|order| *order < 20 || *order == 99)
    );
}
