//! Processes whose clocks are off by an hour, beside a database whose clock is right.

use std::time::Duration;

use crate::common::store::{Placed, Seen, World, over_both};
use crate::common::{end, eventually};
use postroom::{Bus, ManualClock};

over_both!(
    clocks_off_by_an_hour_change_nothing,
    what_has_expired_by_the_databases_clock_is_not_handled,
    leases_of_before_the_databases_clock_was_set_back_hold_up_nobody,
);

const HOUR: Duration = Duration::from_secs(3600);

async fn ahead(world: &World) -> Bus {
    let clock = ManualClock::new();
    clock.set_wall_time(clock.wall_time() + HOUR);
    world.builder().clock(clock.clock()).start().await.unwrap()
}

async fn behind(world: &World) -> Bus {
    let clock = ManualClock::new();
    clock.set_wall_time(clock.wall_time() - HOUR);
    world.builder().clock(clock.clock()).start().await.unwrap()
}

async fn clocks_off_by_an_hour_change_nothing(world: World) {
    let (ahead, behind) = (ahead(&world).await, behind(&world).await);
    let mut tx = world.begin().await;
    // Each writes rows that live for ten minutes, and rows that are due in a moment.
    for (bus, first) in [(&ahead, 0), (&behind, 10)] {
        let order = |n: u64| Placed { order: first + n };
        let lives = bus.publish(order(0)).expires_in(Duration::from_secs(600));
        tx.write(lives).await.unwrap();
        let later = bus.publish(order(1)).delay(Duration::from_millis(50));
        tx.write(later).await.unwrap();
        let both = bus.publish(order(2)).delay(Duration::from_millis(50));
        let both = both.expires_in(Duration::from_secs(600));
        tx.write(both).await.unwrap();
    }
    tx.commit().await;
    // Either relay has a half of the lanes: each handles rows that the other has written.
    let (of_ahead, of_behind) = (Seen::default(), Seen::default());
    of_ahead.subscribe(&ahead).await;
    of_behind.subscribe(&behind).await;
    world.until_rows("published", 6).await;
    let handled = || {
        let mut all = [of_ahead.orders(), of_behind.orders()].concat();
        all.sort_unstable();
        all
    };
    eventually("all are handled", || handled().len() >= 6).await;
    assert_eq!(handled(), [0, 1, 2, 10, 11, 12], "and none twice");
    end(&ahead).await;
    end(&behind).await;
}

async fn what_has_expired_by_the_databases_clock_is_not_handled(world: World) {
    let (ahead, behind) = (ahead(&world).await, behind(&world).await);
    let mut tx = world.begin().await;
    for (bus, order) in [(&ahead, 1), (&behind, 2)] {
        let short = bus.publish(Placed { order });
        let short = short.expires_in(Duration::from_millis(20));
        tx.write(short).await.unwrap();
    }
    tx.place(&ahead, 3).await;
    tx.commit().await;
    let now = match world.is_sqlite() {
        true => "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')",
        false => "now()",
    };
    let expired = format!("SELECT count(*) FROM postroom_outbox WHERE expires_at < {now}");
    world.until(&expired, 2).await;
    // The one whose clock is behind would have an hour left for what the other wrote.
    let seen = Seen::default();
    seen.subscribe(&behind).await;
    world.until_rows("published", 3).await;
    let expired = || {
        let snapshot = behind.snapshot();
        snapshot
            .queues
            .iter()
            .map(|queue| queue.expired)
            .sum::<u64>()
    };
    eventually("two have expired", || expired() == 2).await;
    eventually("the other one is handled", || seen.orders() == [3]).await;
    end(&ahead).await;
    end(&behind).await;
}

/// A process died that held everything, and the clock was set back by an hour.
async fn leases_of_before_the_databases_clock_was_set_back_hold_up_nobody(world: World) {
    let bus = world.builder().start().await.unwrap();
    let seen = Seen::default();
    // It names the queue, and gives it back.
    seen.subscribe_durable(&bus).await;
    end(&bus).await;
    let in_an_hour = match world.is_sqlite() {
        true => "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+3600 seconds')",
        false => "now() + interval '1 hour'",
    };
    for table in ["postroom_lanes", "postroom_consumers"] {
        let hold = format!("UPDATE {table} SET holder = 'dead', leased_until = {in_an_hour}");
        world.run(&hold).await;
    }
    let live =
        format!("INSERT INTO postroom_relays (holder, alive_until) VALUES ('dead', {in_an_hour})");
    world.run(&live).await;
    let bus = world.builder().start().await.unwrap();
    seen.subscribe_durable(&bus).await;
    bus.outbox().unwrap().start_relay();
    let mut tx = world.begin().await;
    tx.place(&bus, 1).await;
    tx.commit().await;
    world.until_rows("published", 1).await;
    eventually("it is handled", || seen.orders() == [1]).await;
    let relays = "SELECT count(*) FROM postroom_relays";
    assert_eq!(world.number(relays).await, 1, "the dead one has no share");
    end(&bus).await;
}
