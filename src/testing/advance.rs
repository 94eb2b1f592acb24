use std::time::Duration;

use crate::bus::Bus;
use crate::delivery::NEVER;
use crate::time::ManualClock;

/// Moves a manual clock by `duration` in the way that time passes: up to each thing that is due on the way,
/// letting the bus do what follows from it before time goes on.
///
/// `clock.advance` alone runs all timers on the way at once, while the bus's threads still work on what the
/// first ones set going: a message that fails again at its first retry would set its second wait from the end
/// of the whole jump. Here each retry, restart, schedule and timeout happens at its own moment, so that an
/// hour of retries is handled exactly as in an hour, in milliseconds. When it returns the bus is settled.
///
/// A handler that waits for something outside of the bus is waited for some 10 ms of real time at each step;
/// if it takes longer, time goes on and its timeout may end it.
///
/// ```
/// # use std::time::Duration;
/// # use postroom::{Bus, Context, Event, Failure, Filter, ManualClock, Retry};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # struct Ping;
/// # impl Event for Ping { const TOPIC: &'static str = "test.ping"; }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let clock = ManualClock::new();
/// let bus = Bus::builder("shop").clock(clock.clock()).start().await?;
/// bus.subscribe_fn::<Ping, _>("failing", async |_: &Ping, _: &mut Context<'_>| Err(Failure::retry("no")))
///     .retry(Retry::fixed(Duration::from_secs(60)).attempts(3))
///     .start().await?;
/// bus.publish(Ping).await?;
/// postroom::testing::advance(&bus, &clock, Duration::from_secs(119)).await;
/// assert!(bus.dead_letters().is_empty().await.unwrap());
/// postroom::testing::advance(&bus, &clock, Duration::from_secs(1)).await;
/// assert_eq!(bus.dead_letters().list(&Filter::all()).await.unwrap()[0].attempts, 3);
/// # bus.shutdown(Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
///
/// # Cancel safety
/// Dropped, the clock stays where it is by then.
pub async fn advance(bus: &Bus, clock: &ManualClock, duration: Duration) {
    // As far as the clock goes: beyond it, it would be moved again and again.
    let target = clock.elapsed().saturating_add(duration).min(NEVER);
    loop {
        bus.settle_or_stand_still().await;
        let left = target.saturating_sub(clock.elapsed());
        let step = clock.until_next().map_or(left, |next| next.min(left));
        clock.advance(step);
        if step == left {
            break;
        }
    }
    bus.settle_or_stand_still().await;
}
