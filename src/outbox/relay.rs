use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;

use super::memory::{Landing, Launch};
use super::shared::Shared;
use crate::broker::Gate;
use crate::ports::{Caught, LifecycleKind, Panicked, Refusal, crash_point};
use crate::store::{DatabaseError, Ring, StoreSession, TakeRows, parcel_of};
use crate::supervisor::Stop;

/// The first interval at which an outbox is looked at that something was written into.
const FAST: Duration = Duration::from_millis(1);
/// How often it is looked at so fast, before the intervals double.
const FAST_LOOKS: u32 = 8;
/// How long marks are gathered.
const GATHER: Duration = Duration::from_millis(5);
/// The wait of a database that is locked, before it is asked again.
const LOCKED: Duration = Duration::from_millis(100);
/// How long a full local queue is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// A row whose way has ended.
pub(super) struct Landed {
    position: i64,
    id: String,
    address: String,
    landing: Landing,
}

/// Publishes rows until it is told to stop, or the database fails. What is on its way then lands all the same, and the
/// next life marks it.
pub(super) async fn live(shared: Arc<Shared>, stop: Stop) -> Result<(), DatabaseError> {
    let session = shared.tree.open().await?;
    shared.tree.works("relay");
    let mut landing = shared.landing.lock().await;
    let relay = RelayLife {
        shared: &shared,
        session,
        pace: Pace::new(shared.settings.relay.slow_poll),
        is_due: true,
        more: false,
    };
    relay.run(&mut landing, stop).await
}

struct RelayLife<'a> {
    shared: &'a Arc<Shared>,
    session: Box<dyn StoreSession>,
    pace: Pace,
    /// It is to be looked whatever the database says of changes.
    is_due: bool,
    /// The last look was at as many rows as were asked for.
    more: bool,
}

