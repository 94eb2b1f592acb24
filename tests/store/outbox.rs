//! Messages written in transactions of the application's: published if and only if those committed.

use std::time::{Duration, Instant};

use crate::common::store::{Charge, Placed, Pool, Seen, Tx, World, over_both};
use crate::common::{end, eventually};
use postroom::{
    Builder, Bus, CommandHandler, Context, Durable, Event, Failure, Migrations, Outcome, Problem,
    Refusal, Relay, StartError, Subscriber, TransactionRefusal, WhenDown,
};
use serde::{Deserialize, Serialize};

over_both!(
    what_commits_is_published_and_what_rolls_back_is_not,
    commits_out_of_order_lose_none,
    a_transaction_held_open_holds_up_nobody,
    rows_of_one_key_keep_their_order_over_retries,
    a_delayed_row_waits_for_its_time_and_holds_up_nobody,
    metadata_comes_through,
    a_command_goes_to_its_queue,
    what_cannot_be_sent_is_refused_before_the_database_is_asked,
    a_full_queue_costs_no_attempt_and_holds_up_no_other,
    published_rows_are_deleted_after_their_time,
    nothing_is_published_before_the_relay_is_started,
    a_shutdown_keeps_what_is_not_published,
);

#[derive(Serialize, Deserialize)]
struct Slow(u64);
impl Event for Slow {
    const TOPIC: &'static str = "slow";
}

async fn what_commits_is_published_and_what_rolls_back_is_not(world: World) {
    const TRANSACTIONS: u64 = 10_000;
    // The lock of a SQLite file goes to whoever comes by when it is free.
    let writers = if world.is_sqlite() { 1 } else { 4 };
    let (bus, seen) = (world.bus().await, Seen::default());
    seen.subscribe(&bus).await;
    let writing = (0..writers).map(|writer| {
        let (world, bus) = (world.clone(), bus.clone());
        tokio::spawn(async move {
            for order in (writer..TRANSACTIONS).step_by(writers as usize) {
                let mut tx = world.begin().await;
                tx.place(&bus, order).await;
                match order % 3 {
                    0 => tx.roll_back().await,
                    1 => tx.commit().await,
                    _ => tx.commit_by(&bus).await,
                }
            }
        })
    });
    for writing in writing.collect::<Vec<_>>() {
        writing.await.unwrap();
    }
    let committed: Vec<u64> = (0..TRANSACTIONS).filter(|order| order % 3 != 0).collect();
    eventually("all are handled", || seen.len() >= committed.len()).await;
    world.until_rows("published", committed.len() as i64).await;
    assert_eq!(seen.sorted(), committed);
    // The rows are seen here before the relay is told that they are marked.
    let published = || bus.snapshot().outbox.unwrap().published;
    eventually("the last are counted", || {
        published() >= committed.len() as u64
    })
    .await;
    let outbox = bus.snapshot().outbox.unwrap();
    assert_eq!(
        (outbox.written, outbox.published),
        (TRANSACTIONS, committed.len() as u64)
    );
    end(&bus).await;
}

async fn commits_out_of_order_lose_none(world: World) {
    let (bus, seen) = (world.bus().await, Seen::default());
    seen.subscribe(&bus).await;
    if let Pool::Sqlite(_) = world.pool() {
        // One writes at a time there, so that only what is rolled back leaves a gap.
        for order in 0..3 {
            let mut tx = world.begin().await;
            tx.place(&bus, order).await;
            if order == 1 {
                tx.roll_back().await;
            } else {
                tx.commit().await;
            }
        }
        eventually("both are handled", || seen.len() == 2).await;
        assert_eq!(seen.orders(), [0, 2]);
        return end(&bus).await;
    }
    let mut open = Vec::new();
    for order in 0..4 {
        let mut tx = world.begin().await;
        tx.place(&bus, order).await;
        open.push(tx);
    }
    // Positions 0, 1, 2, 3; the one of 3 is rolled back, and the others committed as 2, 1, 0, each after the former
    // was handled.
    open.pop().unwrap().roll_back().await;
    for order in [2, 1, 0] {
        open.pop().unwrap().commit().await;
        eventually("it is handled", || seen.orders().contains(&order)).await;
    }
    world.until_rows("published", 3).await;
    assert_eq!(seen.orders(), [2, 1, 0]);
    end(&bus).await;
}

