use std::fmt;

use crate::ports::StoreError;

/// What kind of trouble a database had: what to do about it depends on this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DatabaseProblem {
    /// It cannot be reached, refused the connection, or the connection was lost: what was asked for may have been
    /// done or not.
    Unreachable,
    /// No answer within the statement's time: it may have been done or not.
    Timeout,
    /// Somebody else holds a lock (`SQLITE_BUSY`, `lock_timeout`). Nothing was done; try again.
    Busy,
    /// Two transactions could not be put in an order, or waited for each other. Nothing was done; try again.
    Serialization,
    /// It takes no writes: a read-only file, a standby.
    ReadOnly,
    /// There is no room for more.
    Full,
    /// The tables are not there, or not as this version needs them.
    Schema,
    /// The store cannot be used as it was configured.
    Configuration,
    /// Anything else.
    Other,
}

/// A database that did not do what it was asked for.
///
/// The text is the database's own message, without what it says of values and of how to connect, so that it can be
/// logged and shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct DatabaseError {
    problem: DatabaseProblem,
    during: &'static str,
    text: String,
}

/// For who asked for messages, and not for a database.
impl From<DatabaseError> for StoreError {
    fn from(error: DatabaseError) -> Self {
        Self(error.to_string())
    }
}

impl DatabaseError {
    /// Made by who implements a [`Store`](crate::Store). `during` completes "while it was to …".
    #[must_use]
    pub fn new(problem: DatabaseProblem, during: &'static str, text: impl Into<String>) -> Self {
        Self {
            problem,
            during,
            text: text.into(),
        }
    }

    /// Whether what was asked for may have been done all the same.
    pub(crate) fn may_be_done(&self) -> bool {
        matches!(
            self.problem,
            DatabaseProblem::Unreachable | DatabaseProblem::Timeout
        )
    }

    /// What kind of trouble it is.
    #[must_use]
    pub fn problem(&self) -> DatabaseProblem {
        self.problem
    }

    /// Whether the connection is as good as before: only the statement was refused.
    pub(crate) fn keeps_connection(&self) -> bool {
        matches!(
            self.problem,
            DatabaseProblem::Busy
                | DatabaseProblem::Serialization
                | DatabaseProblem::ReadOnly
                | DatabaseProblem::Full
        )
    }
}

impl fmt::Display for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.problem {
            DatabaseProblem::Unreachable => "the database cannot be reached",
            DatabaseProblem::Timeout => "the database did not answer in time",
            DatabaseProblem::Busy => "the database is locked",
            DatabaseProblem::Serialization => "the database could not serialize",
            DatabaseProblem::ReadOnly => "the database is read-only",
            DatabaseProblem::Full => "the database is full",
            DatabaseProblem::Schema => "the database has not the tables that are needed",
            DatabaseProblem::Configuration => "the store cannot be used as it is configured",
            DatabaseProblem::Other => "the database failed",
        };
        write!(f, "{what}, while it was to {}: {}", self.during, self.text)
    }
}
