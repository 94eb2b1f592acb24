//! What the outbox, the inbox and durable queues need of a database, as scenarios that every store must pass.

/// Lists a room's scenarios.
macro_rules! store_scenarios {
    ($($name:ident;)*) => {
        pub(super) fn all<S: crate::store::TxStore>() -> Vec<super::StoreScenario<S>> {
            vec![$(super::StoreScenario {
                name: stringify!($name),
                body: |stand| Box::pin($name(stand)),
            }),*]
        }
    };
}

mod inbox;
mod leases;
mod outbox;
mod queues;
mod retries;
mod stand;

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use super::run::{DEADLINE_IN_REAL_TIME, SIDE_BY_SIDE, apart, by_deadline, side_by_side};
use super::{Line, Report, Unmet};
use crate::ports::LocalBoxFuture;
use crate::store::TxStore;
use stand::Stand;

/// One demand on a store, as something to be seen.
struct StoreScenario<S> {
    name: &'static str,
    body: for<'a> fn(&'a Stand<S>) -> LocalBoxFuture<'a, Result<(), Unmet>>,
}

impl<S> Clone for StoreScenario<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for StoreScenario<S> {}

fn scenarios<S: TxStore>() -> Vec<StoreScenario<S>> {
    [
        outbox::all(),
        retries::all(),
        leases::all(),
        inbox::all(),
        queues::all(),
    ]
    .concat()
}

type Place<S> = dyn Fn() -> Result<(S, Box<dyn Any + Send>), String> + Send + Sync;

/// Holds a store to what the outbox, the inbox and durable queues need of it: for who adds a database. Its own methods are
/// called, without a bus; over a bus, [`Stored`](super::Stored) holds it to the delivery contract.
///
/// `place` makes a store of its own for each scenario, with tables that no other one sees and that are not made yet, and
/// what is kept until it is not needed any more, to clean up by its `Drop`. The scenarios run side by side, in real
/// time; each has a deadline of 2 minutes, at which it is ended. Blocks until all have ended.
///
/// ```no_run
/// use postroom::testing::conformance::run_store;
/// # #[cfg(feature = "sqlite")]
/// # fn example() {
/// use postroom::Sqlite;
/// use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
///
/// let directory = std::env::temp_dir();
/// let report = run_store("SQLite", move || {
///     let file = directory.join(format!("conformance-{}.db", postroom::MessageId::new()));
///     let options = SqliteConnectOptions::new()
///         .filename(file)
///         .create_if_missing(true)
///         .journal_mode(SqliteJournalMode::Wal);
///     Ok((Sqlite::with_options(options), ()))
/// });
/// println!("{report}");
/// report.assert_passed();
/// # }
/// ```
pub fn run_store<S, G>(
    name: impl Into<String>,
    place: impl Fn() -> Result<(S, G), String> + Send + Sync + 'static,
) -> Report
where
    S: TxStore,
    G: Any + Send,
{
    let place: Arc<Place<S>> = Arc::new(move || {
        let (store, guard) = place()?;
        Ok((store, Box::new(guard) as Box<dyn Any + Send>))
    });
    let all = scenarios::<S>();
    Report {
        backing: format!("the store {}", name.into()),
        lines: side_by_side(all.len(), SIDE_BY_SIDE, |number| {
            let scenario = all[number];
            let started = Instant::now();
            let place = Arc::clone(&place);
            let verdict = apart(scenario.name, DEADLINE_IN_REAL_TIME, move || {
                play(scenario, &*place)
            });
            Line {
                scenario: scenario.name,
                verdict,
                took: started.elapsed(),
            }
        }),
    }
}

fn play<S: TxStore>(scenario: StoreScenario<S>, place: &Place<S>) -> Result<(), Unmet> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Unmet::Unavailable(error.to_string()))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        // The guard outlives the store.
        let (store, _guard) = place().map_err(Unmet::Unavailable)?;
        let stand = Stand::new(store);
        by_deadline(DEADLINE_IN_REAL_TIME, (scenario.body)(&stand)).await
    })
}