impl RelayLife<'_> {
    async fn run(
        mut self,
        landing: &mut UnboundedReceiver<Landed>,
        mut stop: Stop,
    ) -> Result<(), DatabaseError> {
        // When marks are written, and whether that waits for a lock.
        let mut marks_at: Option<Instant> = None;
        let mut is_locked = false;
        loop {
            while let Ok(landed) = landing.try_recv() {
                self.land(landed);
            }
            let (marks, in_flight, in_memory) = {
                let memory = self.shared.memory.lock();
                (memory.marks(), memory.in_flight, memory.len())
            };
            let window = self.shared.settings.relay.window as usize;
            if marks > 0 {
                let now = Instant::now();
                let at = *marks_at.get_or_insert(now + GATHER);
                let is_enough = in_flight == 0 || marks >= window / 4;
                if now >= at || (is_enough && !is_locked) {
                    is_locked = !self.mark().await?;
                    marks_at = is_locked.then(|| Instant::now() + LOCKED);
                    continue;
                }
            }
            let has_room = in_memory <= window / 2;
            if has_room && (self.more || self.pace.is_due()) {
                if !self.take(window - in_memory).await? {
                    self.more = false;
                    self.pace.wait(LOCKED);
                }
                continue;
            }
            let looks = has_room.then_some(self.pace.next);
            let wakes = [marks_at, looks].into_iter().flatten().min();
            tokio::select! {
                landed = landing.recv() => match landed {
                    Some(landed) => self.land(landed),
                    None => return Ok(()),
                },
                ring = self.shared.tree.link.bell.heard() => self.hear(ring),
                () = self.shared.lanes_changed.notified() => self.look_now(),
                () = until(wakes) => {}
                () = stop.asked() => break,
            }
        }
        self.finish(landing).await
    }

    fn hear(&mut self, ring: Ring) {
        match ring {
            Ring::Committed => {
                self.pace.fast();
                self.look_now();
            }
            Ring::Written => self.pace.fast(),
        }
    }

    fn look_now(&mut self) {
        self.is_due = true;
        self.pace.at_once();
    }

    /// Reads rows and sends those that may go. False: the database is locked.
    async fn take(&mut self, room: usize) -> Result<bool, DatabaseError> {
        let now = Instant::now();
        let lanes = self.shared.lanes.lock().open(now);
        if lanes.is_empty() {
            self.more = false;
            self.pace.found_nothing();
            return Ok(true);
        }
        // Nobody else has committed anything, and nothing is due: there is nothing to see.
        let must_read = self.is_due || self.more || self.pace.must_read(now);
        if !self.ask_for_changes().await? && !must_read {
            self.pace.found_nothing();
            return Ok(true);
        }
        let wanted = {
            let memory = self.shared.memory.lock();
            TakeRows {
                lanes,
                most: u32::try_from(room).unwrap_or(u32::MAX),
                except: memory.positions(),
                blocked: memory.blocked.closed(now),
            }
        };
        if wanted.blocked.len() > super::blocked::MOST {
            // So many are blocked by RabbitMQ, and to read past all of their rows would be work without end.
            self.more = false;
            self.is_due = true;
            self.pace.wait(LOCKED);
            return Ok(true);
        }
        crash_point("before-claim");
        let rows = match self.session.take(&wanted).await {
            Ok(rows) => rows,
            Err(error) => return self.locked(error),
        };
        crash_point("after-claim");
        let found = rows.len();
        // A kind of rows, or a lane, gives a quarter of them at most.
        self.more = found >= room.div_ceil(4);
        let now = Instant::now();
        let launches = {
            let mut memory = self.shared.memory.lock();
            let mut lanes = self.shared.lanes.lock();
            memory.take_in(rows, &mut lanes, now)
        };
        // Rows that all had to stay are no reason to look again at once.
        self.more &= !launches.is_empty();
        let counts = &self.shared.tree.link.counts;
        counts
            .taken
            .fetch_add(launches.len() as u64, Ordering::Relaxed);
        let is_empty = launches.is_empty();
        for launch in launches {
            self.launch(launch);
        }
        let next_due = if is_empty {
            match self.session.next_due().await {
                Ok(left) => left.map(|left| Instant::now() + left),
                Err(error) => return self.locked(error),
            }
        } else {
            None
        };
        let next_try = self.shared.memory.lock().blocked.next_try();
        self.pace
            .read(!is_empty, next_due.into_iter().chain(next_try).min());
        self.is_due = !is_empty;
        self.shared.tree.works("relay");
        Ok(true)
    }

    async fn ask_for_changes(&mut self) -> Result<bool, DatabaseError> {
        match self.session.has_changed().await {
            Err(error) if error.keeps_connection() => Ok(true),
            answer => answer,
        }
    }

    /// False for what passes by waiting, so that the connection is kept.
    fn locked(&self, error: DatabaseError) -> Result<bool, DatabaseError> {
        if error.keeps_connection() {
            self.shared.tree.failed("relay", &error);
            return Ok(false);
        }
        Err(error)
    }

    /// Writes what has landed. False: the database is locked.
    async fn mark(&mut self) -> Result<bool, DatabaseError> {
        let (published, failed) = {
            let memory = self.shared.memory.lock();
            (memory.published.clone(), memory.failed.clone())
        };
        let keep = !self.shared.settings.relay.keep_published.is_zero();
        let holder = &self.shared.tree.holder;
        let counts = &self.shared.tree.link.counts;
        crash_point("before-mark");
        if !published.is_empty() {
            match self.session.mark_published(holder, &published, keep).await {
                Ok(marked) => {
                    counts.published.fetch_add(marked, Ordering::Relaxed);
                    let lost = (published.len() as u64).saturating_sub(marked);
                    counts.fenced_out.fetch_add(lost, Ordering::Relaxed);
                    self.shared.memory.lock().published.clear();
                    self.forget(published.iter().map(|row| row.position));
                }
                Err(error) => return self.locked(error),
            }
        }
        if !failed.is_empty() {
            match self.session.mark_failed(holder, &failed).await {
                Ok(marked) => {
                    counts.failed.fetch_add(marked, Ordering::Relaxed);
                    let lost = (failed.len() as u64).saturating_sub(marked);
                    counts.fenced_out.fetch_add(lost, Ordering::Relaxed);
                }
                Err(error) => return self.locked(error),
            }
            let given_up = failed.iter().filter(|row| row.retry_in.is_none()).count();
            counts
                .given_up
                .fetch_add(given_up as u64, Ordering::Relaxed);
        }
        crash_point("after-mark");
        {
            let mut memory = self.shared.memory.lock();
            memory.marked(&mut self.shared.lanes.lock());
            counts
                .in_memory
                .store(memory.len() as u64, Ordering::Relaxed);
        }
        // Rows behind these may go now, and our own commit is none that we would be told of.
        self.is_due = true;
        self.pace.fast();
        self.shared.tree.works("relay");
        Ok(true)
    }

    fn forget(&self, positions: impl Iterator<Item = i64>) {
        let mut memory = self.shared.memory.lock();
        memory.forget_all(positions, &mut self.shared.lanes.lock());
    }

    fn land(&mut self, landed: Landed) {
        let Landed {
            position,
            id,
            address,
            landing,
        } = landed;
        let relay = &self.shared.settings.relay;
        match &landing {
            Landing::HeldBack { why } => {
                self.shared
                    .tree
                    .link
                    .counts
                    .held_back
                    .fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%id, address, why, "a row of the outbox is held back");
            }
            Landing::Failed { why, .. } => {
                tracing::warn!(%id, address, why, "a row of the outbox could not be published");
            }
            Landing::Published | Landing::NotSent => {}
        }
        let reason = match &landing {
            Landing::Failed { why, .. } => Some(why.clone()),
            _ => None,
        };
        let (next, is_given_up) = {
            let mut memory = self.shared.memory.lock();
            let mut lanes = self.shared.lanes.lock();
            let retry_in = |failures| relay.retry_in(failures);
            let next = memory.land(position, landing, retry_in, &mut lanes, Instant::now());
            let last = memory.failed.last();
            let is_given_up =
                last.is_some_and(|row| row.position == position && row.retry_in.is_none());
            (next, is_given_up)
        };
        if let Some(why) = reason.filter(|_| is_given_up) {
            let why = Some(format!("{id} to `{address}`: {why}"));
            self.shared
                .tree
                .services
                .tell(&self.shared.tree.name, LifecycleKind::RowGivenUp, why);
        }
        if let Some(next) = next {
            self.launch(next);
        }
    }

    /// Sends a row on its way, beside everything else.
    fn launch(&self, launch: Launch) {
        let shared = Arc::clone(self.shared);
        actix::spawn(async move {
            let Launch { row, fence } = launch;
            let (position, id, address) = (row.position, row.id.clone(), row.address.clone());
            let landing = match Caught::new(fly(&shared, row, fence)).await {
                Ok(landing) => landing,
                Err(Panicked(text)) => Landing::Failed {
                    why: format!("panicked: {text}"),
                    is_final: false,
                },
            };
            crash_point("after-confirm");
            // The other side is gone only when the bus is.
            let _ = shared.landed.send(Landed {
                position,
                id,
                address,
                landing,
            });
        });
    }

    /// What is on its way lands, and is marked. Cut off by the supervisor when it takes too long: what is not marked
    /// is published again, with the same id.
    async fn finish(
        mut self,
        landing: &mut UnboundedReceiver<Landed>,
    ) -> Result<(), DatabaseError> {
        loop {
            let (in_flight, has_marks) = {
                let memory = self.shared.memory.lock();
                (memory.in_flight, memory.marks() > 0)
            };
            if in_flight == 0 {
                if !has_marks || self.mark().await? {
                    return Ok(());
                }
                tokio::time::sleep(LOCKED).await;
                continue;
            }
            match landing.recv().await {
                Some(landed) => self.land(landed),
                None => return Ok(()),
            }
        }
    }
}

