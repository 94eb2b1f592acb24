use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::TimerService;
use crate::delivery::NEVER;
use crate::message::{MessageId, coarse_now_ms};

/// What a bus reads the time from.
///
/// [`Clock::system`] is the default; [`ManualClock::clock`] is for tests that must not wait.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Manual(Arc<Manual>),
}

struct Manual {
    started: Instant,
    started_ms: u64,
    state: Mutex<ManualState>,
}

#[derive(Default)]
struct ManualState {
    elapsed: Duration,
    /// What the wall clock was set to, and how far the clock had been moved by then.
    wall_set: Option<(u64, Duration)>,
    services: Vec<Weak<TimerService>>,
}

impl Clock {
    /// The machine's own clocks.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    pub(crate) fn now(&self) -> Instant {
        match &self.0 {
            Source::System => Instant::now(),
            Source::Manual(manual) => manual.started + manual.state.lock().elapsed,
        }
    }

    /// Milliseconds since the Unix epoch, as exact as a coarse clock (some 4 ms).
    pub(crate) fn wall_ms(&self) -> u64 {
        match &self.0 {
            Source::System => coarse_now_ms(),
            Source::Manual(manual) => manual.wall_ms(),
        }
    }

    #[inline]
    pub(crate) fn new_id(&self) -> MessageId {
        match &self.0 {
            Source::System => MessageId::new(),
            Source::Manual(manual) => manual.new_id(),
        }
    }

    pub(crate) fn is_manual(&self) -> bool {
        matches!(self.0, Source::Manual(_))
    }

    /// A manual clock rings the services that wait on it when it is moved.
    pub(super) fn attach(&self, service: &Arc<TimerService>) {
        if let Source::Manual(manual) = &self.0 {
            let mut state = manual.state.lock();
            state.services.retain(|known| known.strong_count() > 0);
            state.services.push(Arc::downgrade(service));
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::System => "Clock::system",
            Source::Manual(_) => "ManualClock",
        })
    }
}

impl Manual {
    #[cold]
    fn new_id(&self) -> MessageId {
        MessageId::new_at(self.wall_ms())
    }

    fn wall_ms(&self) -> u64 {
        let state = self.state.lock();
        let (set_ms, set_at) = state.wall_set.unwrap_or((self.started_ms, Duration::ZERO));
        set_ms.saturating_add(millis(state.elapsed.saturating_sub(set_at)))
    }
}

/// A clock that stands still until a test moves it.
///
/// Every wait of a bus on this clock (retries, schedules, timeouts, restarts) happens when
/// [`advance`](Self::advance) reaches it, in order of time; nothing sleeps.
///
/// A shutdown's deadline is by real time all the same, so that a test ends.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Reminder;
/// # impl Event for Reminder { const TOPIC: &'static str = "calendar.reminder"; }
/// use std::time::Duration;
/// use postroom::{Bus, Event, ManualClock};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let clock = ManualClock::new();
/// let bus = Bus::builder("calendar").clock(clock.clock()).start().await?;
/// let mailer = bus.subscribe_fn::<Reminder, _>("mailer", async |_, _| Ok(())).start().await?;
///
/// bus.publish(Reminder).delay(Duration::from_secs(3600)).await?;
/// clock.advance(Duration::from_secs(3599));
/// bus.settle().await;
/// assert_eq!(mailer.snapshot().acked, 0);
/// clock.advance(Duration::from_secs(1));
/// bus.settle().await;
/// assert_eq!(mailer.snapshot().acked, 1);
/// # bus.shutdown(Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ManualClock(Arc<Manual>);

impl ManualClock {
    /// A clock that starts at the machine's present time and then stands still.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Manual {
            started: Instant::now(),
            started_ms: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, millis),
            state: Mutex::default(),
        }))
    }

    /// The clock to give to [`Builder::clock`](crate::Builder::clock).
    #[must_use]
    pub fn clock(&self) -> Clock {
        Clock(Source::Manual(Arc::clone(&self.0)))
    }

    /// How far the clock has been moved.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.state.lock().elapsed
    }

    /// Moves the clock and runs every timer that is due, in order of time, before it returns.
    /// What the timers set going runs on the bus's threads: `bus.settle().await` waits for it. A wait that
    /// begins only then counts from the new time, so move a chain of retries one wait at a time.
    ///
    /// It goes no further than 30 years from its start in all.
    pub fn advance(&self, by: Duration) {
        let target = self.elapsed().saturating_add(by).min(NEVER);
        let services: Vec<_> = self
            .0
            .state
            .lock()
            .services
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        // Step from timer to timer, so that each one sees the time at which it was due.
        loop {
            let next = services
                .iter()
                .filter_map(|service| service.earliest())
                .min();
            let at = next.map(|at| at.saturating_duration_since(self.0.started));
            match at {
                Some(at) if at <= target => {
                    let mut state = self.0.state.lock();
                    state.elapsed = state.elapsed.max(at);
                    drop(state);
                    for service in &services {
                        service.fire_due();
                    }
                }
                _ => break,
            }
        }
        self.0.state.lock().elapsed = target;
        // A timer that was set on the way, by a clock that had not arrived yet, may be due by now.
        for service in &services {
            service.fire_due();
        }
    }

    /// The time of day, by which messages expire and are stamped.
    #[must_use]
    pub fn wall_time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.0.wall_ms())
    }

    /// Sets the time of day forwards or back, as an operator or a time service does with the machine's. It goes
    /// on from there with [`advance`](Self::advance). Waits do not go by it, so none is cut short or drawn out;
    /// the expiry of a message does. Kept in milliseconds; a time before 1970 is taken for 1970.
    pub fn set_wall_time(&self, time: SystemTime) {
        let set_ms = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, millis);
        let mut state = self.0.state.lock();
        state.wall_set = Some((set_ms, state.elapsed));
    }

    /// How long until the next timer of any bus on this clock; none when nothing waits for a time.
    #[cfg(feature = "testing")]
    pub(crate) fn until_next(&self) -> Option<Duration> {
        let services: Vec<_> = {
            let state = self.0.state.lock();
            state.services.iter().filter_map(Weak::upgrade).collect()
        };
        let next = services
            .iter()
            .filter_map(|service| service.earliest())
            .min()?;
        Some(next.saturating_duration_since(self.0.started + self.elapsed()))
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualClock")
            .field("elapsed", &self.elapsed())
            .finish()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
