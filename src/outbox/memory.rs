use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

use super::blocked::Blocked;
use super::lanes::Lanes;
use crate::store::{FailedRow, PublishedRow, StoredRow};

/// A row that may be published now, under a fence.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) row: StoredRow,
    pub(super) fence: i64,
}

/// What became of a row on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Landing {
    Published,
    /// For a reason of its own.
    Failed {
        why: String,
        /// It is never tried again.
        is_final: bool,
    },
    /// Its address takes nothing now.
    HeldBack {
        why: String,
    },
    /// It was not sent: the lease had run out, or the bus is closed.
    NotSent,
}

/// A row in memory, while somebody else has it.
struct Tracked {
    lane: u32,
    fence: i64,
    key: Option<String>,
    address: String,
    attempts: u32,
    /// When it was read, which is what its expiry counts from.
    read_at: Instant,
}

/// The rows of one key, one after another.
enum Chain {
    /// One is on its way, these are behind it.
    Moves(VecDeque<StoredRow>),
    /// One has failed, and that is not in the database yet: nothing of this key is taken.
    Failed,
}

/// The rows that the relay has: on their way, behind one of their key, or not marked yet. What is dropped here stays
/// in the database, and is taken again. Pure: the time is passed in.
#[derive(Default)]
pub(super) struct Memory {
    rows: HashMap<i64, Tracked>,
    chains: HashMap<String, Chain>,
    pub(super) published: Vec<PublishedRow>,
    pub(super) failed: Vec<FailedRow>,
    /// Keys whose failure is among `failed`.
    failed_keys: Vec<String>,
    pub(super) blocked: Blocked,
    pub(super) in_flight: usize,
    pub(super) is_closed: bool,
}

impl Memory {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn positions(&self) -> Vec<i64> {
        self.rows.keys().copied().collect()
    }

    pub(super) fn marks(&self) -> usize {
        self.published.len() + self.failed.len()
    }

    /// Nothing is sent from now on. What is behind a row on its way stays in the database.
    pub(super) fn close(&mut self, lanes: &mut Lanes) {
        self.is_closed = true;
        let mut behind = Vec::new();
        for chain in self.chains.values_mut() {
            if let Chain::Moves(rows) = chain {
                behind.extend(rows.drain(..).map(|row| row.position));
            }
        }
        self.forget_all(behind.into_iter(), lanes);
    }

    /// Takes in rows that were read, by position, and says which of them may go now. Some may be skipped: they stay in
    /// the database.
    pub(super) fn take_in(
        &mut self,
        rows: Vec<StoredRow>,
        lanes: &mut Lanes,
        now: Instant,
    ) -> Vec<Launch> {
        let mut launches = Vec::new();
        if self.is_closed {
            return launches;
        }
        // Behind a row of their key that was skipped they have to stay too.
        let mut skipped_keys = HashSet::new();
        for row in rows {
            if self.rows.contains_key(&row.position) {
                continue;
            }
            let is_behind = row.key.as_ref().is_some_and(|key| {
                skipped_keys.contains(key) || matches!(self.chains.get(key), Some(Chain::Failed))
            });
            let moves = row
                .key
                .as_ref()
                .and_then(|key| self.chains.get(key))
                .is_some();
            // One that is behind another is asked for when its turn comes.
            let may_go =
                !is_behind && (moves || self.blocked.admits(&row.address, row.position, now));
            let Some(fence) = may_go.then(|| lanes.keep(row.lane, now)).flatten() else {
                if may_go && !moves {
                    self.blocked.forget_probe(&row.address, row.position);
                }
                skipped_keys.extend(row.key);
                continue;
            };
            self.rows.insert(
                row.position,
                Tracked {
                    lane: row.lane,
                    fence,
                    key: row.key.clone(),
                    address: row.address.clone(),
                    attempts: row.attempts,
                    read_at: now,
                },
            );
            if let Some(key) = &row.key {
                if let Some(Chain::Moves(behind)) = self.chains.get_mut(key) {
                    behind.push_back(row);
                    continue;
                }
                let alone = Chain::Moves(VecDeque::new());
                self.chains.insert(key.clone(), alone);
            }
            self.in_flight += 1;
            launches.push(Launch { row, fence });
        }
        launches
    }

