use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;

use super::flight::fly;
use super::memory::{Landing, Launch};
use super::pace::Pace;
use super::shared::Shared;
use super::spread::Spread;
use crate::delivery::NEVER;
use crate::ports::{Caught, LifecycleKind, Panicked, crash_point};
use crate::store::{DatabaseError, NextDue, Ring, StoreSession, TakeRows};
use crate::supervisor::Stop;

/// How long marks are gathered.
const GATHER: Duration = Duration::from_millis(5);
/// How often a relay that has more waiting rows than it can take asks for those that are due as well.
const DUE: Duration = Duration::from_millis(20);
/// The wait of a database that is locked, before it is asked again.
const LOCKED: Duration = Duration::from_millis(100);

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
        pace: Pace::new(shared.settings.relay.slow_poll, Instant::now()),
        spread: Spread::default(),
        is_due: true,
        more: false,
        due_at: Instant::now(),
    };
    relay.run(&mut landing, stop).await
}

struct RelayLife<'a> {
    shared: &'a Arc<Shared>,
    session: Box<dyn StoreSession>,
    pace: Pace,
    spread: Spread,
    /// It is to be looked whatever the database says of changes.
    is_due: bool,
    /// There are probably more rows: the last look was at as many as were asked for, of one lane or in all.
    more: bool,
    /// When rows that are due are asked for again, at the latest.
    due_at: Instant,
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
            let (marks, in_flight, bodies) = {
                let memory = self.shared.memory.lock();
                let marks = memory.marks();
                (marks, memory.in_flight, memory.len().saturating_sub(marks))
            };
            let window = self.shared.settings.relay.window as usize;
            // A row that waits for its mark is a few numbers. Where marks cannot be written, no more is published.
            let has_room = bodies <= window / 2 && marks <= window;
            // Before the marks, so that there is something on its way while they are written.
            if has_room && (self.more || self.pace.is_due(Instant::now())) {
                if !self.take(window - bodies).await? {
                    self.more = false;
                    self.pace.look_at(Instant::now() + LOCKED);
                }
                continue;
            }
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
            let looks = has_room.then_some(self.pace.next);
            let wakes = [marks_at, looks].into_iter().flatten().min();
            let wakes_for = match looks.is_some() && self.pace.is_fast(Instant::now()) {
                true => Ring::Committed,
                false => Ring::Written,
            };
            tokio::select! {
                landed = landing.recv() => match landed {
                    Some(landed) => self.land(landed),
                    None => return Ok(()),
                },
                ring = self.shared.tree.link.bell.heard(wakes_for) => self.hear(ring),
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
                self.pace.fast(Instant::now());
                self.look_now();
            }
            Ring::Written => self.pace.fast(Instant::now()),
        }
    }

    fn look_now(&mut self) {
        self.is_due = true;
        self.pace.at_once(Instant::now());
    }

    /// Reads rows and sends those that may go. False: the database is locked.
    async fn take(&mut self, room: usize) -> Result<bool, DatabaseError> {
        if let Some(ring) = self.shared.tree.link.bell.rung() {
            self.hear(ring);
        }
        let now = Instant::now();
        let lanes = self.shared.lanes.lock().open(now);
        if lanes.is_empty() {
            // Whoever wins one looks at once.
            self.more = false;
            self.pace.forget_due();
            self.pace.found_nothing(now);
            return Ok(true);
        }
        // Nobody else has committed anything, and nothing is due: there is nothing to see.
        let must_read = self.is_due || self.more || self.pace.must_read(now);
        if !self.ask_for_changes().await? && !must_read {
            self.pace.found_nothing(Instant::now());
            return Ok(true);
        }
        // The database tells of a change once; until rows are read that is not forgotten.
        self.is_due = true;
        let due = !self.more || now >= self.due_at;
        if due {
            self.due_at = now + DUE;
        }
        let most = u32::try_from(room).unwrap_or(u32::MAX);
        let wanted = {
            let memory = self.shared.memory.lock();
            TakeRows {
                most,
                most_of_lane: self.spread.most_of_lane(most, lanes.len()),
                lanes,
                due,
                except: memory.positions(),
                blocked: memory.blocked.closed(now),
            }
        };
        if wanted.blocked.len() > super::blocked::MOST {
            // So many are blocked by RabbitMQ, and to read past all of their rows would be work without end.
            self.more = false;
            self.is_due = true;
            self.pace.look_at(Instant::now() + LOCKED);
            return Ok(true);
        }
        crash_point("before-claim");
        let rows = match self.session.take(&wanted).await {
            Ok(rows) => rows,
            Err(error) => return self.locked(error),
        };
        crash_point("after-claim");
        let found = rows.len();
        // A kind of rows gives a quarter of them at most.
        let has_more = self
            .spread
            .seen(rows.iter().map(|row| row.lane), wanted.most_of_lane);
        self.more = has_more || found >= room.div_ceil(4);
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
                Ok(next_due) => next_due,
                Err(error) => return self.locked(error),
            }
        } else {
            NextDue::default()
        };
        // Of blocks those that were left out of the look.
        let next_try = self.shared.memory.lock().blocked.next_try(now);
        let read_at = Instant::now();
        let next = next_due.next.map(|left| read_at + left.min(NEVER));
        let next = next.into_iter().chain(next_try).min();
        self.pace.read(!is_empty, next_due.is_past, next, read_at);
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
        self.pace.fast(Instant::now());
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
        let is_held_back = matches!(landing, Landing::HeldBack { .. });
        let now = Instant::now();
        let (next, is_given_up) = {
            let mut memory = self.shared.memory.lock();
            let mut lanes = self.shared.lanes.lock();
            let retry_in = |failures| relay.retry_in(failures);
            let next = memory.land(position, landing, retry_in, &mut lanes, now);
            // The last look knew nothing of it.
            if is_held_back && let Some(next_try) = memory.blocked.next_try(now) {
                self.pace.due_at(next_try);
            }
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

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
