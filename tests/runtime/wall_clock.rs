//! The time of day is set while a bus runs: only expiries go by it.

use std::time::Duration;

use crate::common::{Log, bus_at_rest, end, queue};
use postroom::{Context, Event, Failure, ManualClock, Outcome, Retry};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Tick(u64);
impl Event for Tick {
    const TOPIC: &'static str = "wall-clock.tick";
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn forwards(clock: &ManualClock) {
    clock.set_wall_time(clock.wall_time() + HOUR);
}

fn back(clock: &ManualClock) {
    clock.set_wall_time(clock.wall_time() - HOUR);
}

/// A retry, a timeout, a restart with backoff, and a schedule, each of a minute, while the clock is set.
async fn waits_of_a_minute(set: fn(&ManualClock)) {
    let (bus, clock) = bus_at_rest().await;
    let log = Log::new();
    let (seen, time) = (log.clone(), clock.clone());
    let handler = async move |tick: &Tick, cx: &mut Context<'_>| -> Outcome {
        seen.push((tick.0, cx.attempt(), time.elapsed()));
        match (tick.0, cx.attempt()) {
            (1, 1) => Err(Failure::retry("on purpose")),
            (2, 1) => std::future::pending().await,
            _ => Ok(()),
        }
    };
    bus.subscribe_fn::<Tick, _>("ticks", handler)
        .workers(2)
        .retry(Retry::fixed(MINUTE).jitter(0.0).attempts(2))
        .timeout(MINUTE)
        .start()
        .await
        .unwrap();
    for tick in [1, 2] {
        bus.publish(Tick(tick)).await.unwrap();
    }
    bus.publish(Tick(3)).delay(MINUTE).await.unwrap();
    // Moved only when nothing is left to do, so that every wait has begun.
    let pass = async |time| postroom::testing::advance(&bus, &clock, time).await;
    pass(Duration::ZERO).await;
    assert_eq!((log.len(), queue(&bus, "ticks").waiting), (2, 1));
    set(&clock);
    pass(MINUTE - Duration::from_millis(1)).await;
    bus.publish(Tick(4)).await.unwrap();
    pass(Duration::ZERO).await;
    assert_eq!(log.len(), 3, "the clock stands");
    // The retry of the first and the scheduled one; the timeout of the second, which waits for its own retry.
    pass(Duration::from_millis(1)).await;
    assert_eq!((log.len(), queue(&bus, "ticks").waiting), (5, 1));
    set(&clock);
    pass(MINUTE).await;
    let mut seen = log.all();
    seen.sort_unstable();
    let almost = MINUTE - Duration::from_millis(1);
    let expected = [
        (1, 1, Duration::ZERO),
        (1, 2, MINUTE),
        (2, 1, Duration::ZERO),
        (2, 2, 2 * MINUTE),
        (3, 1, MINUTE),
        (4, 1, almost),
    ];
    assert_eq!(seen, expected);
    end(&bus).await;
}

#[tokio::test]
async fn waits_do_not_go_by_the_time_of_day() {
    waits_of_a_minute(forwards).await;
    waits_of_a_minute(back).await;
}

/// Whether a message that may wait for ten minutes is handled after so long, when the clock was set meanwhile.
async fn is_handled(set: fn(&ManualClock), after: Duration) -> bool {
    let (bus, clock) = bus_at_rest().await;
    let handler = async |_: &Tick, _: &mut Context<'_>| Ok(());
    let ticks = bus.subscribe_fn::<Tick, _>("ticks", handler);
    let ticks = ticks.start().await.unwrap();
    ticks.pause();
    bus.publish(Tick(1)).expires_in(10 * MINUTE).await.unwrap();
    set(&clock);
    clock.advance(after);
    ticks.resume().await;
    bus.settle().await;
    let books = ticks.snapshot();
    assert_eq!(books.acked + books.expired, 1);
    end(&bus).await;
    books.acked == 1
}

#[tokio::test]
async fn an_expiry_is_off_by_what_the_clock_was_set() {
    assert!(is_handled(|_| {}, 9 * MINUTE).await);
    assert!(!is_handled(|_| {}, 11 * MINUTE).await);
    assert!(!is_handled(forwards, Duration::ZERO).await);
    assert!(is_handled(back, 69 * MINUTE).await);
    assert!(!is_handled(back, 71 * MINUTE).await);
}
