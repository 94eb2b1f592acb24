//! PostgreSQL tells the other processes of what one of them writes: nobody waits for a slow poll, which takes longer here
//! than any of these tests may.

use std::time::Duration;

use crate::common::store::{Placed, PrivatePostgres, Seen, World};
use crate::common::{end, eventually};
use postroom::parts::Told;
use postroom::{Bus, Durable, Relay, Store};

/// Longer than what is waited for anything here.
const SLOW: Duration = Duration::from_secs(600);

async fn bus(world: &World, service: &str) -> Bus {
    Bus::builder(service)
        .store(world.postgres_store().notify())
        .relay(Relay::new().slow_poll(SLOW))
        .durable_settings(Durable::new().slow_poll(SLOW))
        .start()
        .await
        .unwrap()
}

async fn cut_off_who_listens(world: &World) {
    let cut =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
    assert!(world.number(cut).await > 0);
}

async fn publish(world: &World, bus: &Bus, orders: std::ops::Range<u64>) {
    for order in orders {
        let mut tx = world.begin().await;
        tx.place(bus, order).await;
        tx.commit().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_lanes_that_another_process_holds_are_relayed_at_once() {
    let world = World::postgres().await;
    let seen = Seen::default();
    // The first has all lanes, and gives half of them up for the second only when it renews.
    let (first, second) = (bus(&world, "first").await, bus(&world, "second").await);
    seen.subscribe(&first).await;
    let has_all = || first.snapshot().outbox.unwrap().lanes > 0;
    eventually("the first has lanes", has_all).await;
    // Of ids that fall into lanes of both.
    publish(&world, &second, 0..64).await;
    let held = first.snapshot().outbox.unwrap().lanes;
    let mine = "SELECT count(*) FROM postroom_outbox AS o JOIN postroom_lanes AS l ON l.lane = o.lane \
        WHERE o.status = 'waiting' AND l.holder LIKE 'first/%'";
    assert!(held > 0);
    world.until(mine, 0).await;
    assert!(!seen.orders().is_empty());
    cut_off_who_listens(&world).await;
    publish(&world, &second, 64..128).await;
    world.until(mine, 0).await;
    // Delayed ones too: who relays it has to know when.
    let before = seen.len();
    for order in 128..192 {
        let delayed = second
            .publish(Placed { order })
            .delay(Duration::from_millis(50));
        delayed.await.unwrap();
    }
    let later = mine.replace("= 'waiting'", "IN ('waiting', 'scheduled')");
    world.until(&later, 0).await;
    eventually("some of them", || seen.len() > before).await;
    end(&second).await;
    end(&first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_for_a_queue_that_another_process_consumes_are_handed_out_at_once() {
    let world = World::postgres().await;
    let (first, second) = (bus(&world, "first").await, bus(&world, "second").await);
    let (handled, standing_by) = (Seen::default(), Seen::default());
    handled.subscribe_durable(&first).await;
    eventually("it is held", || first.snapshot().durable.unwrap().held == 1).await;
    standing_by.subscribe_durable(&second).await;
    for order in 0..20 {
        second.publish(Placed { order }).await.unwrap();
        let count = usize::try_from(order).unwrap() + 1;
        eventually("it is handled", || handled.len() == count).await;
        if order == 10 {
            cut_off_who_listens(&world).await;
        }
    }
    assert_eq!(standing_by.len(), 0);
    end(&second).await;
    end(&first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_killed_and_came_back_is_listened_to_again() {
    let server = PrivatePostgres::begin().await;
    let world = server.world().await;
    let (first, second) = (bus(&world, "first").await, bus(&world, "second").await);
    // Of both: the second may have the queue by then.
    let handled = Seen::default();
    handled.subscribe_durable(&first).await;
    eventually("it is held", || first.snapshot().durable.unwrap().held == 1).await;
    handled.subscribe_durable(&second).await;
    let is_handled = |order| handled.orders().contains(&order);
    second.publish(Placed { order: 0 }).await.unwrap();
    eventually("it is handled", || is_handled(0)).await;
    server.told("kill").await;
    let published = second.publish(Placed { order: 1 });
    let refused = published.timeout(Duration::from_secs(1)).await;
    assert!(refused.is_err(), "{refused:?}");
    server.told("start").await;
    crate::common::soon("it takes messages again", async {
        while second.publish(Placed { order: 2 }).await.is_err() {}
    })
    .await;
    for order in 3..20 {
        eventually("it is handled", || is_handled(order - 1)).await;
        second.publish(Placed { order }).await.unwrap();
    }
    eventually("it is handled", || is_handled(19)).await;
    end(&second).await;
    end(&first).await;
}

/// Nobody relays here, and so nothing else is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_is_told_of() {
    let world = World::postgres().await;
    let bus = bus(&world, "shop").await;
    let id = postroom::MessageId::new();
    world
        .run(&format!(
            "INSERT INTO postroom_outbox (id, kind, address, lane, body, status, attempts) \
             VALUES ('{id}', 'event', 'ordering.order-placed', 7, '{{\"order\":1}}', 'dead', 10)"
        ))
        .await;
    let store = world.postgres_store().notify();
    let listener = store.listen(Told::Outbox).unwrap();
    let mut listener = listener.await.unwrap();
    assert!(bus.outbox().unwrap().replay(&id.to_string()).await.unwrap());
    let heard = crate::common::soon("it is told of", listener.heard()).await;
    heard.unwrap();
    end(&bus).await;
}
