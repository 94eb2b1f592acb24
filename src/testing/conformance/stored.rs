use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Backing, Features, Isolated, Time};
use crate::bus::{Builder, Bus};
use crate::durable::Durable;
use crate::outbox::Relay;
use crate::ports::BoxFuture;
use crate::store::Store;

/// Durable queues in a database, in real time: every local queue of a scenario is one. For any [`Store`], also one of
/// your own.
///
/// ```no_run
/// use postroom::testing::conformance::{Stored, run_blocking};
/// # #[cfg(feature = "sqlite")]
/// # fn example() {
/// use postroom::Sqlite;
/// use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
///
/// let directory = std::env::temp_dir();
/// run_blocking(Stored::new("SQLite", move || {
///     let file = directory.join(format!("conformance-{}.db", postroom::MessageId::new()));
///     let options = SqliteConnectOptions::new()
///         .filename(file)
///         .create_if_missing(true)
///         .journal_mode(SqliteJournalMode::Wal);
///     // What cleans up may be given along.
///     Ok((Sqlite::with_options(options), ()))
/// }))
/// .assert_passed();
/// # }
/// ```
#[derive(Clone)]
pub struct Stored {
    name: String,
    is_durable: bool,
    place: Arc<Place>,
}

type Place = dyn Fn() -> Result<(Choose, Box<dyn Any + Send>), String> + Send + Sync;

/// Gives a bus its store.
type Choose = Box<dyn Fn(Builder) -> Builder + Send>;

impl Stored {
    /// `place` makes a store of its own for each scenario, with tables that no other one sees, and what is kept until it
    /// is not needed any more, to clean up by its `Drop`.
    #[must_use]
    pub fn new<S, G>(
        name: impl Into<String>,
        place: impl Fn() -> Result<(S, G), String> + Send + Sync + 'static,
    ) -> Self
    where
        S: Store + Clone,
        G: Any + Send,
    {
        Self {
            name: name.into(),
            is_durable: true,
            place: Arc::new(move || {
                let (store, guard) = place()?;
                let choose = move |builder: Builder| builder.store(store.clone());
                Ok((
                    Box::new(choose) as Choose,
                    Box::new(guard) as Box<dyn Any + Send>,
                ))
            }),
        }
    }

    /// With queues in memory, and only what belongs to no queue in the database: delayed messages and dead letters.
    #[must_use]
    pub fn with_queues_in_memory(mut self) -> Self {
        self.is_durable = false;
        self
    }
}

impl Backing for Stored {
    fn name(&self) -> String {
        match self.is_durable {
            true => format!("durable queues in {}", self.name),
            false => format!("queues in memory beside {}", self.name),
        }
    }

    fn features(&self) -> Features {
        Features {
            // What waits is due by the database's clock, and is looked for then.
            exact_time: false,
            // The table holds what the mailbox has no place for, up to a bound of its own.
            local_acceptance: !self.is_durable,
            drop_policies: !self.is_durable,
            // What is parked may take the whole mailbox.
            parked_half: !self.is_durable,
            survives_restart: self.is_durable,
            // Those beyond their bound are deleted within some seconds.
            dead_letter_bound: false,
            // They are rows of a table.
            schedule_bound: false,
            ..Features::all()
        }
    }

    fn isolate(&self) -> BoxFuture<'_, Result<Isolated, String>> {
        let is_durable = self.is_durable;
        let isolated = (self.place)().map(|(choose, guard)| {
            let builder = move || {
                // Long enough that it does not run out where the machine stands still for a moment.
                let lease = Duration::from_secs(5);
                let builder = choose(Bus::builder("conformance"))
                    .durable_settings(Durable::new().lease(lease))
                    .relay(Relay::new().start_with_bus());
                match is_durable {
                    true => builder.durable_queues(),
                    false => builder,
                }
            };
            Isolated::new(Time::Real, builder).guarded_by(guard)
        });
        Box::pin(std::future::ready(isolated))
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
