//! The crash matrix of the inbox: a process dies, as by `kill -9`, at each named point of handling what RabbitMQ
//! delivers, and RabbitMQ delivers it again to its successor. The oracle knows by ids: each message has its effect once,
//! its record once, and what its handler sent once.
//!
//! `POSTROOM_CRASH_ROUNDS` is how often each cell runs (1), each time at another passing of its point.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::inbox::{Db, duplicates, take};
use crate::common::process::{Cell, dies_at, rounds, task};
use crate::common::rabbit::{Rabbit, delete_group};
use crate::common::store::{Placed, World};
use crate::common::{PATIENCE, end, eventually};
use postroom::{Amqp, Bus, Postgres, Relay, Sqlite, Subscription};

/// A point, and at which passing of it the process dies first.
const POINTS: [(&str, u64); 10] = [
    ("before-deliver", 10),
    ("after-deliver", 10),
    ("before-handle", 10),
    ("after-handle", 10),
    ("before-inbox-commit", 10),
    ("after-inbox-commit", 10),
    ("before-ack", 10),
    ("after-ack", 10),
    // Records are kept for some rounds of the clean-up; the second point is passed where it has deleted some.
    ("before-clean-up", 8),
    ("after-clean-up", 2),
];
/// More than any passing.
const ORDERS: u64 = 100;
/// How long the process that dies keeps its records: for longer than RabbitMQ takes to deliver again what it held.
const KEPT: Duration = Duration::from_secs(1);
/// And how many it deletes at once: 20 rounds, so, of the clean-up.
const BATCH: u32 = 5;

async fn shop<S: Db>(world: &World, relay: Relay, url: &str, prefix: &str) -> (Bus, Subscription) {
    let bus = world
        .builder()
        .relay(relay)
        .bridge(Amqp::new(url).prefix(prefix).import("ordering.#"))
        .start()
        .await
        .unwrap();
    let stock = bus
        .transactional_fn::<Placed, S, _>("stock", async |placed, cx| take(cx, placed.order).await)
        .start()
        .await
        .unwrap();
    (bus, stock)
}

/// Not a test by itself: the process that dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies() {
    let Some(task) = task() else {
        return;
    };
    let [url, prefix, address, cleans_up] = task.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{task}");
    };
    let world = World::found_at(address).await;
    let mut relay = World::relay();
    if cleans_up == "true" {
        relay = relay.keep_handled(KEPT).clean_batch(BATCH);
    }
    let _shop = match world.is_sqlite() {
        true => shop::<Sqlite>(&world, relay, url, prefix).await,
        false => shop::<Postgres>(&world, relay, url, prefix).await,
    };
    std::future::pending::<()>().await;
}

async fn cell<S: Db>(world: World, rabbit: &Rabbit, point: &str, passing: u64) {
    let what = format!("{point}:{passing}");
    let prefix = format!("crash{:x}", fastrand::u32(..));
    // Makes the tables and the queue.
    let (maker, _) = shop::<S>(&world, World::relay(), rabbit.url(), &prefix).await;
    end(&maker).await;
    world.make_effects().await;
    let amqp = Amqp::new(rabbit.url()).prefix(&prefix).export("ordering.#");
    let mail = Bus::builder("mail").bridge(amqp).start().await.unwrap();
    let mut ids = BTreeMap::new();
    for order in 0..ORDERS {
        let receipt = mail.publish(Placed { order }).await.unwrap();
        ids.insert(receipt.id.to_string(), order);
    }
    end(&mail).await;
    let cleans_up = point.ends_with("clean-up");
    let task = format!("{} {prefix} {} {cleans_up}", rabbit.url(), world.address());
    dies_at(&what, "inbox::a_process_that_dies", &task).await;
    world.until_quiet("effects").await;
    let before = world.effects().await.len() as i64;
    let deleted = before - world.records().await;
    assert!(deleted > 0 || point != "after-clean-up", "{what}");

    let (heir, stock) = shop::<S>(&world, World::relay(), rabbit.url(), &prefix).await;
    // Each that is delivered is acknowledged, those too that were handled before.
    eventually("all are settled", || {
        let queue = crate::common::queue(&heir, "stock");
        queue.acked + before as u64 == ORDERS + duplicates(&heir) && queue.in_flight == 0
    })
    .await;
    world.until_effects(ORDERS as i64).await;
    let repeated = duplicates(&heir);
    // A thousand queues would slow RabbitMQ down for the cells to come.
    assert!(stock.stop(PATIENCE).await.in_time, "{what}");
    delete_group(&heir, "stock").await;
    end(&heir).await;
    let all: Vec<u64> = (0..ORDERS).collect();
    assert_eq!(world.sorted_effects().await, all, "{what}: effects");
    let causes = "SELECT causation FROM postroom_outbox WHERE address = 'catalog.stock-taken'";
    let mut sent: Vec<u64> = world.texts(causes).await.iter().map(|id| ids[id]).collect();
    sent.sort_unstable();
    assert_eq!(sent, all, "{what}: sent");
    let records = world.texts("SELECT message_id FROM postroom_inbox").await;
    let mut records: Vec<u64> = records.iter().map(|id| ids[id]).collect();
    records.sort_unstable();
    if cleans_up {
        let kept = records.len() as i64;
        records.dedup();
        assert_eq!(records.len() as i64, kept, "{what}: records");
        assert_eq!(kept + deleted, ORDERS as i64, "{what}: records");
    } else {
        assert_eq!(records, all, "{what}: records");
    }
    let effects = world.sorted_effects().await;
    Cell {
        what: "inbox",
        database: world.database(),
        died_at: &what,
        kept: all.len(),
        lost: all.iter().filter(|order| !effects.contains(order)).count(),
        repeated: usize::try_from(repeated).unwrap(),
    }
    .record();
}

/// How many passings of a point there are, from the first on that is taken.
fn passings(point: &str, first: u64) -> u64 {
    match point.ends_with("clean-up") {
        true => ORDERS / u64::from(BATCH) - first,
        false => ORDERS - first,
    }
}

async fn rabbit() -> Rabbit {
    tokio::task::spawn_blocking(Rabbit::start).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_sqlite() {
    let rabbit = rabbit().await;
    for (point, first) in POINTS {
        for round in 0..rounds() {
            let passing = first + round % passings(point, first);
            cell::<Sqlite>(World::sqlite().await, &rabbit, point, passing).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_postgres() {
    let rabbit = rabbit().await;
    for (point, first) in POINTS {
        for round in 0..rounds() {
            let passing = first + round % passings(point, first);
            cell::<Postgres>(World::postgres().await, &rabbit, point, passing).await;
        }
    }
}
