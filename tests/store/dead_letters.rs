//! Dead letters of queues in memory, on a bus with a store, over SQLite and PostgreSQL: rows of a table, which survive the
//! process and go back to the queue of the same name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::store::{Placed, PrivatePostgres, Seen, World, over_both};
use crate::common::{end, eventually};
use postroom::{
    Bus, Context, Durable, Event, Failure, Filter, Overflow, Problem, Reason, Refusal, ReplayError,
    Retry, Subscription,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

over_both!(
    a_dead_letter_survives_a_restart_and_goes_back,
    of_many_replays_at_once_one_hands_it_back,
    what_no_queue_takes_is_kept,
    it_is_found_by_its_reason_and_discarded,
    an_event_given_up_by_two_queues_is_two_letters,
    what_cannot_be_encoded_is_kept_in_memory,
    text_that_postgresql_cannot_keep_is_replaced,
    the_oldest_beyond_the_bound_are_deleted_and_counted,
    however_many_are_beyond_the_bound_they_are_deleted_at_once,
);

const LETTERS: &str = "SELECT count(*) FROM postroom_dead_letters";

/// Handles when it works.
async fn subscribe(bus: &Bus, name: &str, works: &Arc<AtomicBool>, seen: &Seen) -> Subscription {
    let (works, seen) = (Arc::clone(works), seen.clone());
    bus.subscribe_fn::<Placed, _>(name, async move |placed: &Placed, cx: &mut Context<'_>| {
        if works.load(Ordering::Relaxed) {
            assert_eq!(cx.attempt(), 1);
            seen.note(placed.order);
            return Ok(());
        }
        Err(Failure::reject(std::io::Error::other("no")))
    })
    .retry(Retry::none())
    .mailbox(2)
    .overflow(Overflow::Fail)
    .start()
    .await
    .unwrap()
}

async fn a_dead_letter_survives_a_restart_and_goes_back(world: World) {
    let (works, seen) = (Arc::new(AtomicBool::new(false)), Seen::default());
    let first = world.bus().await;
    let queue = subscribe(&first, "mailer", &works, &seen).await;
    let id = first
        .publish(Placed { order: 7 })
        .key("k")
        .await
        .unwrap()
        .id;
    world.until(LETTERS, 1).await;
    eventually("settled", || queue.snapshot().dead_lettered == 1).await;
    assert!(queue.snapshot().balances());
    assert_eq!(first.dead_letters().ledger().made, 1);
    let row = "SELECT queue || ' ' || reason || ' ' || errors || ' ' || message_id || ' ' || key || ' ' || body \
        FROM postroom_dead_letters";
    let expected = format!(r#"mailer rejected ["no"] {id} k {{"order":7}}"#);
    assert_eq!(world.texts(row).await, [expected]);
    end(&first).await;
    works.store(true, Ordering::Relaxed);
    let second = world.bus().await;
    subscribe(&second, "mailer", &works, &seen).await;
    let letters = second.dead_letters();
    let listed = letters.list(&Filter::all().queue("mailer")).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].envelope().id(), id);
    assert_eq!(
        (listed[0].reason, listed[0].attempts),
        (Reason::Rejected, 1)
    );
    letters.replay(listed[0].id).await.unwrap();
    eventually("handled", || seen.orders() == [7]).await;
    assert_eq!(world.number(LETTERS).await, 0);
    let again = letters.replay(listed[0].id).await.unwrap_err();
    assert_eq!(again, ReplayError::NotFound(listed[0].id));
    // Which the first one made: the ledger is of one process.
    assert_eq!(letters.ledger().replayed, 1);
    assert!(second.shutdown(crate::common::PATIENCE).await.clean);
}

async fn of_many_replays_at_once_one_hands_it_back(world: World) {
    let (works, seen) = (Arc::new(AtomicBool::new(false)), Seen::default());
    let bus = world.bus().await;
    let queue = subscribe(&bus, "mailer", &works, &seen).await;
    bus.publish(Placed { order: 7 }).await.unwrap();
    world.until(LETTERS, 1).await;
    eventually("settled", || queue.snapshot().dead_lettered == 1).await;
    works.store(true, Ordering::Relaxed);
    let id = bus.dead_letters().list(&Filter::all()).await.unwrap()[0].id;
    let replays = (0..8).map(|_| {
        let letters = bus.dead_letters();
        tokio::spawn(async move { letters.replay(id).await })
    });
    let replays: Vec<_> = replays.collect();
    let mut replayed = 0;
    for replay in replays {
        match replay.await.unwrap() {
            Ok(()) => replayed += 1,
            Err(error) => assert_eq!(error, ReplayError::NotFound(id)),
        }
    }
    assert_eq!(replayed, 1);
    end(&bus).await;
    assert_eq!(seen.orders(), [7]);
}

