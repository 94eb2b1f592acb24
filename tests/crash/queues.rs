//! The crash matrix of durable queues and delayed messages: a process dies, as by `kill -9`, at each named point, while it
//! publishes into a queue, at once and with a delay, and handles it. Afterwards another handles the rest. The oracle knows by ids: what was accepted is handled or
//! a dead letter, and only what was in hand, of the queue or of the relay, is handled twice.
//!
//! `POSTROOM_CRASH_ROUNDS` is how often each cell runs (1), each time at another passing of its point.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::common::end;
use crate::common::process::{Cell, Notes, dies_at, rounds, task};
use crate::common::store::{Placed, World};
use postroom::{Bus, Context, Durable, Failure, Outcome, Retry, Subscriber};

/// A point, and at which passing of it the process dies first.
const POINTS: [(&str, u64); 18] = [
    ("before-store", 20),
    ("after-store", 20),
    ("before-delay", 5),
    ("after-delay", 5),
    ("before-begin-due", 3),
    ("after-begin-due", 3),
    ("before-take", 4),
    ("after-take", 4),
    ("before-deliver", 4),
    ("after-deliver", 4),
    ("before-handle", 30),
    ("after-handle", 30),
    ("before-settle", 5),
    ("after-settle", 5),
    ("before-retry", 2),
    ("after-retry", 2),
    ("before-dead-letter", 2),
    ("after-dead-letter", 2),
];

/// The mailbox: the most that is in hand, and so the most that is handled twice.
const MAILBOX: usize = 16;
/// The relay's window: twice as many delayed messages may be relayed twice.
const WINDOW: usize = 16;

/// The points that are the handler's.
fn crash_point(name: &str) {
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let Ok(wanted) = std::env::var("POSTROOM_CRASH") else {
        return;
    };
    let (wanted, nth) = wanted.split_once(':').unwrap();
    if wanted == name && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == nth.parse::<u64>().unwrap() {
        std::process::abort();
    }
}

#[derive(Clone)]
struct Log(Notes);

impl Subscriber<Placed> for Log {
    async fn handle(&mut self, placed: &Placed, cx: &mut Context<'_>) -> Outcome {
        crash_point("before-handle");
        match placed.order % 11 {
            3 if cx.attempt() == 1 => return Err(Failure::retry("the first time")),
            5 => return Err(Failure::reject("never")),
            _ => {}
        }
        self.0.write(placed.order, cx.id());
        crash_point("after-handle");
        Ok(())
    }
}

fn is_delayed(order: u64) -> bool {
    order.is_multiple_of(3)
}

async fn bus(world: &World, service: &str, handled: &str) -> Bus {
    let durable = Durable::new()
        .lease(Duration::from_secs(1))
        .slow_poll(Duration::from_millis(100));
    let relay = World::relay()
        .lease(Duration::from_secs(1))
        .window(u32::try_from(WINDOW).unwrap());
    let bus = world
        .with_store(Bus::builder(service))
        .durable_settings(durable);
    let bus = bus.relay(relay).start().await.unwrap();
    let log = Log(Notes::open(handled));
    bus.subscriber("seen", move || log.clone())
        .on::<Placed>()
        .durable()
        .mailbox(MAILBOX)
        .retry(
            Retry::fixed(Duration::from_millis(30))
                .immediate(0)
                .attempts(3),
        )
        .start()
        .await
        .unwrap();
    bus.outbox().unwrap().start_relay();
    bus
}

/// Not a test by itself: the process that dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies() {
    let Some(task) = task() else {
        return;
    };
    let (address, log) = task.split_once(' ').unwrap();
    let world = World::found_at(address).await;
    let bus = bus(&world, "child", &format!("{log}.handled")).await;
    let accepted = Notes::open(format!("{log}.accepted"));
    let next = Arc::new(AtomicU64::new(0));
    let publishers = (0..4).map(|_| {
        let (bus, accepted, next) = (bus.clone(), accepted.clone(), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let order = next.fetch_add(1, Ordering::Relaxed);
                if order == u64::MAX {
                    return;
                }
                let mut publish = bus.publish(Placed { order });
                if is_delayed(order) {
                    publish = publish.delay(Duration::from_millis(20));
                }
                let receipt = publish.await.unwrap();
                accepted.write(order, receipt.id);
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.unwrap();
    }
}

async fn cell(world: World, point: &str, passing: u64) {
    let what = format!("{point}:{passing}");
    let log = std::env::temp_dir().join(format!("postroom-crash-{:x}", fastrand::u64(..)));
    let log = log.display().to_string();
    // Its tables are there before.
    end(&world.bus().await).await;
    let task = format!("{} {log}", world.address());
    dies_at(&what, "queues::a_process_that_dies", &task).await;

    let (accepted, handled) = (format!("{log}.accepted"), format!("{log}.handled"));
    let heir = bus(&world, "heir", &handled).await;
    let left = "SELECT (SELECT count(*) FROM postroom_queue) + (SELECT count(*) FROM postroom_outbox \
        WHERE status <> 'published')";
    world.until(left, 0).await;
    end(&heir).await;
    let dead = world
        .texts("SELECT message_id FROM postroom_dead_letters")
        .await;
    let bodies = world
        .texts("SELECT body FROM postroom_dead_letters GROUP BY body HAVING count(*) > 1")
        .await;
    let (accepted_ids, handled_ids) = (Notes::read(&accepted), Notes::read(&handled));
    assert!(
        !accepted_ids.is_empty() || point.ends_with("store"),
        "{what}"
    );
    let known: BTreeSet<_> = dead.iter().collect();
    // A delayed one was relayed and not marked when the process died: it is relayed again.
    for body in bodies {
        let placed: Placed = serde_json::from_str(&body).unwrap();
        assert!(
            is_delayed(placed.order),
            "{what}: two dead letters of {body}"
        );
    }
    let is_lost = |(order, ids): &(&u64, &Vec<String>)| match **order % 11 {
        5 => !known.contains(&ids[0]),
        _ => !handled_ids
            .get(*order)
            .is_some_and(|handled| handled.contains(&ids[0])),
    };
    let lost: Vec<_> = accepted_ids.iter().filter(is_lost).collect();
    assert!(lost.is_empty(), "{what}: lost {lost:?}");
    let lost = lost.len();
    let mut repeated = 0;
    for (order, ids) in &handled_ids {
        let is_one = ids.iter().all(|id| *id == ids[0]);
        assert!(is_one, "{what}: {order} has several ids");
        repeated += ids.len() - 1;
    }
    assert!(
        repeated <= MAILBOX + 2 * WINDOW,
        "{what}: {repeated} handled twice"
    );
    Cell {
        what: "queues",
        database: world.database(),
        died_at: &what,
        kept: accepted_ids.len(),
        lost,
        repeated,
    }
    .record();
    for file in [accepted, handled] {
        if Path::new(&file).exists() {
            std::fs::remove_file(file).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_sqlite() {
    for (point, first) in POINTS {
        for round in 0..rounds() {
            cell(World::sqlite().await, point, first + round).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_postgres() {
    for (point, first) in POINTS {
        for round in 0..rounds() {
            cell(World::postgres().await, point, first + round).await;
        }
    }
}
