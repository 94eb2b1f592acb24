//! What the rooms need of a database, and the whole contract over durable queues: in SQLite files, and in PostgreSQL.

use crate::common::conformance::{OUTSIDE_OF_MEMORY, Skipped, check};
use crate::common::store::{postgres_url, sqlite_options};
use postroom::testing::conformance::{Line, Report, Stored, Verdict, run_store};
use postroom::{Postgres, Sqlite};

/// A table has no bound at which a delayed message is refused.
const NO_BOUND: Skipped = &[("schedule_bound", &["the_schedule_is_bounded"])];

/// The queues end with their process; the dead letters have the bound of the table.
const IN_MEMORY: Skipped = &[
    (
        "survives_restart",
        &["what_was_accepted_survives_a_restart"],
    ),
    (
        "dead_letter_bound",
        &["the_oldest_dead_letter_is_evicted_and_counted"],
    ),
];

struct Directory(std::path::PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn file() -> Result<(Sqlite, Directory), String> {
    let name = format!("postroom-conformance-{:x}", fastrand::u64(..));
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
    let options = sqlite_options(&directory.join("store.db"));
    Ok((Sqlite::with_options(options), Directory(directory)))
}

fn schema() -> Result<(Postgres, ()), String> {
    let url: sqlx::postgres::PgConnectOptions = postgres_url().parse().unwrap();
    let schema = format!("c_{:x}", fastrand::u64(..));
    Ok((Postgres::with_options(url).schema(schema), ()))
}

fn sqlite() -> Stored {
    Stored::new("SQLite", file)
}

fn postgresql() -> Stored {
    Stored::new("PostgreSQL", schema)
}

#[allow(
    clippy::print_stdout,
    reason = "the table is read in the test's output"
)]
fn check_store(report: &Report) {
    println!("{report}");
    report.assert_passed();
    let passed = |line: &Line| line.verdict == Verdict::Passed;
    assert!(report.lines().len() > 30 && report.lines().iter().all(passed));
}

#[test]
fn sqlite_does_what_the_rooms_need() {
    check_store(&run_store("SQLite", file));
}

#[test]
fn postgresql_does_what_the_rooms_need() {
    check_store(&run_store("PostgreSQL", schema));
}

#[test]
fn durable_queues_in_sqlite_keep_the_contract() {
    check(sqlite(), &[OUTSIDE_OF_MEMORY, NO_BOUND]);
}

#[test]
fn durable_queues_in_postgresql_keep_the_contract() {
    check(postgresql(), &[OUTSIDE_OF_MEMORY, NO_BOUND]);
}

#[test]
fn queues_in_memory_beside_sqlite_keep_the_contract() {
    check(sqlite().with_queues_in_memory(), &[IN_MEMORY, NO_BOUND]);
}
