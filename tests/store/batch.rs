//! Many messages written into one transaction together.

use std::time::Duration;

use crate::common::store::{Charge, Placed, Pool, Seen, Tx, World, over_both};
use crate::common::{end, eventually};
use postroom::{Batch, Bus, Context, Event, MessageId, Refusal, TransactionRefusal};
use serde::{Deserialize, Serialize};

over_both!(
    a_batch_is_published_in_its_order_when_it_commits_and_never_otherwise,
    each_message_of_a_batch_has_its_own_options,
    what_cannot_be_sent_is_refused_alone,
    a_batch_goes_only_into_the_database_of_its_bus,
    a_batch_that_the_database_does_not_take_leaves_nothing,
    text_that_the_database_does_not_take_is_refused_where_it_is_written,
);

#[derive(Serialize, Deserialize)]
struct Text(String);
impl Event for Text {
    const TOPIC: &'static str = "text";
}

async fn write(batch: Batch<'_>, tx: &mut Tx) -> Result<(), TransactionRefusal> {
    match tx {
        Tx::Sqlite(tx) => batch.in_transaction(tx).await,
        Tx::Postgres(tx) => batch.in_transaction(tx).await,
    }
}

async fn a_batch_is_published_in_its_order_when_it_commits_and_never_otherwise(world: World) {
    let (bus, seen) = (world.bus().await, Seen::default());
    seen.subscribe(&bus).await;
    // More than one statement takes, one, and none.
    for (orders, commits) in [
        (0..1201, true),
        (1201..1300, false),
        (1300..1301, true),
        (0..0, true),
    ] {
        let mut batch = bus.batch();
        for order in orders.clone() {
            // One lane: what is published in the order of writing.
            batch.add(bus.publish(Placed { order }).key("one")).unwrap();
        }
        assert_eq!(batch.len() as u64, orders.end - orders.start);
        assert_eq!(batch.is_empty(), orders.is_empty());
        let mut tx = world.begin().await;
        write(batch, &mut tx).await.unwrap();
        match commits {
            true => tx.commit_by(&bus).await,
            false => tx.roll_back().await,
        }
    }
    eventually("all are handled", || seen.len() >= 1202).await;
    world.until_rows("published", 1202).await;
    let expected: Vec<u64> = (0..1201).chain([1300]).collect();
    assert_eq!(seen.orders(), expected);
    assert_eq!(bus.snapshot().outbox.unwrap().written, 1300 + 1);
    end(&bus).await;
}

async fn each_message_of_a_batch_has_its_own_options(world: World) {
    let bus = world.bus().await;
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let tell = move |what: &str, cx: &Context<'_>| {
        let envelope = cx.envelope();
        let headers = envelope
            .headers()
            .map(|(name, value)| format!("{name}={value}"));
        let key = envelope.key().map(str::to_owned);
        let seen = (
            envelope.id(),
            what.to_owned(),
            key,
            headers.collect::<Vec<_>>(),
        );
        told.send(seen).unwrap();
        Ok(())
    };
    let texts = tell.clone();
    let texts = bus.subscribe_fn::<Text, _>("texts", async move |text, cx| texts(&text.0, cx));
    texts.start().await.unwrap();
    let charges =
        async move |charge: &Charge, cx: &mut Context<'_>| tell(&charge.cents.to_string(), cx);
    let charges = bus.handle_fn::<Charge, _>("charges", charges);
    charges.start().await.unwrap();
    bus.outbox().unwrap().start_relay();
    let mut batch = bus.batch();
    // As hard to quote as a text can be.
    let odd = "\"'\\\u{1}$1 ?1 ключ\u{fffd}🦀\u{0}";
    let text = |text: &str| bus.publish(Text(text.to_owned()));
    let ids: [MessageId; 4] = [
        batch.add(text(odd).key("ключ").header("a", odd)).unwrap(),
        batch.add(bus.send(Charge { cents: 7 })).unwrap(),
        batch
            .add(text("later").delay(Duration::from_millis(300)))
            .unwrap(),
        batch
            .add(text("never").delay(Duration::from_secs(600)))
            .unwrap(),
    ];
    let mut tx = world.begin().await;
    write(batch, &mut tx).await.unwrap();
    tx.commit_by(&bus).await;
    let mut got = Vec::new();
    for _ in 0..3 {
        let heard = crate::common::soon("a message", hears.recv()).await;
        got.push(heard.unwrap());
    }
    let last = got.pop().unwrap();
    assert_eq!(last, (ids[2], "later".to_owned(), None, vec![]));
    got.sort();
    let mut expected = [
        (
            ids[0],
            odd.to_owned(),
            Some("ключ".to_owned()),
            vec![format!("a={odd}")],
        ),
        (ids[1], "7".to_owned(), None, vec![]),
    ];
    expected.sort();
    assert_eq!(got, expected);
    assert_eq!(world.rows("scheduled").await, 1);
    end(&bus).await;
}

