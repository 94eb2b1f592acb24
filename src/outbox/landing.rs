use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedReceiver;

use super::flight::fly;
use super::memory::{Landing, Launch};
use super::relay::{GATHER, LOCKED, RelayLife, until};
use crate::ports::{Caught, LifecycleKind, Panicked, crash_point};
use crate::store::DatabaseError;

/// A row whose way has ended.
pub(super) struct Landed {
    position: i64,
    id: String,
    address: String,
    landing: Landing,
}

/// Rows on their way, from their launch to their marks.
impl RelayLife<'_> {
    /// Writes what has landed. False: the database is locked.
    pub(super) async fn mark(&mut self) -> Result<bool, DatabaseError> {
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

    pub(super) fn land(&mut self, landed: Landed) {
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
    pub(super) fn launch(&self, launch: Launch) {
        let shared = Arc::clone(self.shared);
        let flight = shared.flights.begin(launch.row.lane);
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
            drop(flight);
        });
    }

    /// What is on its way lands, and is marked: what has landed does not wait for the rest. Cut off by the supervisor when
    /// it takes too long: what is not marked is published again, with the same id.
    pub(super) async fn finish(
        mut self,
        landing: &mut UnboundedReceiver<Landed>,
    ) -> Result<(), DatabaseError> {
        {
            let mut memory = self.shared.memory.lock();
            memory.close(&mut self.shared.lanes.lock());
        }
        let mut marks_at = Instant::now();
        loop {
            while let Ok(landed) = landing.try_recv() {
                self.land(landed);
            }
            let (in_flight, has_marks) = {
                let memory = self.shared.memory.lock();
                (memory.in_flight, memory.marks() > 0)
            };
            if in_flight == 0 && !has_marks {
                return Ok(());
            }
            if has_marks && Instant::now() >= marks_at {
                let is_done = self.mark().await?;
                marks_at = Instant::now() + if is_done { GATHER } else { LOCKED };
                continue;
            }
            tokio::select! {
                landed = landing.recv(), if in_flight > 0 => match landed {
                    Some(landed) => self.land(landed),
                    None => return Ok(()),
                },
                () = until(has_marks.then_some(marks_at)) => {}
            }
        }
    }
}
