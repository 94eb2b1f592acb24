use super::Bus;
use crate::message::MessageId;
use crate::ports::{ScheduledMessage, StoreError};

/// The messages that wait for their time: to look at and to take back. Had from
/// [`Bus::schedules`](crate::Bus::schedules).
///
/// With a store these are the delayed messages of all processes that share it, those written in transactions among them;
/// the database may be down, so all of it may fail. Without one they are this bus's own, in memory, and nothing fails.
///
/// ```
/// # async fn look(bus: &postroom::Bus) -> Result<(), postroom::StoreError> {
/// let schedules = bus.schedules();
/// for waiting in schedules.list(Some("ordering.remind"), 100).await? {
///     println!("{} at {:?}", waiting.envelope().id(), waiting.due);
///     schedules.cancel(waiting.envelope().id()).await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Schedules(pub(super) Bus);

impl Schedules {
    /// Those to one topic or queue, or all, in order of their times, at most so many.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn list(
        &self,
        address: Option<&str>,
        most: usize,
    ) -> Result<Vec<ScheduledMessage>, StoreError> {
        let mut found = Vec::new();
        for store in self.0.0.broker.schedule_stores() {
            found.extend(store.list(address, most).await?);
        }
        found.sort_by_key(|scheduled| scheduled.due);
        found.truncate(most);
        Ok(found)
    }

    /// How many wait.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn len(&self) -> Result<usize, StoreError> {
        let mut count = 0;
        for store in self.0.0.broker.schedule_stores() {
            count += store.count().await?;
        }
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// Whether none waits.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.len().await? == 0)
    }

    /// Takes a message back by its id. True: it will never be published. False: none of this id waits; it was published,
    /// or is being published now.
    ///
    /// # Errors
    /// When the store cannot be asked.
    ///
    /// # Cancel safety
    /// Dropped before its end, the message may have been taken back or not; it can be asked again.
    pub async fn cancel(&self, id: MessageId) -> Result<bool, StoreError> {
        for store in self.0.0.broker.schedule_stores() {
            if store.cancel(id).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