/// Writes orders of a key, one a transaction, each when the former was handled, for as long as another transaction is to be
/// held open: longer than a relay's lease in any case.
async fn write_while_held(world: &World, bus: &Bus, seen: &Seen) -> Vec<u64> {
    let is_soak = std::env::var_os("POSTROOM_SOAK").is_some();
    let until = Instant::now() + Duration::from_secs(if is_soak { 60 } else { 3 });
    let mut orders = Vec::new();
    while Instant::now() < until || orders.len() < 100 {
        let order = orders.len() as u64 + 1;
        orders.push(order);
        let mut tx = world.begin().await;
        tx.place_keyed(bus, order, "a").await;
        tx.commit().await;
        eventually("it is handled", || seen.len() == orders.len()).await;
    }
    let published = i64::try_from(orders.len()).unwrap();
    world.until_rows("published", published).await;
    orders
}

async fn a_transaction_held_open_holds_up_nobody(world: World) {
    let relay = World::relay().lease(Duration::from_secs(1));
    let bus = world.builder().relay(relay).start().await.unwrap();
    let seen = Seen::default();
    seen.subscribe(&bus).await;
    if let Pool::Sqlite(_) = world.pool() {
        // A writer keeps all other writers out there; a reader must not keep the relay from its work.
        let Pool::Sqlite(pool) = world.pool() else {
            return;
        };
        let mut reading = pool.begin().await.unwrap();
        let _: i64 = sqlx::query_scalar("SELECT count(*) FROM postroom_outbox")
            .fetch_one(&mut *reading)
            .await
            .unwrap();
        let orders = write_while_held(&world, &bus, &seen).await;
        reading.rollback().await.unwrap();
        assert_eq!(seen.orders(), orders);
        return end(&bus).await;
    }
    let mut held = world.begin().await;
    held.place_keyed(&bus, 0, "a").await;
    let orders = write_while_held(&world, &bus, &seen).await;
    held.commit().await;
    eventually("the held one is handled", || seen.len() > orders.len()).await;
    assert_eq!(seen.orders(), [orders, vec![0]].concat());
    world.until_rows("published", seen.len() as i64).await;
    end(&bus).await;
}

/// Handles both, in the order of one queue.
struct Ledger(Seen);

impl Subscriber<Placed> for Ledger {
    async fn handle(&mut self, placed: &Placed, _: &mut Context<'_>) -> Outcome {
        self.0.note(placed.order);
        Ok(())
    }
}

impl CommandHandler<Charge> for Ledger {
    async fn handle(&mut self, charge: &Charge, _: &mut Context<'_>) -> Result<(), Failure> {
        self.0.note(charge.cents);
        Ok(())
    }
}

async fn rows_of_one_key_keep_their_order_over_retries(world: World) {
    let (bus, seen, others) = (world.bus().await, Seen::default(), Seen::default());
    let mut tx = world.begin().await;
    for number in 0..50 {
        let publish = bus.send(Charge { cents: number * 2 });
        tx.write(publish.key("a")).await.unwrap();
        tx.place_keyed(&bus, number * 2 + 1, "a").await;
        tx.write(bus.publish(Slow(number)).key("b")).await.unwrap();
    }
    tx.commit().await;
    let noted = others.clone();
    bus.subscribe_fn::<Slow, _>("others", async move |slow, _| {
        noted.note(slow.0);
        Ok(())
    })
    .start()
    .await
    .unwrap();
    bus.outbox().unwrap().start_relay();
    // The first command has no queue, so that it fails, and what is of its key stays behind it.
    world.until_rows("retrying", 1).await;
    eventually("those of the other key are handled", || others.len() == 50).await;
    assert!(others.orders().is_sorted());
    // Marks are gathered for some milliseconds after that.
    world.until_rows("waiting", 99).await;
    let noted = seen.clone();
    let ledger = bus.subscriber("ledger", move || Ledger(noted.clone()));
    ledger
        .on::<Placed>()
        .command::<Charge>()
        .start()
        .await
        .unwrap();
    eventually("all are handled", || seen.len() == 100).await;
    assert_eq!(seen.orders(), (0..100).collect::<Vec<_>>());
    world.until_rows("published", 150).await;
    end(&bus).await;
}

