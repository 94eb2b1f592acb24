use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::props::ROUNDED;
use super::unmet::{Step, holds, same};
use super::{Backing, Features, Isolated, Time, Unmet};
use crate::bus::{Builder, Bus, Receipt};
use crate::observe::QueueSnapshot;
use crate::ports::{Bridged, DeadLetter, Filter};

/// The longest wait for something that needs no time of the clock.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same where it has to come from somewhere else.
const PATIENCE_IN_REAL_TIME: Duration = Duration::from_secs(30);
/// How often is looked for it there.
const LOOK: Duration = Duration::from_millis(2);

/// Where a scenario plays: its buses and its time.
pub(super) struct Stage {
    backing: Arc<dyn Backing>,
    features: Features,
    buses: RefCell<Vec<Bus>>,
    /// Outlives them.
    place: RefCell<Isolated>,
}

impl Stage {
    pub(super) async fn open(backing: Arc<dyn Backing>) -> Result<Self, Unmet> {
        let place = backing.isolate().await.map_err(Unmet::Unavailable)?;
        Ok(Self {
            features: backing.features(),
            backing,
            place: RefCell::new(place),
            buses: RefCell::default(),
        })
    }

    /// Goes on in another place, when the scenario has been played in the present one.
    pub(super) async fn anew(&self) -> Result<(), Unmet> {
        if self.buses.borrow().is_empty() {
            return Ok(());
        }
        self.check_books().await?;
        let place = self.backing.isolate().await.map_err(Unmet::Unavailable)?;
        let left = self.place.replace(place);
        drop(left);
        Ok(())
    }

    pub(super) fn features(&self) -> &Features {
        &self.features
    }

    /// Whether the queues are in this process.
    pub(super) fn is_local(&self) -> bool {
        self.features.local_acceptance
    }

    pub(super) async fn bus(&self) -> Result<Bus, Unmet> {
        self.bus_with(|builder| builder).await
    }

    pub(super) async fn bus_with(
        &self,
        choose: impl FnOnce(Builder) -> Builder,
    ) -> Result<Bus, Unmet> {
        let builder = {
            let place = self.place.borrow();
            let builder = (place.builder)();
            match &place.time {
                Time::Manual(clock) => builder.clock(clock.clock()),
                Time::Real => builder,
            }
        };
        let bus = choose(builder).start().await.step("starting a bus")?;
        self.buses.borrow_mut().push(bus.clone());
        Ok(bus)
    }

    fn time(&self) -> Time {
        self.place.borrow().time.clone()
    }

    /// The unit of this stage's delays, and several of it.
    pub(super) fn steps(&self, steps: u32) -> Duration {
        self.time().step() * steps
    }

    /// What a wait may be too short by, where waits do not end to the millisecond.
    pub(super) fn rounded(&self) -> Duration {
        match self.features.exact_time {
            true => Duration::ZERO,
            false => ROUNDED,
        }
    }

    /// Lets time pass, and everything that is due in it happen, as far as this process knows of it.
    pub(super) async fn pass(&self, bus: &Bus, steps: u32) {
        self.time().advance(bus, self.steps(steps)).await;
    }

    /// Lets time pass that is no multiple of a step.
    pub(super) async fn pass_exactly(&self, bus: &Bus, by: Duration) {
        self.time().advance(bus, by).await;
    }

    /// What has come, of which there are as many by now. In real time only the first of it: it may be looked at late.
    pub(super) fn first<T>(&self, mut come: Vec<T>, expected: usize) -> Vec<T> {
        if self.is_in_real_time() {
            come.truncate(expected);
        }
        come
    }

    /// Whether time passes by itself.
    pub(super) fn is_in_real_time(&self) -> bool {
        matches!(self.time(), Time::Real)
    }

    /// How long something that does not hang may take: no measure of what is fast, but an end to what never comes.
    pub(super) fn patience(&self) -> Duration {
        match self.time() {
            Time::Manual(_) => PATIENCE,
            Time::Real => PATIENCE_IN_REAL_TIME,
        }
    }

    /// Waits until a queue has so many messages here, in the hands of handlers and before them.
    pub(super) async fn handed_over(
        &self,
        bus: &Bus,
        queue: &str,
        messages: u64,
    ) -> Result<(), Unmet> {
        let are_here = || {
            let snapshot = bus.snapshot();
            let queue = snapshot.queue(queue);
            queue.is_some_and(|queue| queue.in_flight + queue.queued == messages)
        };
        self.until("all messages are handed over", are_here).await
    }

