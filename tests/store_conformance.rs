//! The whole contract over durable queues: in SQLite files, and in PostgreSQL.
#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

mod common;

use common::conformance::{Skipped, check};
use common::store::{postgres_url, sqlite_options};
use postroom::testing::conformance::Stored;
use postroom::{Postgres, Sqlite};

/// A table has no bound at which a delayed message is refused.
const NOT_PROMISED: Skipped = &[("schedule_bound", &["the_schedule_is_bounded"])];

struct Directory(std::path::PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn durable_queues_in_sqlite_keep_the_contract() {
    let backing = Stored::new("SQLite", || {
        let name = format!("postroom-conformance-{:x}", fastrand::u64(..));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        let options = sqlite_options(&directory.join("store.db"));
        Ok((Sqlite::with_options(options), Directory(directory)))
    });
    check(backing, NOT_PROMISED);
}

#[test]
fn durable_queues_in_postgresql_keep_the_contract() {
    let backing = Stored::new("PostgreSQL", || {
        let url: sqlx::postgres::PgConnectOptions = postgres_url().parse().unwrap();
        let schema = format!("c_{:x}", fastrand::u64(..));
        Ok((Postgres::with_options(url).schema(schema), ()))
    });
    check(backing, NOT_PROMISED);
}
