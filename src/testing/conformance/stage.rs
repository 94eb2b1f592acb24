use std::cell::RefCell;
use std::time::{Duration, Instant};

use super::unmet::{Step, holds, same};
use super::{Isolated, Time, Unmet};
use crate::bus::{Builder, Bus};
use crate::observe::QueueSnapshot;
use crate::ports::{DeadLetter, Filter};

/// The longest wait for something that needs no time of the clock.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a scenario plays: its buses and its time.
pub(super) struct Stage {
    isolated: Isolated,
    buses: RefCell<Vec<Bus>>,
}

impl Stage {
    pub(super) fn new(isolated: Isolated) -> Self {
        Self {
            isolated,
            buses: RefCell::default(),
        }
    }

    pub(super) async fn bus(&self) -> Result<Bus, Unmet> {
        self.bus_with(|builder| builder).await
    }

    pub(super) async fn bus_with(
        &self,
        choose: impl FnOnce(Builder) -> Builder,
    ) -> Result<Bus, Unmet> {
        let mut builder = (self.isolated.builder)();
        if let Time::Manual(clock) = &self.isolated.time {
            builder = builder.clock(clock.clock());
        }
        let bus = choose(builder).start().await.step("starting a bus")?;
        self.buses.borrow_mut().push(bus.clone());
        Ok(bus)
    }

    /// The unit of this stage's delays, and several of it.
    pub(super) fn steps(&self, steps: u32) -> Duration {
        self.isolated.time.step() * steps
    }

    /// Lets time pass, and everything that is due in it happen.
    pub(super) async fn pass(&self, bus: &Bus, steps: u32) {
        self.isolated.time.advance(bus, self.steps(steps)).await;
    }

    /// Lets time pass that is no multiple of a step.
    pub(super) async fn pass_exactly(&self, bus: &Bus, by: Duration) {
        self.isolated.time.advance(bus, by).await;
    }

    /// Waits for something that happens without the clock.
    pub(super) async fn until(
        &self,
        what: &str,
        mut condition: impl FnMut() -> bool,
    ) -> Result<(), Unmet> {
        let started = Instant::now();
        while !condition() {
            holds(what, started.elapsed() < PATIENCE, "that it did not happen")?;
            tokio::task::yield_now().await;
            std::thread::yield_now();
        }
        Ok(())
    }

    pub(super) fn queue(&self, bus: &Bus, name: &str) -> Result<QueueSnapshot, Unmet> {
        bus.snapshot()
            .queue(name)
            .cloned()
            .step("finding a queue in the snapshot")
    }

    /// All dead letters, oldest first.
    pub(super) async fn letters(&self, bus: &Bus) -> Result<Vec<DeadLetter>, Unmet> {
        let letters = bus.dead_letters().list(&Filter::all()).await;
        letters.step("listing the dead letters")
    }

    /// How many dead letters are kept.
    pub(super) async fn kept(&self, bus: &Bus) -> Result<usize, Unmet> {
        bus.dead_letters()
            .len()
            .await
            .step("counting the dead letters")
    }

    /// Rule 13, after every scenario: before its end, and after what is left was abandoned.
    pub(super) async fn check_books(&self) -> Result<(), Unmet> {
        for bus in self.buses.take() {
            books_balance(&bus, "the books before the shutdown")?;
            bus.shutdown(Duration::ZERO).await;
            books_balance(&bus, "the books after the shutdown")?;
        }
        Ok(())
    }

    /// For a scenario that failed: what its handlers wait for does not matter any more.
    pub(super) async fn give_up(&self) {
        for bus in self.buses.take() {
            bus.shutdown(Duration::ZERO).await;
        }
    }
}

fn books_balance(bus: &Bus, what: &str) -> Result<(), Unmet> {
    let snapshot = bus.snapshot();
    for queue in &snapshot.queues {
        holds(what, queue.balances(), queue)?;
    }
    let letters = snapshot.dead_letters;
    let ended = letters.replayed + letters.discarded + letters.evicted;
    same("dead letters made", letters.made, letters.kept + ended)
}
