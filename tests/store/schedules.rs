//! Delayed messages of a bus with a store, over SQLite and PostgreSQL: rows of the outbox, which survive the process and
//! can be taken back until they are published.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::common::store::{Placed, PrivatePostgres, Seen, Tx, World, over_both};
use crate::common::{end, eventually};
use postroom::{Bus, Context, Event, Refusal};
use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;

over_both!(
    a_delayed_message_is_a_row_and_survives_a_restart,
    a_message_is_taken_back_by_its_id_from_another_process,
    of_taking_back_and_publishing_one_wins,
    a_delayed_send_of_a_handler_survives,
    a_row_written_in_a_transaction_can_be_taken_back_after_its_commit,
    a_delay_counts_from_where_it_is_written,
    one_dropped_while_it_is_written_is_there_once_or_not_at_all,
);

const HOUR: Duration = Duration::from_secs(3600);

async fn a_delayed_message_is_a_row_and_survives_a_restart(world: World) {
    let first = world.bus().await;
    let seen = Seen::default();
    seen.subscribe(&first).await;
    let receipt = first
        .publish(Placed { order: 7 })
        .key("k")
        .delay(Duration::from_millis(700))
        .await
        .unwrap();
    assert_eq!(receipt.local.accepted, 0);
    assert_eq!(receipt.schedule.unwrap().id(), receipt.id);
    let row = "SELECT id || ' ' || address || ' ' || key || ' ' || body FROM postroom_outbox WHERE status = 'scheduled'";
    let expected = format!(r#"{} ordering.order-placed k {{"order":7}}"#, receipt.id);
    assert_eq!(world.texts(row).await, [expected]);
    let report = first.shutdown(Duration::from_secs(5)).await;
    assert!(report.abandoned.is_empty(), "{report:?}");
    assert_eq!((seen.len(), world.rows("scheduled").await), (0, 1));
    let second = world.bus().await;
    seen.subscribe(&second).await;
    world.until_rows("published", 1).await;
    eventually("handled", || seen.orders() == [7]).await;
    assert_eq!(world.rows("scheduled").await, 0);
    end(&second).await;
}

/// By its publisher, while its statement waits for a lock.
async fn one_dropped_while_it_is_written_is_there_once_or_not_at_all(world: World) {
    let bus = world.bus().await;
    // The parts run, and the writer has its connection.
    bus.publish(Placed { order: 0 }).delay(HOUR).await.unwrap();
    for order in 1..=5 {
        let mut tx = world.begin().await;
        if !world.is_sqlite() {
            tx.run("LOCK TABLE postroom_outbox IN EXCLUSIVE MODE").await;
        }
        let patience = Duration::from_millis(50 * order);
        let publish = bus.publish(Placed { order }).delay(HOUR);
        let dropped = tokio::time::timeout(patience, publish).await;
        assert!(dropped.is_err(), "it cannot have been written");
        tx.roll_back().await;
    }
    // Whatever became of them, this one comes after them.
    bus.publish(Placed { order: 6 }).delay(HOUR).await.unwrap();
    let bodies = world.texts("SELECT body FROM postroom_outbox").await;
    let each: BTreeSet<&String> = bodies.iter().collect();
    assert_eq!(each.len(), bodies.len(), "{bodies:?}");
    for order in [0, 6] {
        assert!(bodies.contains(&format!(r#"{{"order":{order}}}"#)));
    }
    let waiting = bus.schedules().list(None, 10).await.unwrap();
    assert_eq!(waiting.len(), bodies.len());
    end(&bus).await;
}

async fn a_message_is_taken_back_by_its_id_from_another_process(world: World) {
    let (first, second) = (world.bus().await, world.bus().await);
    let seen = Seen::default();
    seen.subscribe(&first).await;
    let mut handles = Vec::new();
    for (order, delay) in [(1, 3), (2, 1), (3, 2)] {
        let delayed = first.publish(Placed { order }).delay(HOUR * delay).await;
        handles.push(delayed.unwrap().schedule.unwrap());
    }
    let schedules = second.schedules();
    let listed = schedules.list(Some(Placed::TOPIC), 2).await.unwrap();
    let bodies: Vec<_> = listed
        .iter()
        .map(|one| one.json().unwrap().to_vec())
        .collect();
    assert_eq!(
        bodies,
        [br#"{"order":2}"#.to_vec(), br#"{"order":3}"#.to_vec()]
    );
    let until_due = |one: &postroom::ScheduledMessage, handle: &postroom::Schedule| {
        let (told, expected) = (one.due, handle.due());
        let differ = told
            .max(expected)
            .duration_since(told.min(expected))
            .unwrap();
        assert!(differ < Duration::from_secs(60), "{told:?}, {expected:?}");
    };
    until_due(&listed[0], &handles[1]);
    assert!(schedules.list(Some("other"), 9).await.unwrap().is_empty());
    assert_eq!(schedules.len().await.unwrap(), 3);
    assert!(schedules.cancel(handles[0].id()).await.unwrap());
    assert!(!handles[0].cancel().await.unwrap(), "once");
    assert!(handles[1].cancel().await.unwrap());
    assert_eq!(
        world.number("SELECT count(*) FROM postroom_outbox").await,
        1
    );
    end(&first).await;
    assert!(schedules.cancel(handles[2].id()).await.unwrap());
    assert!(schedules.is_empty().await.unwrap());
    end(&second).await;
}

async fn of_taking_back_and_publishing_one_wins(world: World) {
    const MESSAGES: u64 = 300;
    let (first, second) = (world.bus().await, world.bus().await);
    let seen = Seen::default();
    for bus in [&first, &second] {
        seen.subscribe(bus).await;
    }
    let mut handles = Vec::new();
    for order in 0..MESSAGES {
        let delay = Duration::from_millis(200 + fastrand::u64(..300));
        let bus = if order % 2 == 0 { &first } else { &second };
        let receipt = bus.publish(Placed { order }).delay(delay).await.unwrap();
        handles.push((order, receipt.schedule.unwrap()));
    }
    fastrand::shuffle(&mut handles);
    let mut cancelled = BTreeSet::new();
    for (order, handle) in &handles {
        if handle.cancel().await.unwrap() {
            cancelled.insert(*order);
        }
    }
    world.until_rows("scheduled", 0).await;
    let left = usize::try_from(MESSAGES).unwrap() - cancelled.len();
    world
        .until_rows("published", i64::try_from(left).unwrap())
        .await;
    eventually("all others", || seen.len() == left).await;
    let handled: BTreeSet<u64> = seen.orders().into_iter().collect();
    assert_eq!(handled.len(), left, "none twice");
    assert!(handled.is_disjoint(&cancelled));
    end(&first).await;
    end(&second).await;
}

#[derive(Debug, Serialize, Deserialize)]
struct Reminded {
    order: u64,
}
impl Event for Reminded {
    const TOPIC: &'static str = "ordering.reminded";
}

async fn reminding(bus: &Bus, seen: &Seen) {
    bus.subscribe_fn::<Placed, _>("remind", async |placed: &Placed, cx: &mut Context<'_>| {
        let order = placed.order;
        cx.publish(Reminded { order }).delay(Duration::from_secs(1));
        Ok(())
    })
    .start()
    .await
    .unwrap();
    let note = seen.clone();
    bus.subscribe_fn::<Reminded, _>(
        "reminded",
        async move |it: &Reminded, _: &mut Context<'_>| {
            note.note(it.order);
            Ok(())
        },
    )
    .start()
    .await
    .unwrap();
    bus.outbox().unwrap().start_relay();
}

async fn a_delayed_send_of_a_handler_survives(world: World) {
    let first = world.bus().await;
    let seen = Seen::default();
    reminding(&first, &seen).await;
    first.publish(Placed { order: 7 }).await.unwrap();
    world.until_rows("scheduled", 1).await;
    let causation = "SELECT causation FROM postroom_outbox";
    assert_eq!(world.texts(causation).await.len(), 1);
    end(&first).await;
    assert_eq!(seen.len(), 0);
    let second = world.bus().await;
    reminding(&second, &seen).await;
    eventually("reminded", || seen.orders() == [7]).await;
    end(&second).await;
}

async fn a_row_written_in_a_transaction_can_be_taken_back_after_its_commit(world: World) {
    let bus = world.bus().await;
    let seen = Seen::default();
    seen.subscribe(&bus).await;
    let mut ids = Vec::new();
    let mut tx = world.begin().await;
    for order in 0..2 {
        let publish = bus.publish(Placed { order }).delay(HOUR);
        ids.push(tx.write(publish).await.unwrap().id);
    }
    tx.commit().await;
    let schedules = bus.schedules();
    assert_eq!(schedules.len().await.unwrap(), 2);
    assert!(schedules.cancel(ids[0]).await.unwrap());
    assert!(!schedules.cancel(ids[0]).await.unwrap());
    let left = schedules.list(None, 9).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].envelope().id(), ids[1]);
    end(&bus).await;
}

async fn a_delay_counts_from_where_it_is_written(world: World) {
    let bus = world.bus().await;
    let mut tx = world.begin().await;
    // A transaction that has been open for longer than the delay.
    match &mut tx {
        Tx::Postgres(tx) => {
            let held = sqlx::query("SELECT pg_sleep(1.5)").execute(&mut **tx);
            held.await.unwrap();
        }
        Tx::Sqlite(_) => tokio::time::sleep(Duration::from_millis(1500)).await,
    }
    let publish = bus
        .publish(Placed { order: 1 })
        .delay(Duration::from_secs(1));
    tx.write(publish).await.unwrap();
    let is_later = |now: &str| {
        AssertSqlSafe(format!(
            "SELECT count(*) FROM postroom_outbox WHERE due_at > {now}"
        ))
    };
    let later: i64 = match &mut tx {
        Tx::Postgres(tx) => {
            let later = sqlx::query_scalar(is_later("clock_timestamp()"));
            later.fetch_one(&mut **tx).await.unwrap()
        }
        Tx::Sqlite(tx) => {
            let later = sqlx::query_scalar(is_later("strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"));
            later.fetch_one(&mut **tx).await.unwrap()
        }
    };
    assert_eq!(later, 1);
    tx.roll_back().await;
    end(&bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_down_gives_the_message_back() {
    let server = PrivatePostgres::begin().await;
    let world = server.world().await;
    let bus = world.bus().await;
    let seen = Seen::default();
    seen.subscribe(&bus).await;
    let delayed = |order, delay| {
        let publish = bus.publish(Placed { order }).delay(delay);
        publish.timeout(Duration::from_millis(500))
    };
    // Its parts are there, and lose their connections.
    delayed(1, HOUR).await.unwrap();
    server.told("kill").await;
    let refused = delayed(2, HOUR).await.unwrap_err();
    let is_told = matches!(
        refused.kind(),
        Refusal::NotStored { .. } | Refusal::Unconfirmed { .. }
    );
    assert!(is_told, "{:?}", refused.kind());
    assert_eq!(refused.into_message().unwrap().order, 2);
    assert!(bus.schedules().list(None, 9).await.is_err());
    server.told("start").await;
    let until = std::time::Instant::now() + crate::common::PATIENCE;
    while let Err(refused) = delayed(3, Duration::from_millis(1)).await {
        assert!(std::time::Instant::now() < until, "{refused}");
    }
    eventually("the one after it", || seen.len() > 0).await;
    assert!(seen.orders().iter().all(|order| *order == 3));
    end(&bus).await;
}
