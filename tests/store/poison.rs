//! Rows of the outbox that cannot be published: given up, told why, and in the way of nobody.

use std::time::{Duration, Instant};

use crate::common::store::{Charge, Seen, World, over_both};
use crate::common::{end, eventually};
use postroom::MessageId;

over_both!(
    poison_rows_at_the_head_delay_good_ones_by_two_polls,
    poison_is_given_up_listed_replayed_and_discarded,
    rows_that_are_no_messages_are_given_up_and_say_why,
);

async fn poison_rows_at_the_head_delay_good_ones_by_two_polls(world: World) {
    // The default. With a shorter one the bound would be one of the machine's.
    let poll = Duration::from_secs(1);
    // The poison alone fills what may be in memory several times.
    let relay = World::relay().slow_poll(poll).window(32);
    let bus = world.builder().relay(relay).start().await.unwrap();
    let seen = Seen::default();
    let mut tx = world.begin().await;
    for cents in 0..200 {
        tx.write(bus.send(Charge { cents })).await.unwrap();
    }
    for order in 0..50 {
        tx.place(&bus, order).await;
    }
    tx.commit().await;
    let started = Instant::now();
    seen.subscribe(&bus).await;
    eventually("the good ones are handled", || seen.len() == 50).await;
    assert!(started.elapsed() < 2 * poll, "{:?}", started.elapsed());
    // And while the poison is tried again and again.
    for order in 50..60 {
        let mut tx = world.begin().await;
        tx.place(&bus, order).await;
        let started = Instant::now();
        tx.commit_by(&bus).await;
        eventually("it is handled", || seen.orders().contains(&order)).await;
        assert!(started.elapsed() < 2 * poll, "{:?}", started.elapsed());
    }
    world.until_rows("dead", 200).await;
    end(&bus).await;
}

async fn poison_is_given_up_listed_replayed_and_discarded(world: World) {
    let relay = World::relay().attempts(2);
    let (bus, seen) = (
        world.builder().relay(relay).start().await.unwrap(),
        Seen::default(),
    );
    let mut tx = world.begin().await;
    for cents in 0..3 {
        tx.write(bus.send(Charge { cents }).key(cents))
            .await
            .unwrap();
    }
    tx.commit().await;
    seen.subscribe(&bus).await;
    world.until_rows("dead", 3).await;
    let outbox = bus.outbox().unwrap();
    let dead = outbox.dead(10).await.unwrap();
    assert_eq!(dead.len(), 3);
    assert_eq!(outbox.dead(2).await.unwrap().len(), 2);
    assert_eq!(
        (dead[0].attempts, dead[0].address.as_str()),
        (2, "payment.charge")
    );
    assert_eq!(
        dead[0].last_error.as_deref(),
        Some("no queue is named `payment.charge`")
    );
    assert_eq!(dead[1].body, r#"{"cents":1}"#);
    assert!(outbox.discard(&dead[0].id).await.unwrap());
    assert!(!outbox.discard(&dead[0].id).await.unwrap());
    let noted = seen.clone();
    bus.handle_fn::<Charge, _>("charge", async move |charge, _| {
        noted.note(charge.cents);
        Ok(())
    })
    .start()
    .await
    .unwrap();
    assert!(outbox.replay(&dead[2].id).await.unwrap());
    assert!(
        !outbox.replay(&dead[2].id).await.unwrap(),
        "it is not dead any more"
    );
    eventually("it is handled", || seen.orders() == [2]).await;
    world.until_rows("published", 1).await;
    let counts = bus.snapshot().outbox.unwrap();
    assert_eq!((counts.given_up, counts.failed), (3, 6));
    end(&bus).await;
}

async fn rows_that_are_no_messages_are_given_up_and_say_why(world: World) {
    let (bus, seen) = (world.bus().await, Seen::default());
    let id = MessageId::new();
    let rows = [
        ("no-id", "event", "null", "{}", "the id is no UUID"),
        ("", "letter", "null", "{}", "the kind is neither"),
        ("", "event", "null", "{", "the body is no JSON"),
        (
            "",
            "event",
            "'{}'",
            "{}",
            "the headers are no JSON array of pairs",
        ),
    ];
    for (at, (broken, kind, headers, body, _)) in rows.into_iter().enumerate() {
        let id = match broken {
            "" => format!("{}{at}", &id.to_string()[..35]),
            broken => broken.to_owned(),
        };
        world
            .run(&format!(
                "INSERT INTO postroom_outbox (id, kind, address, lane, headers, body, status) \
                 VALUES ('{id}', '{kind}', 'ordering.order-placed', 7, {headers}, '{body}', 'waiting')"
            ))
            .await;
    }
    // Behind them, in the same lane.
    world
        .run(&format!(
            "INSERT INTO postroom_outbox (id, kind, address, lane, body, status) \
             VALUES ('{id}', 'event', 'ordering.order-placed', 7, '{{\"order\":1}}', 'waiting')"
        ))
        .await;
    seen.subscribe(&bus).await;
    eventually("the good one is handled", || seen.orders() == [1]).await;
    world.until_rows("dead", rows.len() as i64).await;
    let dead = bus.outbox().unwrap().dead(10).await.unwrap();
    for (dead, (_, kind, _, body, why)) in dead.iter().zip(rows) {
        let said = dead.last_error.as_deref().unwrap();
        assert!(said.starts_with(why), "{kind} {body}: {said}");
    }
    end(&bus).await;
}

/// SQLite takes them in a column of texts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_in_place_of_a_text_are_read_as_one_and_stop_no_other_row() {
    let world = World::sqlite().await;
    let (bus, seen) = (world.bus().await, Seen::default());
    for body in [
        "X'FF00'",
        "CAST('{\"order\":1}' AS BLOB)",
        "'{\"order\":2}'",
    ] {
        let id = MessageId::new();
        world
            .run(&format!(
                "INSERT INTO postroom_outbox (id, kind, address, lane, body, status) \
                 VALUES ('{id}', 'event', 'ordering.order-placed', 7, {body}, 'waiting')"
            ))
            .await;
    }
    seen.subscribe(&bus).await;
    eventually("both are handled", || seen.orders() == [1, 2]).await;
    world.until_rows("dead", 1).await;
    let dead = bus.outbox().unwrap().dead(10).await.unwrap();
    let why = dead[0].last_error.as_deref().unwrap();
    assert!(why.starts_with("the body is no JSON"), "{why}");
    end(&bus).await;
}
