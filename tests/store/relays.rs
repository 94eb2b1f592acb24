//! Several relays on one outbox: shares, handing over, and one that was stopped for longer than its lease.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::common::process::{Process, task};
use crate::common::store::{Placed, Pool, Seen, World, over_both, sqlite_options};
use crate::common::{end, eventually};
use postroom::parts::{FailedRow, HeldLane, PublishedRow, StoreSession, StoredRow, TakeRows};
use postroom::{Bus, DatabaseProblem, Postgres, Relay, Sqlite, Store};
use sqlx::ConnectOptions;

over_both!(
    four_relays_publish_50_000_rows_none_twice,
    a_relay_that_comes_gets_its_share_and_one_that_goes_leaves_it,
    the_mark_of_a_relay_that_lost_its_lane_is_refused,
    a_relay_stopped_beyond_its_lease_cannot_overwrite_its_successor,
    a_failure_that_is_written_twice_counts_once,
);

const LANES: usize = 32;

async fn relay_of(world: &World, service: &str, relay: Relay) -> (Bus, Seen) {
    let builder = world.with_store(Bus::builder(service)).relay(relay);
    (builder.start().await.unwrap(), Seen::default())
}

async fn four_relays_publish_50_000_rows_none_twice(world: World) {
    const ROWS: u64 = 50_000;
    let mut relays = Vec::new();
    for number in 0..4 {
        let lease = World::relay().lease(Duration::from_secs(20));
        let (bus, seen) = relay_of(&world, &format!("relay-{number}"), lease).await;
        relays.push((bus, seen));
    }
    // The first two from the beginning, the others while rows are under way.
    for (bus, seen) in &relays[..2] {
        seen.subscribe(bus).await;
    }
    let writer = relays[0].0.clone();
    for batch in 0..ROWS / 500 {
        if batch == 20 {
            for (bus, seen) in &relays[2..] {
                seen.subscribe(bus).await;
            }
        }
        let mut tx = world.begin().await;
        for order in batch * 500..(batch + 1) * 500 {
            match order % 3 {
                0 => {
                    tx.place_keyed(&writer, order, &(order % 101).to_string())
                        .await
                }
                _ => tx.place(&writer, order).await,
            };
        }
        tx.commit().await;
    }
    let published = || -> u64 {
        let counts = relays.iter().map(|(bus, _)| bus.snapshot().outbox.unwrap());
        counts
            .map(|counts| counts.published + counts.fenced_out)
            .sum()
    };
    let end_at = Instant::now() + Duration::from_secs(120);
    while published() < ROWS {
        assert!(Instant::now() < end_at, "{} of {ROWS}", published());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let handled = || {
        relays
            .iter()
            .map(|(_, seen)| seen.len() as u64)
            .sum::<u64>()
    };
    eventually("all are handled", || handled() >= ROWS).await;
    let mut all: Vec<u64> = relays.iter().flat_map(|(_, seen)| seen.orders()).collect();
    all.sort_unstable();
    assert!(all.iter().copied().eq(0..ROWS), "{} handled", all.len());
    assert_eq!(world.rows("published").await, ROWS as i64);
    for (bus, seen) in &relays {
        let counts = bus.snapshot().outbox.unwrap();
        assert_eq!(counts.fenced_out, 0);
        // SQLite's lock goes to whoever comes by when it is free: a relay may wait for it until all is done.
        assert!(
            seen.len() > 0 || world.is_sqlite(),
            "each had a share: {counts:?}"
        );
    }
    for (bus, _) in &relays {
        end(bus).await;
    }
}

async fn a_relay_that_comes_gets_its_share_and_one_that_goes_leaves_it(world: World) {
    let lease = || World::relay().lease(Duration::from_secs(2));
    let lanes = |bus: &Bus| bus.snapshot().outbox.unwrap().lanes as usize;
    let (first, seen_first) = relay_of(&world, "first", lease()).await;
    seen_first.subscribe(&first).await;
    eventually("it holds all", || lanes(&first) == LANES).await;
    let (second, seen_second) = relay_of(&world, "second", lease()).await;
    seen_second.subscribe(&second).await;
    eventually("each holds a half", || {
        lanes(&first) == LANES / 2 && lanes(&second) == LANES / 2
    })
    .await;
    end(&first).await;
    eventually("the other takes all", || lanes(&second) == LANES).await;
    let mut tx = world.begin().await;
    for order in 0..100 {
        tx.place(&second, order).await;
    }
    tx.commit().await;
    eventually("all are handled", || seen_second.len() == 100).await;
    end(&second).await;
}

fn everything() -> TakeRows {
    TakeRows {
        lanes: (0..32).collect(),
        most: 100,
        most_of_lane: 100,
        due: true,
        ..TakeRows::default()
    }
}

async fn session(world: &World) -> Box<dyn StoreSession> {
    let store: Box<dyn Store> = match world.pool() {
        Pool::Sqlite(pool) => Box::new(Sqlite::new(pool)),
        // The search path of the pool is the world's schema.
        Pool::Postgres(pool) => Box::new(Postgres::new(pool)),
    };
    store.open().await.unwrap()
}

/// As after an answer that was lost.
async fn a_failure_that_is_written_twice_counts_once(world: World) {
    let bus = world.bus().await;
    let mut tx = world.begin().await;
    tx.place(&bus, 7).await;
    tx.commit().await;
    let mut relay = session(&world).await;
    let lease = Duration::from_secs(20);
    let held = relay.renew("relay", lease, &[]).await.unwrap().held;
    let rows = relay.take(&everything()).await.unwrap();
    let lane = held.iter().find(|held| held.lane == rows[0].lane).unwrap();
    let failed = [FailedRow {
        position: rows[0].position,
        fence: lane.fence,
        attempts: rows[0].attempts + 1,
        error: "no".to_owned(),
        retry_in: Some(Duration::from_secs(60)),
    }];
    for _ in 0..2 {
        assert_eq!(relay.mark_failed("relay", &failed).await.unwrap(), 1);
    }
    let attempts = "SELECT CAST(attempts AS BIGINT) FROM postroom_outbox WHERE status = 'retrying'";
    assert_eq!(world.number(attempts).await, 1);
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_keeps_nothing_else_back_while_a_file_is_locked() {
    let world = World::sqlite().await;
    let Pool::Sqlite(pool) = world.pool() else {
        return;
    };
    let bus = world.bus().await;
    let mut tx = world.begin().await;
    tx.place(&bus, 1).await;
    let delay = Duration::from_millis(1);
    tx.write(bus.publish(Placed { order: 2 }).delay(delay))
        .await
        .unwrap();
    tx.commit().await;
    let due = "SELECT count(*) FROM postroom_outbox WHERE status = 'scheduled' \
        AND due_at <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";
    world.until(due, 1).await;
    let store = Sqlite::new(pool).busy_timeout(Duration::from_millis(50));
    let mut relay = store.open().await.unwrap();
    let lease = Duration::from_secs(20);
    relay.renew("relay", lease, &[]).await.unwrap();
    let writing = world.begin().await;
    let rows = relay.take(&everything()).await.unwrap();
    let bodies = |rows: &[StoredRow]| rows.iter().map(|row| row.body.clone()).collect::<Vec<_>>();
    assert_eq!(bodies(&rows), [r#"{"order":1}"#]);
    let others = TakeRows {
        except: vec![rows[0].position],
        ..everything()
    };
    let alone = relay.take(&others).await.unwrap_err();
    assert_eq!(alone.problem(), DatabaseProblem::Busy, "{alone}");
    writing.roll_back().await;
    let rows = relay.take(&others).await.unwrap();
    assert_eq!(bodies(&rows), [r#"{"order":2}"#]);
    end(&bus).await;
}

async fn the_mark_of_a_relay_that_lost_its_lane_is_refused(world: World) {
    let bus = world.bus().await;
    let mut tx = world.begin().await;
    for order in 0..10 {
        tx.place(&bus, order).await;
    }
    tx.commit().await;
    let (mut old, mut new) = (session(&world).await, session(&world).await);
    let lease = Duration::from_millis(200);
    let held = old.renew("old", lease, &[]).await.unwrap();
    assert_eq!((held.held.len(), held.share, held.relays), (LANES, 32, 1));
    assert!(held.held.iter().all(|lane| lane.fence == 1));
    let all = everything();
    let rows = old.take(&all).await.unwrap();
    assert_eq!(rows.len(), 10);
    let others = new.renew("new", lease, &[]).await.unwrap();
    assert!(others.held.is_empty(), "nothing is free: {others:?}");
    // The old one stands still, its lease runs out by the database's clock, and the new one takes over.
    let end_at = Instant::now() + crate::common::PATIENCE;
    let taken_over = loop {
        let taken_over = new
            .renew("new", Duration::from_secs(60), &[])
            .await
            .unwrap();
        if taken_over.held.len() == LANES {
            break taken_over;
        }
        assert!(Instant::now() < end_at);
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(taken_over.held.iter().all(|lane| lane.fence == 2));
    let marks = |fence| -> Vec<PublishedRow> {
        let published = rows.iter().map(|row| PublishedRow {
            position: row.position,
            lane: row.lane,
            fence,
        });
        published.collect()
    };
    assert_eq!(old.mark_published("old", &marks(1), true).await.unwrap(), 0);
    assert_eq!(
        old.mark_published("old", &marks(1), false).await.unwrap(),
        0
    );
    assert_eq!(
        old.mark_published("new", &marks(1), true).await.unwrap(),
        0,
        "an old fence"
    );
    assert_eq!(world.rows("waiting").await, 10, "nothing was overwritten");
    assert_eq!(
        new.mark_published("new", &marks(2), true).await.unwrap(),
        10
    );
    // And it renews nothing of what it has lost.
    let again = old.renew("old", Duration::from_secs(60), &[]);
    let again = again.await.unwrap();
    assert!(again.held.is_empty(), "{again:?}");
    let lanes = new.lanes().await.unwrap();
    let of_new = |(lane, holder): &(HeldLane, Option<String>)| {
        lane.fence == 2 && holder.as_deref() == Some("new")
    };
    assert!(lanes.iter().all(of_new), "{lanes:?}");
    end(&bus).await;
}

/// The lease of the one that is stopped and of its successor. On a busy machine one that renews its lease late loses it too, and publishes again what it had on its
/// way: so it is not shorter.
const LEASE: Duration = Duration::from_secs(3);

/// Not a test by itself: the process that is stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_with_a_relay() {
    let Some(task) = task() else {
        return;
    };
    let (address, file) = task.split_once(' ').unwrap();
    let world = World::found_at(address).await;
    let relay = World::relay().lease(LEASE);
    let bus = world
        .with_store(Bus::builder("child"))
        .relay(relay)
        .start()
        .await
        .unwrap();
    let file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(file)
        .unwrap();
    bus.subscribe_fn::<Placed, _>("seen", async move |placed, _| {
        let mut file = &file;
        file.write_all(format!("{}\n", placed.order).as_bytes())
            .unwrap();
        Ok(())
    })
    .start()
    .await
    .unwrap();
    bus.outbox().unwrap().start_relay();
    std::future::pending::<()>().await;
}

/// A process that is stopped in the middle of a write to a SQLite file keeps its lock, and no relay can help that; nor
/// where it stands between two locks of the WAL, which is "locking protocol" to the others after 10 s.
async fn stop_outside_of_a_write(child: &Process, world: &World) {
    if !world.is_sqlite() {
        return child.stop();
    }
    let file = world.address();
    let options = sqlite_options(file.as_ref()).busy_timeout(Duration::ZERO);
    let mut connection = options.connect().await.unwrap();
    loop {
        child.stop();
        let locked = sqlx::raw_sql("BEGIN IMMEDIATE; ROLLBACK")
            .execute(&mut connection)
            .await;
        if locked.is_ok() {
            return;
        }
        child.signal("-CONT");
    }
}

async fn a_relay_stopped_beyond_its_lease_cannot_overwrite_its_successor(world: World) {
    let relay = World::relay().lease(LEASE);
    let (bus, seen) = relay_of(&world, "successor", relay).await;
    let path = std::env::temp_dir().join(format!("postroom-handled-{:x}", fastrand::u64(..)));
    let task = format!("{} {}", world.address(), path.display());
    let child = Process::start("relays::a_process_with_a_relay", &task);
    let by_child = || -> Vec<u64> {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    };
    let write = async |orders: std::ops::Range<u64>| {
        for order in orders {
            let mut tx = world.begin().await;
            tx.place_keyed(&bus, order, &(order % 7).to_string()).await;
            tx.commit().await;
        }
    };
    write(0..50).await;
    eventually("the child handles", || by_child().len() >= 20).await;
    // Stopped when it has published what it has not marked yet, which it will try when it goes on.
    let mut next = 50;
    let end_at = Instant::now() + crate::common::PATIENCE;
    loop {
        let mut tx = world.begin().await;
        for order in next..next + 10 {
            tx.place_keyed(&bus, order, &(order % 7).to_string()).await;
        }
        tx.commit_by(&bus).await;
        next += 10;
        eventually("the child is at it", || by_child().len() as u64 > next - 10).await;
        stop_outside_of_a_write(&child, &world).await;
        if by_child().len() as i64 > world.rows("published").await {
            break;
        }
        assert!(Instant::now() < end_at, "it had always marked all");
        child.signal("-CONT");
    }
    let (at_stop, all) = (next, next + 200);
    write(at_stop..all).await;
    seen.subscribe(&bus).await;
    world.until_rows("published", all as i64).await;
    eventually("the successor did what the child could not", || {
        seen.len() >= 200
    })
    .await;
    let marks = format!(
        "SELECT position || ' ' || published_at || ' ' || attempts FROM postroom_outbox \
         WHERE position <= {all} ORDER BY position"
    );
    let before = world.texts(&marks).await;
    child.signal("-CONT");
    let holders = "SELECT count(*) FROM postroom_lanes WHERE holder LIKE 'child/%'";
    world.until(holders, LANES as i64 / 2).await;
    write(all..all + 100).await;
    world.until_rows("published", all as i64 + 100).await;
    assert_eq!(world.texts(&marks).await, before, "its marks were refused");
    eventually("all are handled", || {
        let mut handled = [by_child(), seen.orders()].concat();
        handled.sort_unstable();
        handled.dedup();
        handled.len() as u64 == all + 100
    })
    .await;
    let handled = [by_child(), seen.orders()].concat();
    let often = |order: u64| handled.iter().filter(|handled| **handled == order).count();
    // What it had on its way when it was stopped is published twice; what came later may not be.
    let twice: Vec<_> = (at_stop..all + 100)
        .filter(|order| often(*order) != 1)
        .collect();
    assert!(twice.is_empty(), "{twice:?}");
    drop(child);
    std::fs::remove_file(path).unwrap();
    end(&bus).await;
}
