//! The delivery contract as scenarios that every backing of a queue must pass.
//!
//! A scenario is named after the rule of the contract that it follows, is independent of all others, has a
//! bus of its own and a deadline of its own, and fails with what it expected and what it saw. After each one
//! the runner checks that the books of every queue and of the dead letters balance (rule 13).
//!
//! ```no_run
//! use postroom::testing::conformance::{InProcess, run};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let report = run(InProcess::new()).await;
//! println!("{report}");
//! report.assert_passed();
//! # }
//! ```
//!
//! [`InProcess`] runs on a manual clock, in milliseconds. With the feature `amqp`, `RabbitMq` runs over a broker
//! of yours, and with `sqlite` or `postgres` `Stored` over durable queues in a database, both in real time. A backing of another kind implements [`Backing`] and says in its [`Features`] what it
//! does not promise; scenarios about that are skipped, and reported with the feature that they miss.
//!
//! Who adds a database runs `run_store` first: it holds the store's own methods to what the outbox, the inbox and
//! durable queues need of them.

/// Lists a room's scenarios, each with the features that it needs, if it needs any.
macro_rules! scenarios {
    ($($name:ident $(if $($need:ident),+)?;)*) => {
        pub(super) fn all() -> Vec<super::Scenario> {
            vec![$(super::Scenario {
                name: stringify!($name),
                needs: {
                    const NEEDS: &[super::Need] = &[$($(super::Need {
                        feature: stringify!($need),
                        is_promised: |features| features.$need,
                    }),+)?];
                    NEEDS
                },
                body: |stage| Box::pin($name(stage)),
            }),*]
        }
    };
}

mod acceptance;
mod attempts;
mod backing;
mod dead_letters;
mod edges;
mod order;
mod overflow;
mod props;
#[cfg(feature = "amqp")]
mod rabbit_mq;
mod releases;
mod report;
mod requests;
mod run;
mod schedules;
mod shutdown;
mod stage;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod store;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod stored;
mod supervision;
mod unmet;
mod verdicts;

pub use backing::{Backing, Features, InProcess, Isolated, Time};
#[cfg(feature = "amqp")]
pub use rabbit_mq::RabbitMq;
pub use report::{Line, Report, Verdict};
pub use run::{run, run_blocking};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use store::run_store;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use stored::Stored;
pub use unmet::Unmet;

use crate::ports::LocalBoxFuture;
use stage::Stage;

/// A feature that a scenario looks at.
#[derive(Clone, Copy)]
struct Need {
    feature: &'static str,
    is_promised: fn(&Features) -> bool,
}

/// One rule of the contract, as something to be seen.
#[derive(Clone, Copy)]
pub struct Scenario {
    name: &'static str,
    needs: &'static [Need],
    body: for<'a> fn(&'a Stage) -> LocalBoxFuture<'a, Result<(), Unmet>>,
}

impl Scenario {
    /// The rule, and what is claimed of it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether a backing with these features promises what this scenario looks at.
    #[must_use]
    pub fn applies_to(&self, features: &Features) -> bool {
        self.missing_in(features).is_none()
    }

    /// The first feature that is not promised, and would have to be.
    fn missing_in(&self, features: &Features) -> Option<&'static str> {
        let mut needs = self.needs.iter();
        let missing = needs.find(|need| !(need.is_promised)(features));
        missing.map(|need| need.feature)
    }
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Scenario").field(&self.name).finish()
    }
}

/// All scenarios, in the order of the contract.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    [
        acceptance::all(),
        overflow::all(),
        attempts::all(),
        verdicts::all(),
        order::all(),
        supervision::all(),
        releases::all(),
        shutdown::all(),
        edges::all(),
        requests::all(),
        schedules::all(),
        dead_letters::all(),
    ]
    .concat()
}
