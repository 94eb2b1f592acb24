//! The crash matrix of the outbox: a process dies, as by `kill -9`, at each named point, while it writes transactions
//! and relays them, to a queue of its own and to RabbitMQ. Afterwards another relays the rest. The oracle knows by ids:
//! what committed is published, what did not is not, and only what was published and not marked yet is published twice.
//!
//! `POSTROOM_CRASH_ROUNDS` is how often each cell runs (1), each time at another passing of its point; of a
//! claim at one of ten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::process::{Cell, Notes, dies_at, rounds, task};
use crate::common::rabbit::Rabbit;
use crate::common::store::{Placed, Pool, Seen, World};
use crate::common::{end, eventually};
use postroom::{Amqp, Bus, Interceptor, RawMessage, Relay};

/// A point, and at which passing of it the process dies first.
const POINTS: [(&str, u64); 13] = [
    ("before-insert", 20),
    ("after-insert", 20),
    ("before-commit", 20),
    ("after-commit", 20),
    ("before-claim", 3),
    ("after-claim", 3),
    ("before-publish", 20),
    ("after-publish", 20),
    ("after-confirm", 20),
    ("before-mark", 2),
    ("after-mark", 2),
    // Rows are kept for some rounds of the clean-up; the second point is passed where it has deleted some.
    ("before-clean-up", 15),
    ("after-clean-up", 2),
];

/// The same, of what goes to RabbitMQ.
const POINTS_TO_RABBITMQ: [(&str, u64); 6] = [
    ("before-publish", 20),
    ("before-confirm", 20),
    ("after-publish", 20),
    ("after-confirm", 20),
    ("before-mark", 2),
    ("after-mark", 2),
];

/// The relay's window. The most that may be published twice is twice as much: those on their way, and those that are
/// published and not marked yet.
const WINDOW: u32 = 16;
/// How long rows stay when they are published.
const KEPT: Duration = Duration::from_millis(400);

/// What is accepted is written down.
struct Log(Notes);

impl Interceptor for Log {
    fn accepted(&self, message: RawMessage<'_>) {
        if let Ok(placed) = message.decode::<Placed>() {
            self.0.write(placed.order, message.envelope().id());
        }
    }
}

/// Where the rows go.
#[derive(Clone)]
enum Target {
    /// A queue of the process, whose messages are written down in this file as they are accepted.
    Local(String),
    /// RabbitMQ: its URL, and the prefix of what is there.
    Rabbit(String, String),
}

/// Which passing of its point a round is of. A claim comes each third of a second: only some of those are tried.
fn passing(point: &str, first: u64, round: u64) -> u64 {
    match point.ends_with("claim") {
        true => first + round % 10,
        false => first + round,
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local(log) => write!(f, "local {log}"),
            Self::Rabbit(url, prefix) => write!(f, "{url} {prefix}"),
        }
    }
}

async fn bus(world: &World, service: &str, target: &Target) -> Bus {
    let relay = Relay::new()
        .lease(Duration::from_secs(1))
        .window(WINDOW)
        .slow_poll(Duration::from_millis(100))
        .keep_published(KEPT);
    let bus = world.with_store(Bus::builder(service)).relay(relay);
    match target {
        Target::Local(log) => {
            let bus = bus.intercept(Log(Notes::open(log))).start().await.unwrap();
            Seen::default().subscribe(&bus).await;
            bus
        }
        Target::Rabbit(url, prefix) => {
            let amqp = Amqp::new(url).prefix(prefix).export("ordering.#");
            let bus = bus.bridge(amqp).start().await.unwrap();
            bus.outbox().unwrap().start_relay();
            bus
        }
    }
}

/// Not a test by itself: the process that dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies() {
    let Some(task) = task() else {
        return;
    };
    let [address, target, place] = task.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{task}");
    };
    let target = match target {
        "local" => Target::Local(place.to_owned()),
        url => Target::Rabbit(url.to_owned(), place.to_owned()),
    };
    let world = World::found_at(address).await;
    let bus = bus(&world, "child", &target).await;
    for order in 0.. {
        let mut tx = world.begin().await;
        tx.run(&format!("INSERT INTO orders (id) VALUES ({order})"))
            .await;
        let recorded = match order % 5 {
            0 => tx.place(&bus, order).await,
            key => tx.place_keyed(&bus, order, &key.to_string()).await,
        };
        let id = recorded.id;
        tx.run(&format!(
            "UPDATE orders SET message = '{id}' WHERE id = {order}"
        ))
        .await;
        if order % 7 == 3 {
            tx.roll_back().await;
        } else {
            tx.commit_by(&bus).await;
        }
    }
}

/// The message of each order that committed.
async fn committed(world: &World) -> BTreeMap<u64, String> {
    let all = "SELECT id, message FROM orders";
    let rows: Vec<(i64, String)> = match world.pool() {
        Pool::Sqlite(pool) => sqlx::query_as(all).fetch_all(pool).await.unwrap(),
        Pool::Postgres(pool) => sqlx::query_as(all).fetch_all(pool).await.unwrap(),
    };
    rows.into_iter()
        .map(|(id, message)| (id as u64, message))
        .collect()
}

