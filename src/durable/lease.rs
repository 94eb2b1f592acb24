use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::shared::Shared;
use crate::store::{DatabaseError, StoreSession};
use crate::supervisor::Stop;

/// How often a process looks whether a queue that another one has is free.
const STANDBY: Duration = Duration::from_secs(1);
/// How often dead letters beyond their bound are looked for, and the most that are deleted at once.
const TRIM: Duration = Duration::from_secs(5);
const TRIMMED: u32 = 500;
/// Between two batches, so that others come to write.
const BREATH: Duration = Duration::from_millis(20);

/// Holds the queues of this process for as long as they are attached, and renews them.
pub(super) async fn live(shared: Arc<Shared>, mut stop: Stop) -> Result<(), DatabaseError> {
    let mut session = shared.tree.open().await?;
    shared.tree.works("lease");
    let mut renews_at = Instant::now();
    let mut trims_at = renews_at + TRIM;
    loop {
        if Instant::now() >= renews_at {
            let pause = match renew(&shared, &mut *session).await {
                Ok(pause) => {
                    shared.tree.works("lease");
                    pause
                }
                Err(error) if error.keeps_connection() => {
                    shared.tree.failed("lease", &error);
                    let pause = STANDBY.min(shared.settings.lease / 4);
                    // What cannot renew cannot delete.
                    trims_at = trims_at.max(Instant::now() + pause);
                    pause
                }
                Err(error) => return Err(error),
            };
            renews_at = Instant::now() + pause;
        }
        // One batch between two looks at the lease, however many are to be deleted.
        if Instant::now() >= trims_at {
            trims_at = trim(&shared, &mut *session).await?;
        }
        tokio::select! {
            () = tokio::time::sleep_until(renews_at.min(trims_at).into()) => {}
            () = shared.lease_changed.notified() => renews_at = Instant::now(),
            () = stop.asked() => break,
        }
    }
    session.leave_queues(&shared.tree.holder).await
}

/// Answers how long until the next time.
async fn renew(shared: &Shared, session: &mut dyn StoreSession) -> Result<Duration, DatabaseError> {
    let lease = shared.settings.lease;
    let queues = shared.attached();
    let names: Vec<String> = queues.iter().map(|queue| queue.name.to_string()).collect();
    let leaving = shared.leaving();
    let begun = Instant::now();
    let held = session
        .hold_queues(&shared.tree.holder, lease, &names, &leaving)
        .await?;
    shared.left(&leaving);
    // What the database counts from is later than `begun`: a queue is left here before it is free there.
    let valid_until = begun + lease * 3 / 4;
    let held: HashMap<&str, i64> = held
        .iter()
        .map(|held| (held.queue.as_str(), held.fence))
        .collect();
    // Of a subscription that was not started after all.
    for name in held
        .keys()
        .filter(|name| !names.iter().any(|known| known == *name))
    {
        if shared.queue(name).is_none_or(|queue| !queue.is_attached()) {
            shared.leave(name);
        }
    }
    let mut all_held = true;
    for queue in &queues {
        match held.get(&*queue.name) {
            Some(fence) => {
                let is_leaving = || shared.leaving().iter().any(|name| **name == *queue.name);
                queue.renewed(*fence, valid_until, is_leaving);
            }
            None => {
                all_held = false;
                queue.lost();
            }
        }
    }
    Ok(match all_held {
        true => lease / 4,
        false => STANDBY.min(lease / 4),
    })
}

/// Deletes dead letters beyond their bound. Answers when to do so next: soon while there may be more of them.
async fn trim(shared: &Shared, session: &mut dyn StoreSession) -> Result<Instant, DatabaseError> {
    let keep = shared.settings.dead_letters;
    match session.trim_letters(keep, TRIMMED).await {
        Ok(trimmed) => {
            shared.letters.count_evicted(trimmed);
            if trimmed >= u64::from(TRIMMED) {
                return Ok(Instant::now() + BREATH);
            }
        }
        Err(error) if error.keeps_connection() => {}
        Err(error) => return Err(error),
    }
    Ok(Instant::now() + TRIM)
}
