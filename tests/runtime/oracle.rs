//! The tests' own book-keeping: what it calls lost, unexpected and duplicated.

use std::process::Command;

use crate::common::{Ledger, Oracle};

#[test]
fn what_was_accepted_and_not_handled_is_lost() {
    let oracle = Oracle::default();
    oracle.attempt(1);
    oracle.accept(1);
    oracle.handle("a", 1);
    assert!(oracle.complete(&["a"]));
    assert!(!oracle.complete(&["a", "b"]));
    assert_eq!(oracle.verdict(&["a", "b"]).lost, [("b".to_owned(), 1)]);
}

#[test]
fn what_was_refused_or_never_attempted_is_unexpected() {
    let oracle = Oracle::default();
    oracle.attempt(1);
    oracle.handle("a", 1);
    oracle.handle("a", 2);
    let unexpected = oracle.verdict(&["a"]).unexpected;
    assert_eq!(unexpected, [("a".to_owned(), 1), ("a".to_owned(), 2)]);
}

#[test]
fn an_unknown_outcome_is_neither_lost_nor_unexpected() {
    let oracle = Oracle::default();
    for id in 1..=2 {
        oracle.attempt(id);
        oracle.unknown(id);
    }
    oracle.handle("a", 1);
    let verdict = oracle.check_at_least_once("an example", &["a"]);
    assert_eq!(
        verdict.to_string(),
        "attempted 2 accepted 0 unknown 2 handled 1 lost 0 unexpected 0 duplicated 0"
    );
}

#[test]
#[should_panic(expected = "lost: [(\"a\", 1)]")]
fn a_loss_fails_the_check() {
    let oracle = Oracle::default();
    oracle.attempt(1);
    oracle.accept(1);
    oracle.check_at_least_once("an example", &["a"]);
}

#[test]
#[should_panic(expected = "unexpected: [(\"a\", 1)]")]
fn a_stranger_fails_the_check() {
    let oracle = Oracle::default();
    oracle.handle("a", 1);
    oracle.check_at_least_once("an example", &["a"]);
}

/// The other process in `a_ledger_outlives_a_killed_process`.
const LEDGER: &str = "POSTROOM_TEST_LEDGER";

#[test]
fn a_ledger_outlives_a_killed_process() {
    if let Some(path) = std::env::var_os(LEDGER) {
        let ledger = Ledger::open(path);
        (1..=4).for_each(|id| ledger.attempt(id));
        (1..=2).for_each(|id| ledger.accept(id));
        ledger.refuse(3);
        ledger.handle("a", 1);
        // As by kill -9: no destructor, no flush.
        std::process::abort();
    }
    let path = std::env::temp_dir().join(format!("postroom-ledger-{:x}", fastrand::u64(..)));
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "oracle::a_ledger_outlives_a_killed_process"])
        .env(LEDGER, &path)
        .output()
        .unwrap()
        .status;
    assert!(!status.success());
    let ledger = Ledger::open(&path);
    let verdict = ledger.read().verdict(&["a"]);
    assert_eq!(
        (verdict.attempted, verdict.accepted, verdict.unknown),
        (4, 2, 1)
    );
    assert_eq!(verdict.lost, [("a".to_owned(), 2)]);
    ledger.handle("a", 2);
    ledger.handle("a", 2);
    ledger.handle("a", 4);
    let verdict = ledger
        .read()
        .check_at_least_once("a killed process", &["a"]);
    assert_eq!(verdict.duplicated, [("a".to_owned(), 2)]);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn records_of_many_writers_do_not_mix() {
    let path = std::env::temp_dir().join(format!("postroom-ledger-{:x}", fastrand::u64(..)));
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let path = &path;
            scope.spawn(move || {
                let ledger = Ledger::open(path);
                for id in writer * 1000..(writer + 1) * 1000 {
                    ledger.attempt(id);
                    ledger.accept(id);
                    ledger.handle("a", id);
                }
            });
        }
    });
    let verdict = Ledger::open(&path).read().check(&["a"]);
    assert_eq!(verdict.handled, 8000);
    std::fs::remove_file(path).unwrap();
}
