use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::queue::StoreQueue;
use super::shared::Shared;
use crate::mailbox::{History, Slot};
use crate::message::{Held, MessageId, SharedParcel};
use crate::ports::crash_point;
use crate::queue::QueueCore;
use crate::store::{DatabaseError, Failures, QueuedRow, StoreSession, parcel_of, unreadable};
use crate::supervisor::Stop;

/// The wait of a database that is locked, before it is asked again.
const AGAIN: Duration = Duration::from_millis(100);

/// Reads what is to be handed out, for all queues of this process, until it is told to stop or the database fails.
pub(super) async fn live(shared: Arc<Shared>, mut stop: Stop) -> Result<(), DatabaseError> {
    let mut session = shared.tree.open().await?;
    shared.tree.works("consumer");
    let slow = shared.settings.slow_poll;
    let mut polls_at = Instant::now();
    loop {
        let now = Instant::now();
        if now >= polls_at {
            polls_at = now + slow;
            let has_changed = session.has_changed().await;
            if has_changed.or_else(kept)? {
                for queue in shared.attached() {
                    queue.may_have_come();
                }
            }
        }
        let mut has_read = false;
        let mut has_asked = false;
        let mut next = polls_at;
        for queue in shared.attached() {
            let was_read = read(&mut *session, &queue).await;
            has_asked |= !matches!(was_read, Ok(None));
            match was_read {
                Ok(Some(has)) => {
                    shared.tree.works("consumer");
                    has_read |= has;
                }
                Ok(None) => {}
                Err(error) if error.keeps_connection() => {
                    queue.not_read();
                    shared.tree.failed("consumer", &error);
                    next = next.min(Instant::now() + AGAIN);
                }
                Err(error) => {
                    queue.not_read();
                    return Err(error);
                }
            }
            next = next.min(queue.next_look().unwrap_or(next));
        }
        if !has_asked && !ask_again(&shared, &mut *session).await? {
            next = next.min(Instant::now() + AGAIN);
        }
        if has_read {
            // What was committed meanwhile is looked for at once; others come to run first.
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            () = shared.look.notified() => {}
            () = tokio::time::sleep_until(next.into()) => {}
            () = stop.asked() => return Ok(()),
        }
    }
}

/// Asks a database that could not be read whether it is well, when there is nothing to be read any more: the queue may be
/// another process's by now, or full, or have no subscription. Whether nothing is wrong.
async fn ask_again(shared: &Shared, session: &mut dyn StoreSession) -> Result<bool, DatabaseError> {
    if !shared.tree.is_in_trouble("consumer") {
        return Ok(true);
    }
    match session.count_queued("", 1).await {
        Ok(_) => shared.tree.works("consumer"),
        Err(error) if error.keeps_connection() => return Ok(false),
        Err(error) => return Err(error),
    }
    Ok(true)
}

/// A database that could not tell may have changed.
fn kept(error: DatabaseError) -> Result<bool, DatabaseError> {
    match error.keeps_connection() {
        true => Ok(true),
        false => Err(error),
    }
}

/// Whether something was read and handed out; none: nothing was asked.
async fn read(
    session: &mut dyn StoreSession,
    queue: &Arc<StoreQueue>,
) -> Result<Option<bool>, DatabaseError> {
    let Some(core) = queue.core() else {
        return Ok(None);
    };
    let Some((wanted, fence)) = queue.wants(&core, Instant::now()) else {
        return Ok(None);
    };
    let most = wanted.most as usize;
    crash_point("before-take");
    let rows = session.take_queued(&wanted).await?;
    crash_point("after-take");
    let has_waited = rows.iter().filter(|row| row.has_waited).count();
    let has_more = rows.len() - has_waited >= most || has_waited >= most || rows.len() > most;
    let mut rows = in_turn(rows);
    rows.truncate(most);
    let is_empty = rows.is_empty();
    let slots = rows
        .into_iter()
        .map(|row| slot(&core, queue, row))
        .collect();
    crash_point("before-deliver");
    let is_out = queue.hand_out(&core, fence, has_more, slots);
    crash_point("after-deliver");
    if queue.asks_due()
        && let Some(left) = session.next_queued(&queue.name, &queue.taken()).await?
    {
        queue.due_in(left);
    }
    Ok(Some(is_out && !is_empty))
}

/// Those whose wait is over go behind what was written by then (contract, rule 7).
fn in_turn(rows: Vec<QueuedRow>) -> Vec<QueuedRow> {
    let (waited, written): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.has_waited);
    let mut merged = Vec::with_capacity(waited.len() + written.len());
    let mut waited = waited.into_iter().peekable();
    for row in written {
        while let Some(earlier) = waited.next_if(|waited| waited.ready_ms < row.ready_ms) {
            merged.push(earlier);
        }
        merged.push(row);
    }
    merged.extend(waited);
    merged
}

fn slot(core: &QueueCore, queue: &StoreQueue, row: QueuedRow) -> (i64, MessageId, Slot) {
    let position = row.row.position;
    let now_ms = core.services.clock.wall_ms();
    let (mut parcel, unfit) = match parcel_of(&row.row, now_ms) {
        Ok(parcel) => (parcel, None),
        Err(error) => (unreadable(&row.row), Some(error.to_string())),
    };
    let id = parcel.envelope().id;
    set_reply(queue, id, &mut parcel);
    let slot = Slot::new(Held::Shared(parcel)).noted(|record| {
        record.attempts = row.row.attempts;
        record.history = row.failures.map(|failures| Box::new(history(failures)));
        if let Some(why) = unfit {
            record.undecodable(why, core.now());
        }
    });
    (position, id, slot)
}

fn set_reply(queue: &StoreQueue, id: MessageId, parcel: &mut SharedParcel) {
    if let Some(port) = queue.replies.of(id)
        && let Some(parcel) = Arc::get_mut(parcel)
    {
        let metadata = parcel.envelope_mut().metadata.get_or_insert_default();
        metadata.reply = Some(port);
    }
}

fn history(failures: Failures) -> History {
    let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    History {
        last_failed_at: at(failures.last_failed_ms),
        awaited_handler: failures.awaited_handler,
        ..History::new(failures.errors, at(failures.first_failed_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoredRow;

    fn row(position: i64, ready_ms: i64, has_waited: bool) -> QueuedRow {
        let stored = StoredRow::new(position, 0, String::new(), String::new(), String::new());
        let mut row = QueuedRow::new(stored, ready_ms);
        row.has_waited = has_waited;
        row
    }

    #[test]
    fn a_retry_goes_behind_what_was_queued_when_its_wait_was_over() {
        let rows = vec![
            row(2, 10, false),
            row(3, 30, false),
            row(5, 25, false),
            row(1, 20, true),
            row(4, 40, true),
        ];
        let order = in_turn(rows).into_iter().map(|row| row.row.position);
        assert_eq!(order.collect::<Vec<_>>(), [2, 1, 3, 5, 4]);
    }
}