    /// Notes what became of a row, and says which may go next.
    pub(super) fn land(
        &mut self,
        position: i64,
        landing: Landing,
        retry_in: impl Fn(u32) -> Option<std::time::Duration>,
        lanes: &mut Lanes,
        now: Instant,
    ) -> Option<Launch> {
        self.in_flight = self.in_flight.saturating_sub(1);
        let tracked = self.rows.get(&position)?;
        let (key, lane, fence) = (tracked.key.clone(), tracked.lane, tracked.fence);
        match landing {
            Landing::Published => {
                self.blocked.passed(&tracked.address);
                self.published.push(PublishedRow {
                    position,
                    lane,
                    fence,
                });
                key.and_then(|key| self.next_of(key, lanes, now))
            }
            Landing::Failed { why, is_final } => {
                self.blocked.passed(&tracked.address);
                let failures = tracked.attempts + 1;
                self.failed.push(FailedRow {
                    position,
                    fence,
                    attempts: failures,
                    error: why,
                    retry_in: (!is_final).then(|| retry_in(failures)).flatten(),
                });
                if let Some(key) = key {
                    self.drop_chain(&key, lanes);
                    self.chains.insert(key.clone(), Chain::Failed);
                    self.failed_keys.push(key);
                }
                None
            }
            Landing::HeldBack { .. } => {
                let address = tracked.address.clone();
                self.blocked.refused(&address, position, now);
                self.forget(position, lanes);
                if let Some(key) = key {
                    self.drop_chain(&key, lanes);
                }
                None
            }
            Landing::NotSent => {
                let address = tracked.address.clone();
                self.blocked.forget_probe(&address, position);
                self.forget(position, lanes);
                if let Some(key) = key {
                    self.drop_chain(&key, lanes);
                }
                None
            }
        }
    }

    /// The marks are in the database, or were refused there: their rows are not in memory any more.
    pub(super) fn marked(&mut self, lanes: &mut Lanes) {
        let published = std::mem::take(&mut self.published);
        let failed = std::mem::take(&mut self.failed);
        let published = published.iter().map(|row| row.position);
        for position in published.chain(failed.iter().map(|row| row.position)) {
            self.forget(position, lanes);
        }
        for key in std::mem::take(&mut self.failed_keys) {
            self.chains.remove(&key);
        }
    }

    /// These are not in memory any more.
    pub(super) fn forget_all(&mut self, positions: impl Iterator<Item = i64>, lanes: &mut Lanes) {
        for position in positions {
            self.forget(position, lanes);
        }
    }

    fn next_of(&mut self, key: String, lanes: &mut Lanes, now: Instant) -> Option<Launch> {
        let Some(Chain::Moves(behind)) = self.chains.get_mut(&key) else {
            return None;
        };
        let Some(mut row) = behind.pop_front() else {
            self.chains.remove(&key);
            return None;
        };
        let tracked = self.rows.get(&row.position);
        let fence = tracked.map(|tracked| tracked.fence);
        if let (Some(left), Some(tracked)) = (&mut row.expires_in_ms, tracked) {
            let waited = now.saturating_duration_since(tracked.read_at).as_millis();
            *left = left.saturating_sub(i64::try_from(waited).unwrap_or(i64::MAX));
        }
        let still = fence.filter(|fence| lanes.fence(row.lane, now) == Some(*fence));
        let Some(fence) = still.filter(|_| self.blocked.admits(&row.address, row.position, now))
        else {
            self.forget(row.position, lanes);
            self.drop_chain(&key, lanes);
            return None;
        };
        self.in_flight += 1;
        Some(Launch { row, fence })
    }

    /// Those behind stay in the database.
    fn drop_chain(&mut self, key: &str, lanes: &mut Lanes) {
        if let Some(Chain::Moves(behind)) = self.chains.remove(key) {
            for row in behind {
                self.forget(row.position, lanes);
            }
        }
    }

    fn forget(&mut self, position: i64, lanes: &mut Lanes) {
        if let Some(tracked) = self.rows.remove(&position) {
            lanes.let_go(tracked.lane);
        }
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
