use std::fmt;
use std::time::SystemTime;

use super::{BoxFuture, StoreError};
use crate::message::{CodecError, Envelope, MessageId, SharedParcel};

/// A message that waits for its time. Had from [`Schedules::list`](crate::Schedules::list).
#[derive(Clone)]
pub struct ScheduledMessage {
    /// When it will be published, by the bus's clock.
    pub due: SystemTime,
    pub(crate) parcel: SharedParcel,
}

impl ScheduledMessage {
    /// Its envelope: its id, topic, key and headers.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        self.parcel.envelope()
    }

    /// Its body as JSON.
    ///
    /// # Errors
    /// When the sender's type cannot be encoded.
    pub fn json(&self) -> Result<&[u8], CodecError> {
        self.parcel.json()
    }
}

impl fmt::Debug for ScheduledMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScheduledMessage")
            .field("due", &self.due)
            .field("envelope", self.envelope())
            .finish_non_exhaustive()
    }
}

/// Where messages wait for their time. What it is asked for may take a way outside of the process.
pub(crate) trait ScheduleStore: Send + Sync {
    /// By time, those to one address or all.
    fn list(
        &self,
        address: Option<&str>,
        most: usize,
    ) -> BoxFuture<'static, Result<Vec<ScheduledMessage>, StoreError>>;
    fn count(&self) -> BoxFuture<'static, Result<u64, StoreError>>;
    /// Whether it was there, and will never be published.
    fn cancel(&self, id: MessageId) -> BoxFuture<'static, Result<bool, StoreError>>;
}
