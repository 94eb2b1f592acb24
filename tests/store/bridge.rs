//! The outbox through the bridge: what was written in a transaction comes to RabbitMQ, over its outages too.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::rabbit::Rabbit;
use crate::common::store::{Charge, Placed, Seen, World, over_both};
use crate::common::{end, eventually};
use postroom::{Amqp, Bus, DeleteOnly, Durable, Event, Overflow, Refusal};
use serde::{Deserialize, Serialize};

over_both!(
    what_is_written_crosses_over_an_outage_and_holds_up_nothing_local,
    what_rabbit_mq_has_and_a_durable_queue_has_not_is_unconfirmed,
    what_a_full_durable_queue_does_not_take_is_not_exported_again_and_again,
    commands_and_delayed_ones_cross_with_what_belongs_to_them,
);

#[derive(Serialize, Deserialize)]
struct Local(u64);
impl Event for Local {
    const TOPIC: &'static str = "local.thing";
}

async fn what_is_written_crosses_over_an_outage_and_holds_up_nothing_local(world: World) {
    let rabbit = tokio::task::spawn_blocking(Rabbit::start).await.unwrap();
    let amqp = || Amqp::new(rabbit.url()).prefix("outbox");
    let mail = Bus::builder("mail")
        .bridge(amqp().import("ordering.#"))
        .start()
        .await
        .unwrap();
    let received: Arc<Mutex<Vec<(String, u64)>>> = Arc::default();
    let noted = Arc::clone(&received);
    mail.subscribe_fn::<Placed, _>("mail", async move |placed, cx| {
        noted
            .lock()
            .unwrap()
            .push((cx.envelope().id().to_string(), placed.order));
        Ok(())
    })
    .start()
    .await
    .unwrap();
    let relay = World::relay().publish_timeout(Duration::from_secs(1));
    let shop = world
        .builder()
        .relay(relay)
        .bridge(amqp().export("ordering.#"))
        .start()
        .await
        .unwrap();
    let (local, seen) = (Seen::default(), Seen::default());
    let noted = local.clone();
    shop.subscribe_fn::<Local, _>("local", async move |message, _| {
        noted.note(message.0);
        Ok(())
    })
    .start()
    .await
    .unwrap();
    // One of this process gets it too.
    seen.subscribe(&shop).await;
    let mut written = BTreeSet::new();
    for order in 0..300 {
        let mut tx = world.begin().await;
        let recorded = tx.place_keyed(&shop, order, &(order % 3).to_string()).await;
        written.insert((recorded.id.to_string(), order));
        tx.commit().await;
    }
    eventually("all have crossed", || received.lock().unwrap().len() >= 300).await;
    eventually("those of this process too", || seen.len() == 300).await;
    rabbit.run(|rabbit| rabbit.kill()).await;
    for order in 300..600 {
        let mut tx = world.begin().await;
        let recorded = tx.place_keyed(&shop, order, &(order % 3).to_string()).await;
        written.insert((recorded.id.to_string(), order));
        tx.write(shop.publish(Local(order))).await.unwrap();
        tx.commit().await;
    }
    eventually("what is local goes on", || local.len() == 300).await;
    eventually("rows were held back", || {
        shop.snapshot().outbox.unwrap().held_back > 0
    })
    .await;
    rabbit.run(|rabbit| rabbit.restart()).await;
    world.until_rows("published", 900).await;
    eventually("all have crossed", || {
        received
            .lock()
            .unwrap()
            .iter()
            .collect::<BTreeSet<_>>()
            .len()
            == 600
    })
    .await;
    let received = received.lock().unwrap().clone();
    assert_eq!(
        received.iter().cloned().collect::<BTreeSet<_>>(),
        written,
        "with their own ids"
    );
    assert_eq!(
        world
            .number("SELECT CAST(max(attempts) AS BIGINT) FROM postroom_outbox")
            .await,
        0
    );
    for key in 0..3 {
        let mut of_key: Vec<_> = received
            .iter()
            .map(|(_, order)| *order)
            .filter(|order| order % 3 == key)
            .collect();
        of_key.dedup();
        assert!(of_key.is_sorted(), "{of_key:?}");
    }
    end(&shop).await;
    mail.shutdown(Duration::from_secs(5)).await;
}

async fn what_rabbit_mq_has_and_a_durable_queue_has_not_is_unconfirmed(world: World) {
    let rabbit = Rabbit::shared();
    let prefix = Rabbit::unique("both");
    let amqp = || Amqp::new(rabbit.url()).prefix(&prefix);
    // A queue is named by its service: theirs is that of this test alone.
    let mail = Bus::builder(&prefix).bridge(amqp().import("ordering.#"));
    let mail = mail.start().await.unwrap();
    let crossed = Seen::default();
    let noted = crossed.clone();
    let seen = mail.subscribe_fn::<Placed, _>("seen", async move |placed, _| {
        noted.note(placed.order);
        Ok(())
    });
    let seen = seen.start().await.unwrap();
    let shop = world
        .builder()
        .bridge(amqp().export("ordering.#"))
        .start()
        .await
        .unwrap();
    let kept = Seen::default();
    kept.subscribe_durable(&shop).await;
    shop.publish(Placed { order: 0 }).await.unwrap();
    world.until("SELECT count(*) FROM postroom_queue", 0).await;
    // SQLite is locked by another writer.
    let mut lock = world.begin().await;
    if !world.is_sqlite() {
        lock.run("LOCK TABLE postroom_queue IN EXCLUSIVE MODE")
            .await;
    }
    let refused = |order| {
        let publish = shop.publish(Placed { order });
        async move { publish.timeout(Duration::from_secs(4)).await.unwrap_err() }
    };
    let not_known = refused(1).await;
    assert!(
        matches!(not_known.kind(), Refusal::Unconfirmed { .. }),
        "{not_known}"
    );
    assert!(
        not_known.to_string().contains("RabbitMQ has it"),
        "{not_known}"
    );
    eventually("both have crossed", || crossed.len() == 2).await;
    // While it is consumed it would be declared again.
    seen.stop(Duration::from_secs(5)).await;
    let admin = mail.amqp().unwrap();
    admin.delete("seen", DeleteOnly::Always).await.unwrap();
    // Where nobody imports it, RabbitMQ keeps nothing, and the refusal is the whole truth.
    let refused = refused(2).await;
    assert!(
        !refused.to_string().contains("RabbitMQ has it"),
        "{refused}"
    );
    lock.roll_back().await;
    mail.shutdown(Duration::from_secs(5)).await;
    end(&shop).await;
}