/// One row's way through the broker.
async fn fly(shared: &Shared, row: crate::store::StoredRow, fence: i64) -> Landing {
    let now_ms = shared.tree.services.clock.wall_ms();
    let parcel = match parcel_of(&row, now_ms) {
        Ok(parcel) => parcel,
        Err(error) => {
            return Landing::Failed {
                why: error.to_string(),
                is_final: true,
            };
        }
    };
    let broker = &shared.broker;
    let envelope = parcel.envelope();
    let route = broker.table.route(envelope.kind(), envelope.address());
    let patience = if route.must_wait {
        shared.settings.relay.publish_timeout
    } else {
        PATIENCE.min(shared.settings.relay.publish_timeout)
    };
    drop(route);
    // The last moment: a process that was stopped for longer than its lease publishes nothing of its successor's.
    if shared.lanes.lock().fence(row.lane, Instant::now()) != Some(fence) {
        return Landing::NotSent;
    }
    crash_point("before-publish");
    let accepted = broker
        .accept_waiting(parcel, None, patience, Gate::Draining)
        .await;
    crash_point("after-publish");
    match accepted {
        Ok(_) => Landing::Published,
        Err((refusal, _)) => refused(&refusal),
    }
}

/// Whether a row is to blame, or where it goes.
fn refused(refusal: &Refusal) -> Landing {
    let why = refusal.to_string();
    match refusal {
        Refusal::Closed => Landing::NotSent,
        refusal if refusal.is_of_its_target() => Landing::HeldBack { why },
        _ => Landing::Failed {
            why,
            is_final: false,
        },
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// When the outbox is looked at next. Pure, but for the present time.
struct Pace {
    next: Instant,
    interval: Duration,
    looks: u32,
    slow: Duration,
    /// When something is due that is known of.
    due: Option<Instant>,
    /// How often something was due, and not for us: of lanes that another one holds, or behind something else.
    late: u32,
    /// When rows were read last.
    read_at: Instant,
}

impl Pace {
    fn new(slow: Duration) -> Self {
        let now = Instant::now();
        Self {
            next: now,
            interval: FAST.min(slow),
            looks: 0,
            slow,
            due: None,
            late: 0,
            read_at: now,
        }
    }

    fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }

    /// Whether rows are to be read though nothing is heard of a change.
    fn must_read(&self, now: Instant) -> bool {
        now >= self.read_at + self.slow || self.due.is_some_and(|due| due <= now)
    }

    fn at_once(&mut self) {
        self.next = Instant::now();
    }

    /// Something was written, and may be committed at any time.
    fn fast(&mut self) {
        self.interval = FAST.min(self.slow);
        self.looks = 0;
        self.next = self.next.min(Instant::now() + self.interval);
    }

    fn wait(&mut self, time: Duration) {
        self.next = Instant::now() + time;
    }

    /// Rows were read.
    fn read(&mut self, found: bool, due: Option<Instant>) {
        self.read_at = Instant::now();
        let is_late = !found && due.is_some_and(|due| due <= self.read_at);
        self.late = if is_late { self.late + 1 } else { 0 };
        self.due = match is_late {
            true => Some(self.read_at + self.patience()),
            false => due,
        };
        if found {
            self.fast();
            self.next = self.read_at + self.interval;
        } else {
            self.found_nothing();
        }
    }

    /// For what is due and not for us: it may be by the time that we look again, or may not for long.
    fn patience(&self) -> Duration {
        let doublings = self.late.saturating_sub(FAST_LOOKS).min(16);
        (FAST * 2_u32.pow(doublings)).min(self.slow)
    }

    fn found_nothing(&mut self) {
        self.looks += 1;
        if self.looks > FAST_LOOKS {
            self.interval = (self.interval * 2).min(self.slow);
        }
        let now = Instant::now();
        self.next = now + self.interval;
        if let Some(due) = self.due {
            self.next = self.next.min(due.max(now + FAST));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_and_not_for_us_is_looked_for_less_and_less() {
        let slow = Duration::from_secs(1);
        let mut pace = Pace::new(slow);
        let due = || Some(Instant::now());
        let waits = |pace: &Pace| pace.next.saturating_duration_since(pace.read_at);
        pace.read(false, due());
        assert!(waits(&pace) < Duration::from_millis(10));
        for _ in 0..30 {
            pace.read(false, due());
        }
        assert!(waits(&pace) >= slow);
        // Ours again: at once.
        pace.read(true, None);
        pace.read(false, due());
        assert!(waits(&pace) < Duration::from_millis(10));
    }
}
