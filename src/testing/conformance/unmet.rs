use std::fmt::{Debug, Display};
use std::time::Duration;

/// How a scenario failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unmet {
    /// Something else was seen than the contract says.
    #[error("{what}: expected {expected}, saw {seen}")]
    Differs {
        /// What was looked at.
        what: String,
        /// What the contract says.
        expected: String,
        /// What was there.
        seen: String,
    },
    /// A step that has to work did not.
    #[error("{step} failed: {why}")]
    Failed {
        /// The step.
        step: String,
        /// Its error.
        why: String,
    },
    /// The backing has no place for the scenario.
    #[error("the backing cannot be had: {0}")]
    Unavailable(String),
    /// The scenario itself, or the backing in it, panicked.
    #[error("panicked: {0}")]
    Panicked(String),
    /// It did not end, and was ended.
    #[error("did not end within {0:?}")]
    Hung(Duration),
}

/// Compares what was seen with what the contract says.
pub(super) fn same<S, E>(what: &str, seen: S, expected: E) -> Result<(), Unmet>
where
    S: PartialEq<E> + Debug,
    E: Debug,
{
    if seen == expected {
        return Ok(());
    }
    Err(Unmet::Differs {
        what: what.to_owned(),
        expected: format!("{expected:?}"),
        seen: format!("{seen:?}"),
    })
}

/// Checks something that has no other value to compare with.
pub(super) fn holds(what: &str, holds: bool, seen: impl Debug) -> Result<(), Unmet> {
    if holds {
        return Ok(());
    }
    Err(Unmet::Differs {
        what: what.to_owned(),
        expected: "it to hold".to_owned(),
        seen: format!("{seen:?}"),
    })
}

/// A step that has to work.
pub(super) trait Step<T> {
    fn step(self, step: &str) -> Result<T, Unmet>;
}

impl<T, E: Display> Step<T> for Result<T, E> {
    fn step(self, step: &str) -> Result<T, Unmet> {
        self.map_err(|error| Unmet::Failed {
            step: step.to_owned(),
            why: error.to_string(),
        })
    }
}

impl<T> Step<T> for Option<T> {
    fn step(self, step: &str) -> Result<T, Unmet> {
        self.ok_or_else(|| Unmet::Failed {
            step: step.to_owned(),
            why: "nothing was there".to_owned(),
        })
    }
}
