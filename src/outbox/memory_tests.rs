use std::time::Duration;

use super::*;
use crate::store::{HeldLane, LaneLease};

struct Desk {
    memory: Memory,
    lanes: Lanes,
    now: Instant,
}

impl Desk {
    fn new() -> Self {
        let now = Instant::now();
        let mut lanes = Lanes::default();
        let held = (0..4).map(|lane| HeldLane { lane, fence: 1 }).collect();
        let lease = LaneLease {
            held,
            share: 4,
            relays: 1,
        };
        lanes.renewed(&lease, now + Duration::from_secs(10));
        Self {
            memory: Memory::default(),
            lanes,
            now,
        }
    }

    fn take_in(&mut self, rows: &[(i64, Option<&str>, &str)]) -> Vec<i64> {
        let rows = rows.iter().map(|(position, key, address)| {
            let mut row = StoredRow::new(
                *position,
                0,
                String::new(),
                (*address).to_owned(),
                String::new(),
            );
            row.key = key.map(str::to_owned);
            row
        });
        let launches = self
            .memory
            .take_in(rows.collect(), &mut self.lanes, self.now);
        launches.iter().map(|launch| launch.row.position).collect()
    }

    fn land(&mut self, position: i64, landing: Landing) -> Option<i64> {
        let retry = |_| Some(Duration::from_secs(1));
        let next = self
            .memory
            .land(position, landing, retry, &mut self.lanes, self.now);
        next.map(|launch| launch.row.position)
    }

    fn marked(&mut self) {
        self.memory.marked(&mut self.lanes);
    }
}

fn failed() -> Landing {
    Landing::Failed {
        why: "no".to_owned(),
        is_final: false,
    }
}

fn held_back() -> Landing {
    Landing::HeldBack {
        why: "full".to_owned(),
    }
}

#[test]
fn what_a_row_waits_behind_another_is_taken_off_its_time() {
    let mut desk = Desk::new();
    let rows = [(1, 9_000), (2, 9_000), (3, 1_000)].map(|(position, left)| {
        let empty = String::new;
        let mut row = StoredRow::new(position, 0, empty(), "x".to_owned(), empty());
        row.key = Some("a".to_owned());
        row.expires_in_ms = Some(left);
        row
    });
    let now = desk.now;
    let first = desk.memory.take_in(rows.into(), &mut desk.lanes, now);
    assert_eq!(first[0].row.expires_in_ms, Some(9_000));
    let mut left_at = |position, seconds| {
        let at = now + Duration::from_secs(seconds);
        let (memory, lanes) = (&mut desk.memory, &mut desk.lanes);
        let next = memory.land(position, Landing::Published, |_| None, lanes, at);
        next.unwrap().row.expires_in_ms
    };
    assert_eq!(left_at(1, 2), Some(7_000));
    assert_eq!(left_at(2, 3), Some(-2_000));
}

#[test]
fn rows_of_one_key_go_one_after_another_and_others_beside_them() {
    let mut desk = Desk::new();
    let rows = [
        (1, Some("a"), "x"),
        (2, Some("a"), "x"),
        (3, Some("b"), "x"),
        (4, None, "x"),
    ];
    assert_eq!(desk.take_in(&rows), [1, 3, 4]);
    assert!(desk.take_in(&[(5, Some("a"), "y")]).is_empty());
    assert_eq!(desk.land(1, Landing::Published), Some(2));
    assert_eq!(desk.land(3, Landing::Published), None);
    assert_eq!(desk.land(2, Landing::Published), Some(5));
    assert_eq!(desk.memory.len(), 5, "in memory until they are marked");
    desk.marked();
    assert_eq!(desk.memory.len(), 2);
}

#[test]
fn behind_a_failure_nothing_of_its_key_goes_until_it_is_in_the_database() {
    let mut desk = Desk::new();
    assert_eq!(
        desk.take_in(&[(1, Some("a"), "x"), (2, Some("a"), "x")]),
        [1]
    );
    assert_eq!(desk.land(1, failed()), None);
    assert_eq!(
        desk.memory.positions(),
        [1],
        "the one behind it stays in the database"
    );
    assert!(desk.take_in(&[(2, Some("a"), "x")]).is_empty());
    desk.marked();
    assert_eq!(
        desk.take_in(&[(1, Some("a"), "x"), (2, Some("a"), "x")]),
        [1]
    );
}

#[test]
fn a_full_queue_costs_no_attempt_and_holds_back_its_own_rows_only() {
    let mut desk = Desk::new();
    assert_eq!(
        desk.take_in(&[(1, None, "full"), (2, None, "free")]),
        [1, 2]
    );
    assert_eq!(desk.land(1, held_back()), None);
    assert!(desk.memory.failed.is_empty());
    assert_eq!(desk.take_in(&[(1, None, "full"), (3, None, "free")]), [3]);
    desk.now += Duration::from_secs(1);
    assert_eq!(
        desk.take_in(&[(1, None, "full"), (4, None, "full")]),
        [1],
        "one sees"
    );
    assert_eq!(desk.land(1, Landing::Published), None);
    assert_eq!(desk.take_in(&[(4, None, "full")]), [4]);
}

#[test]
fn a_key_does_not_pass_its_row_that_is_held_back() {
    let mut desk = Desk::new();
    assert_eq!(
        desk.take_in(&[(1, Some("a"), "full"), (2, Some("a"), "free")]),
        [1]
    );
    assert_eq!(desk.land(1, held_back()), None);
    assert_eq!(desk.memory.len(), 0);
    let both = [(1, Some("a"), "full"), (2, Some("a"), "free")];
    assert!(desk.take_in(&both).is_empty());
    desk.now += Duration::from_secs(1);
    assert_eq!(desk.take_in(&both), [1]);
    assert_eq!(desk.land(1, Landing::Published), Some(2));
}

#[test]
fn under_a_lease_that_ran_out_the_next_of_a_key_is_not_sent() {
    let mut desk = Desk::new();
    assert_eq!(
        desk.take_in(&[(1, Some("a"), "x"), (2, Some("a"), "x")]),
        [1]
    );
    desk.now += Duration::from_secs(10);
    assert_eq!(desk.land(1, Landing::Published), None);
    assert_eq!(desk.memory.positions(), [1]);
    assert!(desk.take_in(&[(3, None, "x")]).is_empty());
}

#[test]
fn after_its_end_nothing_is_sent_and_what_is_on_its_way_lands() {
    let mut desk = Desk::new();
    let rows = [
        (1, Some("a"), "x"),
        (2, Some("a"), "x"),
        (3, Some("a"), "x"),
        (4, Some("b"), "x"),
    ];
    assert_eq!(desk.take_in(&rows), [1, 4]);
    desk.memory.close(&mut desk.lanes);
    assert_eq!(
        desk.memory.len(),
        2,
        "those behind another stay in the database"
    );
    assert!(desk.take_in(&[(5, None, "x")]).is_empty());
    assert_eq!(desk.land(1, Landing::Published), None);
    assert_eq!(desk.land(4, failed()), None);
    assert_eq!((desk.memory.in_flight, desk.memory.marks()), (0, 2));
    desk.marked();
    assert_eq!(desk.memory.len(), 0);
}
