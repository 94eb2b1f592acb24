use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Broker;
use crate::message::{Envelope, MessageId, SharedParcel};
use crate::ports::{Refusal, ScheduleStore, StoreError};

/// A message that waits for its time; the handle can be dropped without effect.
///
/// Had from the receipt of a publish with a [`delay`](crate::Publish::delay). It meets its queues only when it is due: a
/// queue that is full then is waited for.
///
/// **With a store** the message is a row of the [outbox](crate::Outbox), committed by the time there is a receipt. It
/// survives the process, waits by the database's clock, is published by any relay, and can be taken back by its
/// id from any process: [`Schedules::cancel`](crate::Schedules::cancel).
///
/// **Without one** it waits in memory, counts against the bus's `schedule_capacity`, and does not survive the process. A
/// command whose queue does not exist when it is due is given up with a warning in the log. A shutdown abandons what still
/// waits, with its id in the report.
#[derive(Clone)]
pub struct Schedule(Box<Scheduled>);

/// Boxed, so that a receipt stays small: most messages are not delayed.
#[derive(Clone)]
struct Scheduled {
    id: MessageId,
    due: SystemTime,
    store: Arc<dyn ScheduleStore>,
}

impl Schedule {
    pub(super) fn new(id: MessageId, due: SystemTime, store: Arc<dyn ScheduleStore>) -> Self {
        Self(Box::new(Scheduled { id, due, store }))
    }

    /// The message's id.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.0.id
    }

    /// When it will be published, by the bus's clock, to some milliseconds. With a store the database's clock decides.
    #[must_use]
    pub fn due(&self) -> SystemTime {
        self.0.due
    }

    /// Takes the message back. True: it will never be published. False: it was already, or is being published now. In
    /// memory it is done at once.
    ///
    /// # Errors
    /// When the store cannot be asked.
    ///
    /// # Cancel safety
    /// Dropped before its end, the message may have been taken back or not; it can be asked again.
    pub async fn cancel(&self) -> Result<bool, StoreError> {
        self.0.store.cancel(self.0.id).await
    }
}

impl std::fmt::Debug for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schedule")
            .field("id", &self.0.id)
            .field("due", &self.0.due)
            .finish_non_exhaustive()
    }
}

impl Broker {
    /// Whether a delayed message is written into the store. One whose reply is waited for is of no use to another
    /// process.
    pub(crate) fn stores_delayed(&self, envelope: &Envelope) -> bool {
        let metadata = envelope.metadata.as_ref();
        self.stored.is_some() && metadata.is_none_or(|metadata| metadata.reply.is_none())
    }

    /// Writes a message into the store, to be published when its time has come. Waits until that is committed, up to
    /// `patience`.
    pub(crate) async fn delay_stored(
        &self,
        parcel: &SharedParcel,
        delay: Duration,
        patience: Duration,
    ) -> Result<Schedule, Refusal> {
        let stored = self.stored.as_ref().ok_or(Refusal::Closed)?;
        let due = self.due_after(delay);
        stored.delay(parcel, delay, patience).await?;
        let id = parcel.envelope().id;
        Ok(Schedule::new(id, due, stored.schedules()))
    }

    /// Where messages wait for their time.
    pub(crate) fn schedule_stores(&self) -> Vec<Arc<dyn ScheduleStore>> {
        let mut stores = vec![self.memory_schedules()];
        stores.extend(self.stored.as_ref().map(|stored| stored.schedules()));
        stores
    }
}