async fn what_cannot_be_sent_is_refused_alone(world: World) {
    let bus = world.builder().body_limit(20).start().await.unwrap();
    let mut batch = bus.batch();
    batch.add(bus.publish(Placed { order: 1 })).unwrap();
    let refused = batch.add(bus.publish(Text("x".repeat(30)))).unwrap_err();
    let kind = refused.kind().clone();
    let too_large = TransactionRefusal::Refused(Refusal::TooLarge {
        size: 32,
        limit: 20,
    });
    assert_eq!(kind, too_large);
    assert_eq!(refused.into_message().0.len(), 30);
    let refused = batch
        .add(bus.publish(Placed { order: 7 }).key(""))
        .unwrap_err();
    assert!(matches!(
        refused.kind(),
        TransactionRefusal::Refused(Refusal::Name(_))
    ));
    batch.add(bus.publish(Placed { order: 2 })).unwrap();
    assert_eq!(batch.len(), 2);
    let mut tx = world.begin().await;
    write(batch, &mut tx).await.unwrap();
    tx.commit().await;
    let bodies = world
        .texts("SELECT body FROM postroom_outbox ORDER BY position")
        .await;
    assert_eq!(bodies, [r#"{"order":1}"#, r#"{"order":2}"#]);
    let mut late = bus.batch();
    late.add(bus.publish(Placed { order: 3 })).unwrap();
    end(&bus).await;
    let closed = TransactionRefusal::Refused(Refusal::Closed);
    let refused = late.add(bus.publish(Placed { order: 4 })).unwrap_err();
    assert_eq!(*refused.kind(), closed);
    let mut tx = world.begin().await;
    assert_eq!(write(late, &mut tx).await.unwrap_err(), closed);
}

async fn a_batch_goes_only_into_the_database_of_its_bus(world: World) {
    let bus = world.bus().await;
    let other = match world.is_sqlite() {
        true => World::postgres().await,
        false => World::sqlite().await,
    };
    let mut tx = other.begin().await;
    let mut batch = bus.batch();
    batch.add(bus.publish(Placed { order: 1 })).unwrap();
    let refused = write(batch, &mut tx).await.unwrap_err();
    assert!(matches!(refused, TransactionRefusal::OtherDatabase { .. }));
    tx.roll_back().await;
    let without = Bus::builder("other").start().await.unwrap();
    let mut batch = without.batch();
    let refused = batch.add(without.publish(Placed { order: 2 })).unwrap_err();
    assert_eq!(*refused.kind(), TransactionRefusal::NoStore);
    end(&without).await;
    end(&bus).await;
}

/// A batch of several statements, of which a later one fails.
async fn a_batch_that_the_database_does_not_take_leaves_nothing(world: World) {
    let bus = world.bus().await;
    match world.pool() {
        Pool::Sqlite(_) => {
            world
                .run(
                    "CREATE TRIGGER no_seven BEFORE INSERT ON postroom_outbox WHEN NEW.body = '{\"order\":700}' \
                     BEGIN SELECT RAISE(ABORT, 'not seven'); END",
                )
                .await;
        }
        Pool::Postgres(_) => {
            let check = "ALTER TABLE postroom_outbox ADD CHECK (body <> '{\"order\":700}')";
            world.run(check).await;
        }
    }
    let mut batch = bus.batch();
    for order in 0..1000 {
        batch.add(bus.publish(Placed { order })).unwrap();
    }
    let mut tx = world.begin().await;
    let refused = write(batch, &mut tx).await.unwrap_err();
    assert!(
        matches!(refused, TransactionRefusal::Database(_)),
        "{refused:?}"
    );
    tx.roll_back().await;
    assert_eq!(
        world.number("SELECT count(*) FROM postroom_outbox").await,
        0
    );
    // The next one is as good as ever.
    let mut batch = bus.batch();
    batch.add(bus.publish(Placed { order: 1 })).unwrap();
    let mut tx = world.begin().await;
    write(batch, &mut tx).await.unwrap();
    tx.commit().await;
    world.until("SELECT count(*) FROM postroom_outbox", 1).await;
    end(&bus).await;
}

/// PostgreSQL has no text with a NUL in it; SQLite has.
async fn text_that_the_database_does_not_take_is_refused_where_it_is_written(world: World) {
    let bus = world.bus().await;
    let with_nul = |order| bus.publish(Placed { order }).correlation("a\0b");
    let mut tx = world.begin().await;
    let alone = tx.write(with_nul(1)).await.map(drop);
    tx.roll_back().await;
    let mut batch = bus.batch();
    for order in 0..2 {
        batch.add(with_nul(order)).unwrap();
    }
    let mut tx = world.begin().await;
    let many = write(batch, &mut tx).await;
    tx.roll_back().await;
    for written in [alone, many] {
        match written {
            Ok(()) => assert!(world.is_sqlite()),
            Err(refused) => assert!(
                !world.is_sqlite() && matches!(refused, TransactionRefusal::Database(_)),
                "{refused:?}"
            ),
        }
    }
    let delayed = with_nul(3).delay(Duration::from_secs(60)).await;
    match delayed {
        Ok(_) => assert!(world.is_sqlite()),
        Err(refused) => {
            let kind = refused.kind();
            assert!(
                !world.is_sqlite() && matches!(kind, Refusal::NotStored { .. }),
                "{refused}"
            );
            assert_eq!(refused.into_message().unwrap().order, 3);
        }
    }
    // The writer goes on as ever.
    let later = Duration::from_secs(60);
    bus.publish(Placed { order: 4 }).delay(later).await.unwrap();
    end(&bus).await;
}
