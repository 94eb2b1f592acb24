//! The end of a relay: nothing new is sent, what is on its way lands and is marked, and the next relay does the rest.

use std::time::Duration;

use crate::common::store::{Charge, Placed, Seen, World, over_both};
use crate::common::{Door, end, eventually};
use postroom::{Bus, Context, Durable};

over_both!(
    a_hot_key_goes_on_at_the_next_relay_and_nothing_is_published_twice,
    what_lands_late_is_marked_all_the_same,
    what_has_landed_is_marked_while_another_is_on_its_way,
);

const HELD: &str = "SELECT count(*) FROM postroom_lanes WHERE holder IS NOT NULL";

async fn place_keyed(world: &World, bus: &Bus, orders: std::ops::Range<u64>, key: &str) {
    let mut tx = world.begin().await;
    for order in orders {
        tx.place_keyed(bus, order, key).await;
    }
    tx.commit().await;
}

/// Handles in memory, one by one, each for so long.
async fn subscribe(bus: &Bus, seen: &Seen, work: Duration) {
    let noted = seen.clone();
    let handle = async move |placed: &Placed, _: &mut Context<'_>| {
        tokio::time::sleep(work).await;
        noted.note(placed.order);
        Ok(())
    };
    let queue = bus.subscribe_fn::<Placed, _>("seen", handle).mailbox(1);
    queue.start().await.unwrap();
    bus.outbox().unwrap().start_relay();
}

async fn a_hot_key_goes_on_at_the_next_relay_and_nothing_is_published_twice(world: World) {
    const ROWS: u64 = 300;
    let (first, seen) = (world.bus().await, Seen::default());
    place_keyed(&world, &first, 0..ROWS, "hot").await;
    // Together longer than a part may take to stop.
    subscribe(&first, &seen, Duration::from_millis(20)).await;
    eventually("some are handled", || seen.len() >= 5).await;
    end(&first).await;
    let handled = seen.len() as u64;
    assert_eq!(
        world.rows("published").await,
        handled as i64,
        "each that was handled is marked"
    );
    assert!(handled < 50, "{handled}: nothing new is sent");
    assert_eq!(world.number(HELD).await, 0, "the lanes are free at once");
    let second = world.bus().await;
    subscribe(&second, &seen, Duration::ZERO).await;
    world.until_rows("published", ROWS as i64).await;
    end(&second).await;
    assert_eq!(seen.orders(), (0..ROWS).collect::<Vec<_>>());
}

/// A durable queue with room for one message, whose handler waits at a door.
async fn full(world: &World, door: &Door, seen: &Seen) -> Bus {
    let one = Durable::new().rows(1);
    let bus = world.builder().durable_settings(one).start().await.unwrap();
    let (door, noted) = (door.clone(), seen.clone());
    let handle = async move |placed: &Placed, _: &mut Context<'_>| {
        door.pass().await;
        noted.note(placed.order);
        Ok(())
    };
    let queue = bus.subscribe_fn::<Placed, _>("seen", handle);
    queue.durable().start().await.unwrap();
    bus.outbox().unwrap().start_relay();
    place_keyed(world, &bus, 0..1, "a").await;
    world.until_rows("published", 1).await;
    place_keyed(world, &bus, 1..2, "b").await;
    eventually("the other one is on its way", || {
        bus.snapshot().outbox.unwrap().taken == 2
    })
    .await;
    bus
}

async fn what_lands_late_is_marked_all_the_same(world: World) {
    let (door, seen) = (Door::closed(), Seen::default());
    let bus = full(&world, &door, &seen).await;
    let ending = tokio::spawn({
        let bus = bus.clone();
        async move { bus.shutdown(Duration::from_secs(12)).await }
    });
    // Longer than a part may take to stop. The lanes stay held for as long.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(world.number(HELD).await, 32);
    door.open();
    assert!(ending.await.unwrap().clean);
    assert_eq!(world.rows("published").await, 2);
    assert_eq!(world.number(HELD).await, 0);
    let next = world.bus().await;
    seen.subscribe_durable(&next).await;
    next.outbox().unwrap().start_relay();
    world.until("SELECT count(*) FROM postroom_queue", 0).await;
    end(&next).await;
    assert_eq!(seen.orders(), [0, 1]);
}

async fn what_has_landed_is_marked_while_another_is_on_its_way(world: World) {
    let (door, seen) = (Door::closed(), Seen::default());
    let bus = full(&world, &door, &seen).await;
    let never = Door::closed();
    let behind = never.clone();
    let handle = async move |_: &Charge, _: &mut Context<'_>| {
        behind.pass().await;
        Ok(())
    };
    let charges = bus.handle_fn::<Charge, _>("charges", handle);
    charges.durable().start().await.unwrap();
    for cents in 0..2 {
        let mut tx = world.begin().await;
        tx.write(bus.send(Charge { cents })).await.unwrap();
        tx.commit().await;
        // The second one finds it full.
        world.until_rows("published", 2).await;
    }
    eventually("the other one is on its way", || {
        bus.snapshot().outbox.unwrap().taken == 4
    })
    .await;
    let ending = tokio::spawn({
        let bus = bus.clone();
        async move { bus.shutdown(Duration::from_secs(3)).await }
    });
    eventually("it shuts down", || !bus.health().is_ready()).await;
    door.open();
    ending.await.unwrap();
    assert_eq!(seen.orders(), [0, 1]);
    assert_eq!(world.rows("published").await, 3);
    assert_eq!(world.rows("waiting").await, 1);
    // Its lane alone is left to run out.
    assert_eq!(world.number(HELD).await, 1);
}