async fn a_delayed_row_waits_for_its_time_and_holds_up_nobody(world: World) {
    let (bus, seen) = (world.bus().await, Seen::default());
    seen.subscribe(&bus).await;
    // On PostgreSQL a delay counts from where its transaction began.
    let written = Instant::now();
    let mut tx = world.begin().await;
    let wait = Duration::from_millis(300);
    tx.write(bus.publish(Placed { order: 1 }).key("a").delay(wait))
        .await
        .unwrap();
    let never = Duration::from_secs(u64::MAX / 4);
    tx.write(bus.publish(Placed { order: 9 }).key("a").delay(never))
        .await
        .unwrap();
    tx.place_keyed(&bus, 2, "a").await;
    tx.commit().await;
    eventually("the later one is handled", || seen.len() == 1).await;
    assert_eq!(seen.orders(), [2]);
    eventually("the delayed one is handled", || seen.len() == 2).await;
    assert!(written.elapsed() >= wait);
    assert_eq!(seen.orders(), [2, 1]);
    world.until_rows("published", 2).await;
    assert_eq!(world.rows("scheduled").await, 1);
    end(&bus).await;
}

async fn metadata_comes_through(world: World) {
    let bus = world.bus().await;
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    bus.subscribe_fn::<Placed, _>("seen", async move |_, cx| {
        let envelope = cx.envelope();
        let headers: Vec<_> = envelope
            .headers()
            .map(|(a, b)| format!("{a}={b}"))
            .collect();
        let left = envelope
            .expires_at()
            .unwrap()
            .duration_since(std::time::SystemTime::now());
        told.send((
            envelope.id(),
            envelope.key().map(str::to_owned),
            envelope.correlation_id(),
            envelope.traceparent().map(str::to_owned),
            headers,
            left.unwrap(),
        ))
        .unwrap();
        Ok(())
    })
    .start()
    .await
    .unwrap();
    bus.outbox().unwrap().start_relay();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut tx = world.begin().await;
    let publish = bus
        .publish(Placed { order: 1 })
        .key("ключ")
        .header("tenant", "north \"\u{1}\u{0}")
        .header("tenant", "south")
        .correlation("conversation")
        .traceparent(trace)
        .expires_in(Duration::from_secs(60));
    let recorded = tx.write(publish).await.unwrap();
    tx.commit().await;
    let (id, key, correlation, traceparent, headers, left) =
        crate::common::soon("it is handled", hears.recv())
            .await
            .unwrap();
    assert_eq!(id, recorded.id);
    assert_eq!(key.as_deref(), Some("ключ"));
    assert_eq!(correlation, "conversation");
    assert_eq!(traceparent.as_deref(), Some(trace));
    assert_eq!(headers, ["tenant=north \"\u{1}\u{0}", "tenant=south"]);
    assert!(
        left > Duration::from_secs(50) && left <= Duration::from_secs(60),
        "{left:?}"
    );
    end(&bus).await;
}

async fn a_command_goes_to_its_queue(world: World) {
    let (bus, seen) = (world.bus().await, Seen::default());
    let noted = seen.clone();
    bus.handle_fn::<Charge, _>("charge", async move |charge, _| {
        noted.note(charge.cents);
        Ok(())
    })
    .start()
    .await
    .unwrap();
    seen.subscribe(&bus).await;
    let mut tx = world.begin().await;
    tx.write(bus.send(Charge { cents: 5 })).await.unwrap();
    tx.write(bus.publish_raw("ordering.order-placed", serde_json::json!({"order": 6})))
        .await
        .unwrap();
    tx.commit().await;
    eventually("both are handled", || seen.sorted() == [5, 6]).await;
    end(&bus).await;
}

