use std::collections::HashMap;
use std::time::Instant;

use crate::store::LaneLease;

/// The lanes that this relay holds, and until when it may act on it, by its own monotonic clock. Pure: the time is
/// passed in.
#[derive(Default)]
pub(super) struct Lanes {
    held: HashMap<u32, Held>,
    /// How many rows of each lane are in memory. Apart, since those of a lane that was lost stay there until they land, also when it
    /// is won again meanwhile.
    in_memory: HashMap<u32, u32>,
}

struct Held {
    fence: i64,
    valid_until: Instant,
    /// Nothing more is taken of it, and when nothing of it is in memory it is given up.
    leaves: bool,
}

impl Lanes {
    /// What the database says is held. Lanes over the fair share begin to leave: those with the least in memory.
    pub(super) fn renewed(&mut self, lease: &LaneLease, valid_until: Instant) {
        let known = std::mem::take(&mut self.held);
        for lane in &lease.held {
            let before = known.get(&lane.lane);
            let is_same = before.is_some_and(|before| before.fence == lane.fence);
            self.held.insert(
                lane.lane,
                Held {
                    fence: lane.fence,
                    valid_until,
                    leaves: is_same && before.is_some_and(|before| before.leaves),
                },
            );
        }
        let share = lease.share as usize;
        let in_memory = &self.in_memory;
        let mut staying: Vec<_> = self
            .held
            .iter_mut()
            .filter(|(_, held)| !held.leaves)
            .collect();
        let surplus = staying.len().saturating_sub(share);
        let count = |lane| in_memory.get(lane).copied().unwrap_or(0);
        staying.sort_by_key(|(lane, _)| (count(lane), std::cmp::Reverse(**lane)));
        for (_, held) in staying.into_iter().take(surplus) {
            held.leaves = true;
        }
        // Others have gone meanwhile: what was to leave may stay.
        let staying = self.held.values().filter(|held| !held.leaves).count();
        let mut missing = share.saturating_sub(staying);
        for held in self.held.values_mut().filter(|held| held.leaves) {
            if missing > 0 {
                held.leaves = false;
                missing -= 1;
            }
        }
    }

    /// The lanes to be given up now. From here on they are not held any more.
    pub(super) fn give_up(&mut self) -> Vec<u32> {
        let gone: Vec<u32> = self
            .held
            .iter()
            .filter(|(lane, held)| held.leaves && !self.in_memory.contains_key(lane))
            .map(|(lane, _)| *lane)
            .collect();
        for lane in &gone {
            self.held.remove(lane);
        }
        gone
    }

    /// Whether some lanes leave as soon as what is in memory of them has landed.
    pub(super) fn some_leave(&self) -> bool {
        self.held.values().any(|held| held.leaves)
    }

    /// What may be taken from.
    pub(super) fn open(&self, now: Instant) -> Vec<u32> {
        let open = self
            .held
            .iter()
            .filter(|(_, held)| !held.leaves && now < held.valid_until);
        open.map(|(lane, _)| *lane).collect()
    }

    /// The fence of a lane of which something may be done now.
    pub(super) fn fence(&self, lane: u32, now: Instant) -> Option<i64> {
        let held = self.held.get(&lane)?;
        (now < held.valid_until).then_some(held.fence)
    }

    /// A row is in memory from now on. The fence under which it is; none: its lane is not open any more.
    pub(super) fn keep(&mut self, lane: u32, now: Instant) -> Option<i64> {
        let held = self.held.get_mut(&lane)?;
        if held.leaves || now >= held.valid_until {
            return None;
        }
        *self.in_memory.entry(lane).or_default() += 1;
        Some(held.fence)
    }

    /// A row is not in memory any more.
    pub(super) fn let_go(&mut self, lane: u32) {
        if let Some(count) = self.in_memory.get_mut(&lane) {
            *count -= 1;
            if *count == 0 {
                self.in_memory.remove(&lane);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::HeldLane;

    fn lease(lanes: &[(u32, i64)], share: u32) -> LaneLease {
        let held = lanes.iter().map(|(lane, fence)| HeldLane {
            lane: *lane,
            fence: *fence,
        });
        LaneLease {
            held: held.collect(),
            share,
            relays: 1,
        }
    }

    #[test]
    fn nothing_is_done_under_a_lease_that_has_run_out() {
        let now = Instant::now();
        let mut lanes = Lanes::default();
        lanes.renewed(&lease(&[(1, 7)], 1), now + Duration::from_secs(1));
        assert_eq!(lanes.fence(1, now), Some(7));
        assert_eq!(lanes.fence(2, now), None);
        let late = now + Duration::from_secs(1);
        assert_eq!(lanes.fence(1, late), None);
        assert_eq!(lanes.keep(1, late), None);
        assert!(lanes.open(late).is_empty());
    }

    #[test]
    fn a_surplus_lane_is_given_up_only_when_nothing_of_it_is_in_memory() {
        let now = Instant::now();
        let until = now + Duration::from_secs(1);
        let mut lanes = Lanes::default();
        lanes.renewed(&lease(&[(1, 1), (2, 1)], 2), until);
        assert_eq!(lanes.keep(1, now), Some(1));
        assert_eq!(lanes.keep(2, now), Some(1));
        lanes.renewed(&lease(&[(1, 1), (2, 1)], 1), until);
        assert_eq!(lanes.open(now).len(), 1);
        let leaving = 3 - lanes.open(now)[0];
        assert!(lanes.give_up().is_empty(), "its row is on its way");
        assert_eq!(lanes.keep(leaving, now), None, "nothing more is taken");
        lanes.let_go(leaving);
        assert_eq!(lanes.give_up(), [leaving]);
        assert_eq!(
            lanes.fence(leaving, now),
            None,
            "given up before the database is told"
        );
    }

    #[test]
    fn a_lane_that_was_to_leave_stays_when_others_have_gone() {
        let now = Instant::now();
        let until = now + Duration::from_secs(1);
        let mut lanes = Lanes::default();
        lanes.renewed(&lease(&[(1, 1), (2, 1)], 1), until);
        assert!(lanes.some_leave());
        lanes.renewed(&lease(&[(1, 1), (2, 1)], 2), until);
        assert!(!lanes.some_leave());
        assert_eq!(lanes.open(now).len(), 2);
    }

    #[test]
    fn a_lane_taken_over_and_back_has_another_fence() {
        let now = Instant::now();
        let until = now + Duration::from_secs(1);
        let mut lanes = Lanes::default();
        lanes.renewed(&lease(&[(1, 1)], 1), until);
        assert_eq!(lanes.keep(1, now), Some(1));
        lanes.renewed(&lease(&[(1, 3)], 1), until);
        assert_eq!(lanes.fence(1, now), Some(3));
    }

    #[test]
    fn a_lane_lost_and_won_again_is_not_given_up_while_rows_of_either_are_in_memory() {
        let now = Instant::now();
        let until = now + Duration::from_secs(1);
        let mut lanes = Lanes::default();
        lanes.renewed(&lease(&[(1, 1)], 1), until);
        assert_eq!(lanes.keep(1, now), Some(1));
        lanes.renewed(&lease(&[], 1), until);
        lanes.renewed(&lease(&[(1, 3)], 1), until);
        assert_eq!(lanes.keep(1, now), Some(3));
        lanes.renewed(&lease(&[(1, 3)], 0), until);
        // The row of the former taking over lands, and the one of this is still on its way.
        lanes.let_go(1);
        assert!(lanes.give_up().is_empty());
        lanes.let_go(1);
        assert_eq!(lanes.give_up(), [1]);
    }
}