async fn what_a_full_durable_queue_does_not_take_is_not_exported_again_and_again(world: World) {
    let rabbit = Rabbit::shared();
    let prefix = Rabbit::unique("full");
    let amqp = || Amqp::new(rabbit.url()).prefix(&prefix);
    let mail = Bus::builder(&prefix).bridge(amqp().import("ordering.#"));
    let mail = mail.start().await.unwrap();
    let crossed = Seen::default();
    let noted = crossed.clone();
    let seen = mail.subscribe_fn::<Placed, _>("seen", async move |placed, _| {
        noted.note(placed.order);
        Ok(())
    });
    seen.start().await.unwrap();
    let shop = world
        .builder()
        .durable_settings(Durable::new().rows(1))
        .bridge(amqp().export("ordering.#"))
        .start()
        .await
        .unwrap();
    let kept = shop
        .subscribe_fn::<Placed, _>("kept", async |_, _| Ok(()))
        .durable()
        .overflow(Overflow::Fail)
        .start()
        .await
        .unwrap();
    kept.pause();
    shop.outbox().unwrap().start_relay();
    shop.publish(Placed { order: 0 }).await.unwrap();
    let refused = shop.publish(Placed { order: 1 }).await.unwrap_err();
    assert!(matches!(refused.kind(), Refusal::Full { .. }), "{refused}");
    let mut tx = world.begin().await;
    tx.place(&shop, 2).await;
    tx.commit_by(&shop).await;
    eventually("it was tried again and again", || {
        shop.snapshot().outbox.unwrap().held_back >= 3
    })
    .await;
    kept.resume().await;
    world.until_rows("published", 1).await;
    eventually("it has crossed", || crossed.orders().contains(&2)).await;
    assert_eq!(crossed.orders(), [0, 2]);
    mail.shutdown(Duration::from_secs(5)).await;
    end(&shop).await;
}

async fn commands_and_delayed_ones_cross_with_what_belongs_to_them(world: World) {
    const DELAY: Duration = Duration::from_millis(300);
    let (rabbit, prefix) = (Rabbit::shared(), Rabbit::unique("kinds"));
    let amqp = || Amqp::new(rabbit.url()).prefix(&prefix);
    let pay = amqp().import("ordering.#").import_commands("payment.#");
    let pay = Bus::builder(&prefix).bridge(pay).start().await.unwrap();
    let charged: Arc<Mutex<Vec<_>>> = Arc::default();
    let noted = Arc::clone(&charged);
    pay.handle_fn::<Charge, _>("charge", async move |charge, cx| {
        let envelope = cx.envelope();
        noted.lock().unwrap().push((
            charge.cents,
            cx.id().to_string(),
            envelope.key().map(str::to_owned),
            envelope.header("tenant").map(str::to_owned),
            envelope.correlation_id(),
        ));
        Ok(())
    })
    .start()
    .await
    .unwrap();
    let came: Arc<Mutex<Vec<_>>> = Arc::default();
    let noted = Arc::clone(&came);
    pay.subscribe_fn::<Placed, _>("late", async move |_, cx| {
        let came = (cx.id().to_string(), Instant::now());
        noted.lock().unwrap().push(came);
        Ok(())
    })
    .start()
    .await
    .unwrap();
    let amqp = amqp().export("ordering.#").export_commands("payment.#");
    let shop = world.builder().bridge(amqp).start().await.unwrap();
    shop.outbox().unwrap().start_relay();

    let mut tx = world.begin().await;
    let charge = shop.send(Charge { cents: 700 }).key("k");
    let charge = charge.header("tenant", "t").correlation("order-7");
    let charge = tx.write(charge).await.unwrap();
    let written_at = Instant::now();
    let late = shop.publish(Placed { order: 7 }).delay(DELAY);
    let late = tx.write(late).await.unwrap();
    tx.commit_by(&shop).await;
    eventually("both have come", || {
        !charged.lock().unwrap().is_empty() && !came.lock().unwrap().is_empty()
    })
    .await;
    let expected = (
        700,
        charge.id.to_string(),
        Some("k".to_owned()),
        Some("t".to_owned()),
        "order-7".to_owned(),
    );
    assert_eq!(*charged.lock().unwrap(), [expected]);
    let (id, at) = came.lock().unwrap()[0].clone();
    assert_eq!(id, late.id.to_string());
    // The database's clock counts in milliseconds.
    let after = at - written_at;
    assert!(after + Duration::from_millis(1) >= DELAY, "{after:?}");
    world.until_rows("published", 2).await;
    end(&pay).await;
    end(&shop).await;
}
