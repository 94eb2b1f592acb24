use std::sync::Weak;
use std::time::{Duration, SystemTime};

use super::shared::Shared;
use crate::message::MessageId;
use crate::ports::{BoxFuture, ScheduleStore, ScheduledMessage, StoreError};
use crate::store::{DatabaseError, DelayedRow, StoreSession, parcel_of, unreadable};

/// The delayed messages that wait in the outbox, whoever wrote them.
pub(super) struct StoreSchedules(pub(super) Weak<Shared>);

impl StoreSchedules {
    fn asked<T: Send + 'static>(
        &self,
        work: impl AsyncFnOnce(&mut dyn StoreSession) -> Result<T, DatabaseError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let shared = self.0.upgrade();
        Box::pin(async move {
            let shared = shared.ok_or_else(|| StoreError("the bus is shut down".to_owned()))?;
            Ok(shared.tree.with_session(work).await?)
        })
    }
}

/// `now_ms` is the time by the clock that its times are told by.
fn scheduled(row: &DelayedRow, now_ms: u64) -> ScheduledMessage {
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms);
    let left = Duration::from_millis(row.due_in_ms.unsigned_abs());
    let due = match row.due_in_ms < 0 {
        true => now.checked_sub(left),
        false => now.checked_add(left),
    };
    ScheduledMessage {
        due: due.unwrap_or(now),
        parcel: parcel_of(&row.row, now_ms).unwrap_or_else(|_| unreadable(&row.row)),
    }
}

impl ScheduleStore for StoreSchedules {
    fn list(
        &self,
        address: Option<&str>,
        most: usize,
    ) -> BoxFuture<'static, Result<Vec<ScheduledMessage>, StoreError>> {
        let now_ms = self
            .0
            .upgrade()
            .map(|shared| shared.tree.services.clock.wall_ms());
        let address = address.map(str::to_owned);
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let rows = self.asked(async move |session| session.delayed(address.as_deref(), most).await);
        Box::pin(async move {
            let rows = rows.await?;
            let now_ms = now_ms.unwrap_or_default();
            Ok(rows.iter().map(|row| scheduled(row, now_ms)).collect())
        })
    }

    fn count(&self) -> BoxFuture<'static, Result<u64, StoreError>> {
        self.asked(async |session| session.count_delayed().await)
    }

    fn cancel(&self, id: MessageId) -> BoxFuture<'static, Result<bool, StoreError>> {
        let id = id.to_string();
        self.asked(async move |session| session.cancel(&id).await)
    }
}
