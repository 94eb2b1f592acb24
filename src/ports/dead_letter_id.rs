use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::message::{MessageId, ParseIdError};

/// The identity of a dead letter, which is not that of its message: several queues may give up one event, and one queue the
/// same message again after a replay.
///
/// Shown, parsed and serialized as a UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeadLetterId(MessageId);

impl DeadLetterId {
    /// Of a UUID that was made for it.
    pub(crate) fn of(id: MessageId) -> Self {
        Self(id)
    }
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for DeadLetterId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}