    /// Waits for something that happens without the clock.
    pub(super) async fn until(
        &self,
        what: &str,
        mut condition: impl FnMut() -> bool,
    ) -> Result<(), Unmet> {
        let started = Instant::now();
        while !condition() {
            let is_early = started.elapsed() < self.patience();
            holds(what, is_early, "that it did not happen")?;
            if self.is_in_real_time() {
                tokio::time::sleep(LOOK).await;
            } else {
                tokio::task::yield_now().await;
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    /// Lets everything be done that can be done now, and looks at what came of it: on a manual clock at once, and
    /// otherwise for as long as it may have to come from somewhere else.
    pub(super) async fn comes<S, E>(
        &self,
        bus: &Bus,
        what: &str,
        read: impl FnMut() -> S,
        expected: E,
    ) -> Result<(), Unmet>
    where
        S: PartialEq<E> + std::fmt::Debug,
        E: std::fmt::Debug,
    {
        self.comes_after(bus, 0, what, read, expected).await
    }

    /// Like [`comes`](Self::comes), after so many steps of time.
    pub(super) async fn comes_after<S, E>(
        &self,
        bus: &Bus,
        steps: u32,
        what: &str,
        mut read: impl FnMut() -> S,
        expected: E,
    ) -> Result<(), Unmet>
    where
        S: PartialEq<E> + std::fmt::Debug,
        E: std::fmt::Debug,
    {
        match self.time() {
            Time::Manual(_) if steps == 0 => bus.settle().await,
            Time::Manual(_) => self.pass(bus, steps).await,
            Time::Real => {
                let started = Instant::now();
                let patience = PATIENCE_IN_REAL_TIME + self.steps(steps);
                while started.elapsed() < patience {
                    if read() == expected {
                        return Ok(());
                    }
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
        same(what, read(), expected)
    }

    /// What comes of the books of a queue, as [`comes`](Self::comes).
    pub(super) async fn books<S>(
        &self,
        bus: &Bus,
        queue: &str,
        what: &str,
        read: fn(&QueueSnapshot) -> S,
        expected: S,
    ) -> Result<(), Unmet>
    where
        S: PartialEq + std::fmt::Debug,
    {
        self.books_after(bus, 0, queue, what, read, expected).await
    }

    /// What comes of the books of a queue, as [`comes_after`](Self::comes_after).
    pub(super) async fn books_after<S>(
        &self,
        bus: &Bus,
        steps: u32,
        queue: &str,
        what: &str,
        read: fn(&QueueSnapshot) -> S,
        expected: S,
    ) -> Result<(), Unmet>
    where
        S: PartialEq + std::fmt::Debug,
    {
        let books = || bus.snapshot().queue(queue).map(read);
        self.comes_after(bus, steps, what, books, Some(expected))
            .await
    }

    pub(super) fn queue(&self, bus: &Bus, name: &str) -> Result<QueueSnapshot, Unmet> {
        bus.snapshot()
            .queue(name)
            .cloned()
            .step("finding a queue in the snapshot")
    }

    /// Rule 1: a receipt tells of so many queues, counted in this process, and known to be there elsewhere.
    pub(super) fn taken_by(&self, receipt: &Receipt, queues: u32) -> Result<(), Unmet> {
        let local = match self.features.local_receipts {
            true => queues,
            false => 0,
        };
        same(
            "queues that accepted, and that dropped",
            (receipt.local.accepted, receipt.local.dropped),
            (local, 0),
        )?;
        let bridged = match local == queues {
            true => Bridged::NotExported,
            false => Bridged::Routed,
        };
        same("the bridge", receipt.bridged, bridged)
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
        // All are shut down, whatever is found: their place goes with the scenario. Until then who gives up finds them.
        let buses = self.buses.borrow().clone();
        let mut found = Ok(());
        for bus in &buses {
            let stored = given_up_is_stored(bus);
            let before = books_balance(bus, "the books before the shutdown");
            bus.shutdown(Duration::ZERO).await;
            let after = books_balance(bus, "the books after the shutdown");
            found = found.and(stored).and(before).and(after);
        }
        self.buses.borrow_mut().clear();
        found
    }

    /// For a scenario that failed: what its handlers wait for does not matter any more.
    pub(super) async fn give_up(&self) {
        for bus in self.buses.take() {
            bus.shutdown(Duration::ZERO).await;
        }
    }
}

/// Rule 5: a dead letter is stored before its message is given up. Of a queue that has ended only the letter is counted.
fn given_up_is_stored(bus: &Bus) -> Result<(), Unmet> {
    let snapshot = bus.snapshot();
    let given_up: u64 = snapshot
        .queues
        .iter()
        .map(|queue| queue.dead_lettered)
        .sum();
    let made = snapshot.dead_letters.made;
    holds(
        "what was given up is stored",
        made >= given_up,
        (given_up, made),
    )
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
