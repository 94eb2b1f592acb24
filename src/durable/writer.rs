use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::shared::Shared;
use super::writes::Batch;
use crate::ports::crash_point;
use crate::store::{DatabaseError, DatabaseProblem, QueueWrite, Ring, StoreSession};
use crate::supervisor::Stop;

/// The wait of a database that is locked, before it is asked again.
const AGAIN: Duration = Duration::from_millis(100);
/// How often it is looked whether rows are to be counted.
const COUNT_LOOK: Duration = Duration::from_secs(1);

/// Writes what publishers and workers have, until it is told to stop and nothing is left, or the database fails. What it
/// has taken then goes back, and the next life writes it: to write it twice does no harm.
pub(super) async fn live(shared: Arc<Shared>, mut stop: Stop) -> Result<(), DatabaseError> {
    let mut session = shared.tree.open().await?;
    shared.tree.works("writer");
    // What waited for a connection comes before the counts, of which one may end it.
    write(&shared, &mut *session, false).await?;
    let mut is_stopping = false;
    let mut counts_at = Instant::now();
    loop {
        if !is_stopping && Instant::now() >= counts_at {
            ask_again(&shared, &mut *session).await?;
            count(&shared, &mut *session).await?;
            counts_at = Instant::now() + COUNT_LOOK;
        }
        let due = shared.writes.due();
        if due.is_some_and(|due| is_stopping || due <= Instant::now()) {
            write(&shared, &mut *session, is_stopping).await?;
            continue;
        }
        if is_stopping {
            return Ok(());
        }
        tokio::select! {
            () = shared.writes.changed.notified() => {}
            () = until(due) => {}
            () = tokio::time::sleep_until(counts_at.into()) => {}
            () = stop.asked() => is_stopping = true,
        }
    }
}

/// Asks a database that could not write whether it is well, when nothing is left to be written: who waited for that may have
/// gone, and a process that is unready gets nothing more to write. Whether it can be written to is found by the leases.
async fn ask_again(shared: &Shared, session: &mut dyn StoreSession) -> Result<(), DatabaseError> {
    if !shared.tree.is_in_trouble("writer") || !shared.writes.is_empty() {
        return Ok(());
    }
    match session.count_queued("", 1).await {
        Ok(_) => shared.tree.works("writer"),
        Err(error) if error.keeps_connection() => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Counts the rows of the queues of which that was long ago, or that seem to be full. Here, between two transactions, so
/// that none of this process's is counted twice.
async fn count(shared: &Shared, session: &mut dyn StoreSession) -> Result<(), DatabaseError> {
    let most = shared.settings.rows;
    for queue in shared.attached() {
        if !queue.begins_count(most, Instant::now()) {
            continue;
        }
        // One more, so that a full queue is known to be one.
        match session
            .count_queued(&queue.name, most.saturating_add(1))
            .await
        {
            Ok(rows) => queue.counted(rows),
            Err(error) if error.keeps_connection() => {
                queue.not_counted();
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn write(
    shared: &Shared,
    session: &mut dyn StoreSession,
    all: bool,
) -> Result<(), DatabaseError> {
    let batch = shared.writes.batch(all);
    if batch.is_empty() {
        return Ok(());
    }
    pass_points("before", &batch.write);
    match session
        .write_queues(&shared.tree.holder, &batch.write)
        .await
    {
        Ok(written) => {
            pass_points("after", &batch.write);
            note_lost(shared, batch.count_late(&written));
            if !batch.write.delayed.is_empty() {
                let link = &shared.tree.link;
                let rows = batch.write.delayed.len() as u64;
                link.counts.written.fetch_add(rows, Ordering::Relaxed);
                // It has to know when the next one is due.
                link.bell.ring(Ring::Committed);
            }
            batch.finish(&written);
            shared.tree.works("writer");
            Ok(())
        }
        Err(error) => failed(shared, batch, error).await,
    }
}

async fn failed(
    shared: &Shared,
    mut batch: Batch<'_>,
    error: DatabaseError,
) -> Result<(), DatabaseError> {
    shared.tree.failed("writer", &error);
    if error.keeps_connection() {
        batch.rolled_back();
        drop(batch);
        tokio::time::sleep(AGAIN).await;
        return Ok(());
    }
    // Only what is wrong with a value is refused for good; anything else passes.
    if error.problem() == DatabaseProblem::Other {
        batch.refused(&error.to_string());
        tokio::time::sleep(AGAIN).await;
    }
    Err(error)
}

fn note_lost(shared: &Shared, lost: u64) {
    if lost > 0 {
        tracing::warn!(
            store = %shared.tree.name,
            messages = lost,
            "settled too late: their queue was taken over, and they come again there"
        );
    }
}

fn pass_points(when: &str, write: &QueueWrite) {
    let points = [
        (!write.new.is_empty(), ["before-store", "after-store"]),
        (!write.delayed.is_empty(), ["before-delay", "after-delay"]),
        (!write.done.is_empty(), ["before-settle", "after-settle"]),
        (!write.retried.is_empty(), ["before-retry", "after-retry"]),
        (
            !write.buried.is_empty() || !write.letters.is_empty(),
            ["before-dead-letter", "after-dead-letter"],
        ),
    ];
    for (_, [before, after]) in points.iter().filter(|(is_there, _)| *is_there) {
        crash_point(if when == "before" { before } else { after });
    }
}