async fn what_no_queue_takes_is_kept(world: World) {
    let (works, seen) = (Arc::new(AtomicBool::new(false)), Seen::default());
    let bus = world.bus().await;
    let queue = subscribe(&bus, "mailer", &works, &seen).await;
    bus.publish(Placed { order: 1 }).await.unwrap();
    world.until(LETTERS, 1).await;
    eventually("settled", || queue.snapshot().dead_lettered == 1).await;
    let letters = bus.dead_letters();
    let id = letters.list(&Filter::all()).await.unwrap()[0].id;
    queue.pause();
    for order in 2..4 {
        bus.publish(Placed { order }).await.unwrap();
    }
    let full = letters.replay(id).await.unwrap_err();
    let refusal = Refusal::Full {
        queue: "mailer".to_owned(),
    };
    assert_eq!(full, ReplayError::Refused(refusal));
    works.store(true, Ordering::Relaxed);
    queue.resume().await;
    eventually("the others", || seen.orders() == [2, 3]).await;
    queue.stop(Duration::from_secs(5)).await;
    let gone = letters.replay(id).await.unwrap_err();
    assert_eq!(gone, ReplayError::NoQueue("mailer".to_owned()));
    assert_eq!(world.number(LETTERS).await, 1);
    end(&bus).await;
}

async fn it_is_found_by_its_reason_and_discarded(world: World) {
    let (works, seen) = (Arc::new(AtomicBool::new(false)), Seen::default());
    let bus = world.bus().await;
    subscribe(&bus, "mailer", &works, &seen).await;
    for order in 0..2 {
        bus.publish(Placed { order }).await.unwrap();
    }
    world.until(LETTERS, 2).await;
    let letters = bus.dead_letters();
    let exhausted = Filter::all().reason(Reason::Exhausted);
    assert!(letters.list(&exhausted).await.unwrap().is_empty());
    let rejected = Filter::all().reason(Reason::Rejected).limit(1);
    let found = letters.list(&rejected).await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(letters.discard(found[0].id).await.unwrap());
    assert!(!letters.discard(found[0].id).await.unwrap());
    assert_eq!(
        (letters.len().await.unwrap(), world.number(LETTERS).await),
        (1, 1)
    );
    end(&bus).await;
}

async fn an_event_given_up_by_two_queues_is_two_letters(world: World) {
    let (works, seen) = (Arc::new(AtomicBool::new(false)), Seen::default());
    let bus = world.bus().await;
    subscribe(&bus, "one", &works, &seen).await;
    subscribe(&bus, "two", &works, &seen).await;
    bus.publish(Placed { order: 7 }).await.unwrap();
    world.until(LETTERS, 2).await;
    works.store(true, Ordering::Relaxed);
    let letters = bus.dead_letters();
    let of_one = Filter::all().queue("two");
    assert_eq!(letters.replay_all(&of_one).await.unwrap().replayed, 1);
    eventually("the one", || seen.orders() == [7]).await;
    assert_eq!(
        world.texts("SELECT queue FROM postroom_dead_letters").await,
        ["one"]
    );
    end(&bus).await;
}