async fn what_cannot_be_sent_is_refused_before_the_database_is_asked(world: World) {
    let bus = world.builder().body_limit(20).start().await.unwrap();
    let mut tx = world.begin().await;
    let refused = tx
        .write(bus.publish_raw("a.*", serde_json::json!(1)))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, TransactionRefusal::Refused(Refusal::Name(_))),
        "{refused:?}"
    );
    let refused = tx
        .write(bus.publish_raw("a", serde_json::json!("x".repeat(30))))
        .await
        .unwrap_err();
    assert!(
        matches!(
            refused,
            TransactionRefusal::Refused(Refusal::TooLarge { .. })
        ),
        "{refused:?}"
    );
    let refused = tx
        .write(bus.publish(Placed { order: 1 }).key(""))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, TransactionRefusal::Refused(Refusal::Name(_))),
        "{refused:?}"
    );
    // The transaction is as good as before.
    tx.place(&bus, 1).await;
    tx.commit().await;
    assert_eq!(world.rows("waiting").await, 1);
    let without = Bus::builder("other").start().await.unwrap();
    let mut tx = world.begin().await;
    let refused = tx
        .write(without.publish(Placed { order: 1 }))
        .await
        .unwrap_err();
    assert_eq!(refused, TransactionRefusal::NoStore);
    let other = if world.is_sqlite() {
        World::postgres().await
    } else {
        World::sqlite().await
    };
    let mut foreign = other.begin().await;
    let refused = match &mut foreign {
        Tx::Sqlite(tx) => bus
            .publish(Placed { order: 7 })
            .in_transaction(tx)
            .await
            .unwrap_err(),
        Tx::Postgres(tx) => bus
            .publish(Placed { order: 7 })
            .in_transaction(tx)
            .await
            .unwrap_err(),
    };
    assert!(
        matches!(refused.kind(), TransactionRefusal::OtherDatabase { .. }),
        "{refused:?}"
    );
    assert_eq!(refused.into_message().order, 7, "the message is given back");
    drop((tx, foreign));
    // A connection that is in no transaction would commit the row by itself.
    let refused = match world.pool() {
        Pool::Sqlite(pool) => {
            let mut connection = pool.acquire().await.unwrap();
            let publish = bus.publish(Placed { order: 8 });
            publish.in_transaction(&mut *connection).await.unwrap_err()
        }
        Pool::Postgres(pool) => {
            let mut connection = pool.acquire().await.unwrap();
            let publish = bus.publish(Placed { order: 8 });
            publish.in_transaction(&mut *connection).await.unwrap_err()
        }
    };
    assert_eq!(*refused.kind(), TransactionRefusal::NoTransaction);
    assert_eq!(world.rows("waiting").await, 1);
    end(&without).await;
    end(&bus).await;
}

#[tokio::test]
async fn a_setting_of_a_store_without_a_store_is_refused() {
    let without = |builder: Builder| async move { builder.start().await.err() };
    let builder = || Bus::builder("shop");
    for (builder, what) in [
        (builder().relay(Relay::new()), "relay"),
        (
            builder().durable_settings(Durable::new()),
            "durable_settings",
        ),
        (builder().store_when_down(WhenDown::Fail), "store_when_down"),
        (builder().migrations(Migrations::Assume), "migrations"),
    ] {
        let refused = without(builder).await;
        assert!(
            matches!(refused, Some(StartError::NoStore(said)) if said == what),
            "{refused:?}"
        );
    }
}

