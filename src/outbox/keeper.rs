use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::config::Relay;
use super::shared::Shared;
use crate::ports::crash_point;
use crate::store::{DatabaseError, StoreSession};
use crate::supervisor::Stop;

/// How often it looks: the shorter rows are kept, the more often, within these bounds.
const PERIOD: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Between two batches, so that others come to write.
const BREATH: Duration = Duration::from_millis(20);
/// How far rows are counted.
const COUNTED: u32 = 10_000;

/// Deletes what is old, in bounded batches, and counts what waits.
pub(super) async fn live(shared: Arc<Shared>, mut stop: Stop) -> Result<(), DatabaseError> {
    let mut session = shared.tree.open().await?;
    shared.tree.works("keeper");
    let period = period(&shared.settings.relay);
    loop {
        let pause = match round(&shared, &mut *session).await {
            Ok(true) => BREATH,
            Ok(false) => {
                shared.tree.works("keeper");
                period
            }
            Err(error) if error.keeps_connection() => {
                shared.tree.failed("keeper", &error);
                period
            }
            Err(error) => return Err(error),
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.asked() => return Ok(()),
        }
    }
}

fn period(relay: &Relay) -> Duration {
    let kept = match relay.keep_published {
        // They are deleted as they are published.
        Duration::ZERO => relay.keep_handled,
        kept => kept.min(relay.keep_handled),
    };
    (kept / 4).clamp(PERIOD.0, PERIOD.1)
}

/// Whether there is more to delete.
async fn round(shared: &Shared, session: &mut dyn StoreSession) -> Result<bool, DatabaseError> {
    let relay = &shared.settings.relay;
    let batch = relay.clean_batch;
    crash_point("before-clean-up");
    let outbox = session.clean_outbox(relay.keep_published, batch).await?;
    let inbox = session.clean_inbox(relay.keep_handled, batch).await?;
    if outbox + inbox > 0 {
        crash_point("after-clean-up");
    }
    let counts = &shared.tree.link.counts;
    counts.cleaned.fetch_add(outbox + inbox, Ordering::Relaxed);
    if outbox >= u64::from(batch) || inbox >= u64::from(batch) {
        return Ok(true);
    }
    let (waiting, dead) = session.backlog(COUNTED).await?;
    counts.waiting.store(waiting, Ordering::Relaxed);
    counts.dead.store(dead, Ordering::Relaxed);
    Ok(false)
}
