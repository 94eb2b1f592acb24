use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::bus::{Builder, Bus};
use crate::ports::BoxFuture;
use crate::time::ManualClock;

/// Something that queues stand on, to be held to the contract.
///
/// What holds a backing is one too: an `Arc` of it, a `Box`, a reference that lasts. So one backing serves scenarios that
/// are [run](super::Scenario::run) one by one, and backings of several types stand in one list.
pub trait Backing: Send + Sync + 'static {
    /// How it is called in a report.
    fn name(&self) -> String;

    /// What it promises.
    fn features(&self) -> Features;

    /// A place of its own for one scenario: nothing of any other scenario, past or running, is seen there.
    ///
    /// # Errors
    /// Why it can not be had; the scenario fails with it.
    fn isolate(&self) -> BoxFuture<'_, Result<Isolated, String>>;
}

macro_rules! held {
    ($($holder:ty),*) => {
        $(impl<B: Backing + ?Sized> Backing for $holder {
            fn name(&self) -> String {
                (**self).name()
            }

            fn features(&self) -> Features {
                (**self).features()
            }

            fn isolate(&self) -> BoxFuture<'_, Result<Isolated, String>> {
                (**self).isolate()
            }
        })*
    };
}

held!(Arc<B>, Box<B>, &'static B);

/// What a backing promises beyond what every queue does. Start from [`Features::all`] and take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Features {
    /// Waits end exactly when they are due, not just after it.
    pub exact_time: bool,
    /// Publishes are accepted by queues of this process (rules 1, 2 and 10): their credits are taken, a full one
    /// holds or refuses its publisher, and what they hold ends with the bus. Without it the queue is elsewhere,
    /// bounded there; the mailbox bounds what is handed over, and what is not handled goes back.
    pub local_acceptance: bool,
    /// Receipts count the queues among those of this process, whatever they stand on.
    pub local_receipts: bool,
    /// What is parked behind a waiting message of its key takes at most half of the bound (rule 7).
    pub parked_half: bool,
    /// Dead letters have a bound, at which the oldest is evicted.
    pub dead_letter_bound: bool,
    /// Keyed order, over retries too (rule 7).
    pub keyed_order: bool,
    /// A full queue can drop its oldest or its newest message (rule 2).
    pub drop_policies: bool,
    /// Messages may expire.
    pub expiry: bool,
    /// Messages may be published later, and taken back until then.
    pub delayed: bool,
    /// What was accepted and not settled is there again for the next bus of the same [`Isolated`].
    pub survives_restart: bool,
    /// Delayed messages wait in this process, and have a bound, at which more are refused.
    pub schedule_bound: bool,
    /// Delayed messages survive the bus, for the next one of the same [`Isolated`].
    pub schedules_survive: bool,
}

impl Features {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self {
            exact_time: true,
            local_acceptance: true,
            local_receipts: true,
            parked_half: true,
            dead_letter_bound: true,
            keyed_order: true,
            drop_policies: true,
            expiry: true,
            delayed: true,
            survives_restart: true,
            schedule_bound: true,
            schedules_survive: true,
        }
    }
}

/// The place of one scenario. Dropped when the scenario has ended and its buses are shut down.
pub struct Isolated {
    pub(super) time: Time,
    pub(super) builder: Box<dyn Fn() -> Builder + Send>,
    _guard: Option<Box<dyn Any + Send>>,
}

impl Isolated {
    /// A place whose buses are made by `builder`: one for most scenarios, one after another for those that
    /// restart. The runner sets the clock of a builder when `time` is manual.
    pub fn new(time: Time, builder: impl Fn() -> Builder + Send + 'static) -> Self {
        Self {
            time,
            builder: Box::new(builder),
            _guard: None,
        }
    }

    /// Keeps something until the place is not needed any more, to clean up by its `Drop`.
    #[must_use]
    pub fn guarded_by(mut self, guard: impl Any + Send) -> Self {
        self._guard = Some(Box::new(guard));
        self
    }
}

/// How time passes for a scenario.
#[derive(Clone, Debug)]
pub enum Time {
    /// It stands still until the scenario moves it.
    Manual(ManualClock),
    /// It passes by itself; scenarios wait.
    Real,
}

impl Time {
    /// The unit that scenarios measure their delays in.
    pub(super) fn step(&self) -> Duration {
        match self {
            Self::Manual(_) => Duration::from_secs(1),
            // What RabbitMQ's ladder of delays has as its lowest rung.
            Self::Real => Duration::from_millis(100),
        }
    }

    pub(super) async fn advance(&self, bus: &Bus, by: Duration) {
        match self {
            Self::Manual(clock) => crate::testing::advance(bus, clock, by).await,
            Self::Real => {
                tokio::time::sleep(by).await;
                bus.settle_or_stand_still().await;
            }
        }
    }
}

/// Queues in this process's memory, on a manual clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct InProcess {
    encoded: bool,
}

impl InProcess {
    /// As a user's bus is, but for the clock.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With every message encoded and decoded, as over AMQP.
    #[must_use]
    pub fn encoded() -> Self {
        Self { encoded: true }
    }
}

impl Backing for InProcess {
    fn name(&self) -> String {
        let name = if self.encoded {
            "in-process, encoded"
        } else {
            "in-process"
        };
        name.to_owned()
    }

    fn features(&self) -> Features {
        Features {
            survives_restart: false,
            schedules_survive: false,
            ..Features::all()
        }
    }

    fn isolate(&self) -> BoxFuture<'_, Result<Isolated, String>> {
        let encoded = self.encoded;
        let isolated = Isolated::new(Time::Manual(ManualClock::new()), move || {
            let builder = Bus::builder("conformance");
            if encoded {
                builder.encode_always()
            } else {
                builder
            }
        });
        Box::pin(std::future::ready(Ok(isolated)))
    }
}

impl std::fmt::Debug for Isolated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Isolated")
            .field("time", &self.time)
            .finish_non_exhaustive()
    }
}