async fn a_full_queue_costs_no_attempt_and_holds_up_no_other(world: World) {
    let (bus, seen) = (world.bus().await, Seen::default());
    let door = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let (behind, noted) = (door.clone(), seen.clone());
    bus.subscribe_fn::<Slow, _>("slow", async move |_, _| {
        behind.acquire().await.unwrap().forget();
        noted.note(1000);
        Ok(())
    })
    .mailbox(2)
    .start()
    .await
    .unwrap();
    seen.subscribe(&bus).await;
    let mut tx = world.begin().await;
    for number in 0..50 {
        tx.write(bus.publish(Slow(number))).await.unwrap();
    }
    tx.commit().await;
    eventually("some found their queue full", || {
        bus.snapshot().outbox.unwrap().held_back > 0
    })
    .await;
    for order in 0..20 {
        let mut tx = world.begin().await;
        tx.place(&bus, order).await;
        tx.commit_by(&bus).await;
    }
    eventually("the others are handled", || seen.len() == 20).await;
    assert_eq!(
        world
            .number("SELECT CAST(max(attempts) AS BIGINT) FROM postroom_outbox")
            .await,
        0
    );
    door.add_permits(50);
    eventually("those too", || seen.len() == 70).await;
    world.until_rows("published", 70).await;
    end(&bus).await;
}

async fn published_rows_are_deleted_after_their_time(world: World) {
    let relay = World::relay().keep_published(Duration::ZERO);
    let (bus, seen) = (
        world.builder().relay(relay).start().await.unwrap(),
        Seen::default(),
    );
    seen.subscribe(&bus).await;
    let mut tx = world.begin().await;
    for order in 0..100 {
        tx.place(&bus, order).await;
    }
    tx.commit().await;
    eventually("all are handled", || seen.len() == 100).await;
    world.until("SELECT count(*) FROM postroom_outbox", 0).await;
    end(&bus).await;
    // Old ones are deleted in batches, and those that are not published never.
    let relay = World::relay()
        .keep_published(Duration::from_secs(60))
        .clean_batch(1);
    let bus = world.builder().relay(relay).start().await.unwrap();
    let mut tx = world.begin().await;
    for order in 0..40 {
        tx.place(&bus, order).await;
    }
    tx.commit().await;
    let old = if world.is_sqlite() {
        "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-61 seconds')"
    } else {
        "now() - interval '61 seconds'"
    };
    let age = format!(
        "UPDATE postroom_outbox SET status = 'published', published_at = {old} WHERE position % 2 = 0"
    );
    world.run(&age).await;
    let cleaned = || bus.snapshot().outbox.unwrap().cleaned;
    eventually("some are deleted, not all at once", || {
        (1..20).contains(&cleaned())
    })
    .await;
    world
        .until("SELECT count(*) FROM postroom_outbox", 20)
        .await;
    assert_eq!(world.rows("waiting").await, 20);
    eventually("they are counted", || cleaned() == 20).await;
    end(&bus).await;
}

async fn nothing_is_published_before_the_relay_is_started(world: World) {
    let (bus, seen) = (world.bus().await, Seen::default());
    let mut tx = world.begin().await;
    tx.place(&bus, 1).await;
    tx.commit_by(&bus).await;
    let conditions = bus.health();
    let conditions = conditions.conditions();
    assert!(
        conditions
            .iter()
            .any(|condition| condition.problem == Problem::RelayNotStarted)
    );
    assert_eq!(world.rows("waiting").await, 1);
    seen.subscribe(&bus).await;
    eventually("it is handled", || seen.orders() == [1]).await;
    assert!(bus.health().is_ready(), "{:?}", bus.health());
    end(&bus).await;
}

async fn a_shutdown_keeps_what_is_not_published(world: World) {
    let (bus, seen) = (world.bus().await, Seen::default());
    seen.subscribe(&bus).await;
    for batch in 0..20 {
        let mut tx = world.begin().await;
        for order in 0..100 {
            tx.place(&bus, batch * 100 + order).await;
        }
        tx.commit().await;
    }
    end(&bus).await;
    let handled = seen.len() as i64;
    assert_eq!(
        world.rows("published").await,
        handled,
        "each that was handled is marked"
    );
    assert_eq!(world.rows("waiting").await, 2000 - handled);
    let held = world
        .number("SELECT count(*) FROM postroom_lanes WHERE holder IS NOT NULL")
        .await;
    assert_eq!(held, 0, "the lanes are free at once");
    let bus = world.bus().await;
    seen.subscribe(&bus).await;
    eventually("the rest is handled", || seen.len() == 2000).await;
    assert_eq!(seen.sorted(), (0..2000).collect::<Vec<_>>());
    end(&bus).await;
}