async fn the_oldest_beyond_the_bound_are_deleted_and_counted(world: World) {
    let (works, seen) = (Arc::new(AtomicBool::new(false)), Seen::default());
    let bounded = world
        .builder()
        .durable_settings(Durable::new().dead_letters(3));
    let bus = bounded.start().await.unwrap();
    let queue = subscribe(&bus, "mailer", &works, &seen).await;
    for order in 0..10 {
        bus.publish(Placed { order }).await.unwrap();
        let count = order + 1;
        eventually("settled", || queue.snapshot().dead_lettered == count).await;
    }
    world.until(LETTERS, 3).await;
    let bodies = "SELECT body FROM postroom_dead_letters ORDER BY position";
    let newest = [7, 8, 9].map(|order| format!(r#"{{"order":{order}}}"#));
    assert_eq!(world.texts(bodies).await, newest);
    let ledger = || bus.dead_letters().ledger();
    eventually("counted", || (ledger().evicted, ledger().kept) == (7, 3)).await;
    end(&bus).await;
}

async fn however_many_are_beyond_the_bound_they_are_deleted_at_once(world: World) {
    let (works, seen) = (Arc::new(AtomicBool::new(false)), Seen::default());
    let bounded = world
        .builder()
        .durable_settings(Durable::new().dead_letters(3));
    let bus = bounded.start().await.unwrap();
    // One batch each 5 s would take ten times as long as is waited for here.
    world
        .run(
            "INSERT INTO postroom_dead_letters (id, queue, reason, attempts, first_failed_at, last_failed_at, \
             message_id, kind, address, body, created_at) \
             WITH RECURSIVE made(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM made WHERE number < 20000) \
             SELECT 'letter-' || number, 'mailer', 'rejected', 1, '2026-11-26T04:30:00.000Z', \
             '2026-11-26T04:30:00.000Z', 'message-' || number, 'event', 'a.b', '{}', '2026-11-26T04:30:00.000Z' \
             FROM made",
        )
        .await;
    let queue = subscribe(&bus, "mailer", &works, &seen).await;
    bus.publish(Placed { order: 7 }).await.unwrap();
    eventually("settled", || queue.snapshot().dead_lettered == 1).await;
    world.until(LETTERS, 3).await;
    let ledger = || bus.dead_letters().ledger();
    eventually("counted", || ledger().evicted == 19_998).await;
    // The ledger is of one process, which has not made most of them.
    assert!(bus.shutdown(crate::common::PATIENCE).await.clean);
}

/// Never leaves its process.
struct Handle;

impl Event for Handle {
    const TOPIC: &'static str = "shop.handle";
}

impl Serialize for Handle {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("a handle is of this process"))
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("a handle is of this process"))
    }
}

async fn what_cannot_be_encoded_is_kept_in_memory(world: World) {
    let bus = world.bus().await;
    let queue = bus
        .subscribe_fn::<Handle, _>("handles", async |_: &Handle, _: &mut Context<'_>| {
            Err(Failure::reject(std::io::Error::other("no")))
        })
        .start()
        .await
        .unwrap();
    let id = bus.publish(Handle).await.unwrap().id;
    eventually("settled", || queue.snapshot().dead_lettered == 1).await;
    let letters = bus.dead_letters();
    let listed = letters.list(&Filter::all()).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].envelope().id(), id);
    assert_eq!(world.number(LETTERS).await, 0);
    letters.replay(listed[0].id).await.unwrap();
    eventually("given up again", || queue.snapshot().dead_lettered == 2).await;
    assert_eq!(
        (letters.ledger().made, letters.len().await.unwrap()),
        (2, 1)
    );
    end(&bus).await;
}

async fn text_that_postgresql_cannot_keep_is_replaced(world: World) {
    let (works, seen) = (Arc::new(AtomicBool::new(false)), Seen::default());
    let bus = world.bus().await;
    let queue = subscribe(&bus, "mailer", &works, &seen).await;
    bus.publish(Placed { order: 7 })
        .correlation("a\0b")
        .traceparent("c\0d")
        .header("tenant", "e\0f")
        .await
        .unwrap();
    eventually("settled", || queue.snapshot().dead_lettered == 1).await;
    let letters = bus.dead_letters();
    let listed = letters.list(&Filter::all()).await.unwrap();
    let envelope = listed[0].envelope();
    assert_eq!(envelope.correlation_id(), "a\u{fffd}b");
    assert_eq!(envelope.traceparent(), Some("c\u{fffd}d"));
    // As JSON, where a NUL is an escape.
    assert_eq!(envelope.header("tenant"), Some("e\0f"));
    assert_eq!(bus.snapshot().outbox.unwrap().database_errors, 0);
    works.store(true, Ordering::Relaxed);
    letters.replay(listed[0].id).await.unwrap();
    eventually("handled", || seen.orders() == [7]).await;
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_given_up_stays_until_its_dead_letter_is_stored() {
    let server = PrivatePostgres::begin().await;
    let world = server.world().await;
    let bus = world.bus().await;
    let (works, seen) = (Arc::new(AtomicBool::new(false)), Seen::default());
    let queue = subscribe(&bus, "mailer", &works, &seen).await;
    server.told("kill").await;
    bus.publish(Placed { order: 7 }).await.unwrap();
    eventually("its health says so", || {
        let health = bus.health();
        let mut conditions = health.conditions().iter();
        conditions.any(|condition| condition.problem == Problem::Database)
    })
    .await;
    let books = queue.snapshot();
    assert_eq!((books.in_flight, books.dead_lettered), (1, 0));
    server.told("start").await;
    eventually("settled", || queue.snapshot().dead_lettered == 1).await;
    assert_eq!(world.number(LETTERS).await, 1);
    end(&bus).await;
}
