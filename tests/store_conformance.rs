//! The whole contract over durable queues: in SQLite files, and in PostgreSQL.
#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod common;

use common::store::{postgres_url, sqlite_options};
use postroom::testing::conformance::{Stored, Verdict, run_blocking, scenarios};
use postroom::{Postgres, Sqlite};

/// What the contract does not promise over a store, by the feature; why is said at `Features`.
const NOT_PROMISED: &[(&str, &[&str])] = &[
    (
        "local_acceptance",
        &[
            "rule_1_a_publish_is_all_or_nothing",
            "rule_1_a_dropped_waiting_publish_publishes_nothing",
            "rule_1_a_waiting_publish_is_accepted_when_there_is_room",
            "rule_1_a_wait_has_a_deadline_and_gives_the_message_back",
            "rule_2_overflow_wait_holds_the_publisher",
            "rule_2_overflow_fail_refuses_at_once",
            "rule_9_a_full_target_is_waited_for",
            "rule_10_a_waiting_publish_is_refused",
            "a_request_to_a_full_queue_says_so",
            "a_refused_replay_keeps_the_dead_letter",
        ],
    ),
    (
        "drop_policies",
        &[
            "rule_2_overflow_drop_newest_is_counted",
            "rule_2_overflow_drop_oldest_is_counted",
            "rule_2_a_drop_in_one_queue_leaves_the_others",
            "a_request_that_was_dropped_says_so",
        ],
    ),
    ("parked_half", &["rule_7_a_waiting_lane_parks_at_most_half"]),
    (
        "dead_letter_bound",
        &["the_oldest_dead_letter_is_evicted_and_counted"],
    ),
];

/// Nothing fails, and nothing is skipped but what is not promised.
#[allow(
    clippy::print_stdout,
    reason = "the table is read in the test's output"
)]
fn check(backing: Stored) {
    let report = run_blocking(backing);
    println!("{report}");
    report.assert_passed();
    assert_eq!(report.lines().len(), scenarios().len());
    for line in report.lines() {
        let promise = NOT_PROMISED
            .iter()
            .find(|(_, names)| names.contains(&line.scenario));
        let expected = match promise {
            Some((feature, _)) => Verdict::Skipped(feature),
            None => Verdict::Passed,
        };
        assert_eq!(line.verdict, expected, "{}", line.scenario);
    }
}

struct Directory(std::path::PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn durable_queues_in_sqlite_keep_the_contract() {
    check(Stored::new("SQLite", || {
        let name = format!("postroom-conformance-{:x}", fastrand::u64(..));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        let options = sqlite_options(&directory.join("store.db"));
        Ok((Sqlite::with_options(options), Directory(directory)))
    }));
}

#[test]
fn durable_queues_in_postgresql_keep_the_contract() {
    check(Stored::new("PostgreSQL", || {
        let url: sqlx::postgres::PgConnectOptions = postgres_url().parse().unwrap();
        let schema = format!("c_{:x}", fastrand::u64(..));
        Ok((Postgres::with_options(url).schema(schema), ()))
    }));
}