/// Lets a process die at the point, and another one relay what it left. Answers what had committed.
async fn die_and_inherit(
    world: &World,
    target: &Target,
    point: &str,
    passing: u64,
) -> BTreeMap<u64, String> {
    end(&world.bus().await).await;
    let key = if world.is_sqlite() {
        "INTEGER"
    } else {
        "BIGINT"
    };
    world
        .run(&format!(
            "CREATE TABLE orders (id {key} PRIMARY KEY, message TEXT)"
        ))
        .await;
    let task = format!("{} {target}", world.address());
    let what = format!("{point}:{passing}");
    dies_at(&what, "outbox::a_process_that_dies", &task).await;

    world.until_quiet("orders").await;
    let committed = committed(world).await;
    assert!(!committed.is_empty(), "{what}");
    if point.ends_with("clean-up") {
        let rows = world.number("SELECT count(*) FROM postroom_outbox").await;
        let deleted = committed.len() as i64 - rows;
        assert!(deleted > 0, "{what}: nothing was deleted before");
    }
    let heir = bus(world, "heir", target).await;
    let left = "SELECT count(*) FROM postroom_outbox WHERE status <> 'published'";
    world.until(left, 0).await;
    end(&heir).await;
    committed
}

/// What was published, by order: what committed, each under its id, and not more twice than were on their way.
fn judge(
    world: &World,
    room: &str,
    what: &str,
    committed: &BTreeMap<u64, String>,
    published: &BTreeMap<u64, Vec<String>>,
) {
    let expected: BTreeSet<_> = committed.iter().collect();
    let found: BTreeSet<_> = published
        .iter()
        .flat_map(|(order, ids)| ids.iter().map(move |id| (order, id)))
        .collect();
    let lost = expected.difference(&found).count();
    let unexpected = found.difference(&expected).count();
    assert_eq!((lost, unexpected), (0, 0), "{what}: lost, unexpected");
    let repeated = published.values().map(Vec::len).sum::<usize>() - found.len();
    // Whatever the point, rows may be on their way at that moment.
    assert!(
        repeated <= 2 * WINDOW as usize,
        "{what}: {repeated} published twice"
    );
    Cell {
        what: room,
        database: world.database(),
        died_at: what,
        kept: committed.len(),
        lost,
        repeated,
    }
    .record();
}

async fn cell(world: World, point: &str, passing: u64) {
    let log = std::env::temp_dir().join(format!("postroom-crash-{:x}", fastrand::u64(..)));
    let target = Target::Local(log.display().to_string());
    let committed = die_and_inherit(&world, &target, point, passing).await;
    let what = format!("{point}:{passing}");
    judge(&world, "outbox", &what, &committed, &Notes::read(&log));
    std::fs::remove_file(log).unwrap();
}

/// No order: the end of a cell.
const LAST: u64 = i64::MAX as u64;

/// Who gets from RabbitMQ what one test publishes, cell after cell.
struct Mail {
    bus: Bus,
    received: Arc<Mutex<BTreeMap<u64, Vec<String>>>>,
    target: Target,
}

impl Mail {
    async fn start() -> Self {
        let (rabbit, prefix) = (Rabbit::shared(), Rabbit::unique("crash"));
        let amqp = Amqp::new(rabbit.url()).prefix(&prefix);
        let amqp = amqp.import("ordering.#").export("ordering.#");
        // A queue is named by its service: this one is of this test alone.
        let bus = Bus::builder(&prefix).bridge(amqp).start().await.unwrap();
        let received: Arc<Mutex<BTreeMap<u64, Vec<String>>>> = Arc::default();
        let noted = Arc::clone(&received);
        bus.subscribe_fn::<Placed, _>("mail", async move |placed, cx| {
            let mut noted = noted.lock().unwrap();
            noted
                .entry(placed.order)
                .or_default()
                .push(cx.id().to_string());
            Ok(())
        })
        .start()
        .await
        .unwrap();
        Self {
            bus,
            received,
            target: Target::Rabbit(rabbit.url().to_owned(), prefix),
        }
    }

    async fn cell(&self, world: World, point: &str, passing: u64) {
        let committed = die_and_inherit(&world, &self.target, point, passing).await;
        let what = format!("{point}:{passing}");
        // All that was published is in front of this, what was published twice too.
        self.bus.publish(Placed { order: LAST }).await.unwrap();
        eventually("all have come", || {
            self.received.lock().unwrap().contains_key(&LAST)
        })
        .await;
        let mut received = std::mem::take(&mut *self.received.lock().unwrap());
        received.remove(&LAST);
        judge(&world, "outbox-to-RabbitMQ", &what, &committed, &received);
    }
}

async fn to_rabbitmq(world: impl AsyncFn() -> World) {
    let mail = Mail::start().await;
    for (point, first) in POINTS_TO_RABBITMQ {
        for round in 0..rounds() {
            mail.cell(world().await, point, passing(point, first, round))
                .await;
        }
    }
    end(&mail.bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_sqlite() {
    for (point, first) in POINTS {
        for round in 0..rounds() {
            cell(World::sqlite().await, point, passing(point, first, round)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_postgres() {
    for (point, first) in POINTS {
        for round in 0..rounds() {
            cell(World::postgres().await, point, passing(point, first, round)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_rabbitmq_over_sqlite() {
    to_rabbitmq(World::sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_rabbitmq_over_postgres() {
    to_rabbitmq(World::postgres).await;
}
