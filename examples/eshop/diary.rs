//! What has been placed, written down before it is sent and after: who follows a killed process goes on where that was,
//! and sends what it is not known to have sent once more, word for word.

use serde::{Deserialize, Serialize};

use crate::database::{DataError, Database};
use crate::messages::PlaceOrder;

const DIARY: &str = "diary";
const LAST: &str = "last";

/// The last order of which it is known.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Which one it was, from 0.
    pub count: usize,
    pub command: PlaceOrder,
    /// Everything about it was accepted.
    pub is_placed: bool,
}

impl Entry {
    /// How many were placed.
    pub fn placed(&self) -> usize {
        self.count + usize::from(self.is_placed)
    }
}

/// Without a database nothing is written down.
#[derive(Clone)]
pub struct Diary(Option<Database>);

impl Diary {
    pub fn of(database: &Database, is_kept: bool) -> Self {
        Self(is_kept.then(|| database.clone()))
    }

    pub async fn last(&self) -> Result<Option<Entry>, DataError> {
        match &self.0 {
            Some(database) => database.get(DIARY, LAST).await,
            None => Ok(None),
        }
    }

    pub async fn write(
        &self,
        count: usize,
        command: &PlaceOrder,
        is_placed: bool,
    ) -> Result<(), DataError> {
        let Some(database) = &self.0 else {
            return Ok(());
        };
        let entry = Entry {
            count,
            command: command.clone(),
            is_placed,
        };
        let state = if is_placed { "placed" } else { "begun" };
        database.put(DIARY, LAST, state, &entry).await
    }
}
