use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;

use super::landing::Landed;
use super::pace::Pace;
use super::shared::Shared;
use super::spread::Spread;
use crate::delivery::NEVER;
use crate::ports::crash_point;
use crate::store::{DatabaseError, NextDue, Ring, StoreSession, TakeRows};
use crate::supervisor::Stop;

/// How long marks are gathered.
pub(super) const GATHER: Duration = Duration::from_millis(5);
/// How often a relay that has more waiting rows than it can take asks for those that are due as well.
const DUE: Duration = Duration::from_millis(20);
/// The wait of a database that is locked, before it is asked again.
pub(super) const LOCKED: Duration = Duration::from_millis(100);

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

pub(super) struct RelayLife<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) session: Box<dyn StoreSession>,
    pub(super) pace: Pace,
    spread: Spread,
    /// It is to be looked whatever the database says of changes.
    pub(super) is_due: bool,
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
            let (marks, in_flight, bodies, is_closed) = {
                let memory = self.shared.memory.lock();
                let marks = memory.marks();
                let bodies = memory.len().saturating_sub(marks);
                (marks, memory.in_flight, bodies, memory.is_closed)
            };
            let window = self.shared.settings.relay.window as usize;
            // A row that waits for its mark is a few numbers. Where marks cannot be written, no more is published.
            let has_room = !is_closed && bodies <= window / 2 && marks <= window;
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
    pub(super) fn locked(&self, error: DatabaseError) -> Result<bool, DatabaseError> {
        if error.keeps_connection() {
            self.shared.tree.failed("relay", &error);
            return Ok(false);
        }
        Err(error)
    }
}

pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
