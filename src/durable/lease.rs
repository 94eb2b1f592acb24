use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::shared::Shared;
use crate::store::{DatabaseError, StoreSession};
use crate::supervisor::Stop;

/// How often a process looks whether a queue that another one has is free.
const STANDBY: Duration = Duration::from_secs(1);
/// How often rows are counted.
const COUNT: Duration = Duration::from_secs(30);
/// How often dead letters beyond their bound are looked for, and the most that are deleted at once.
const TRIM: Duration = Duration::from_secs(5);
const TRIMMED: u32 = 500;

/// Holds the queues of this process for as long as they are attached, and renews them.
pub(super) async fn live(shared: Arc<Shared>, mut stop: Stop) -> Result<(), DatabaseError> {
    let mut session = shared.open().await?;
    shared.works("lease");
    let mut keeping = Keeping {
        counted_at: HashMap::new(),
        trimmed_at: Instant::now(),
    };
    loop {
        let (is_done, pause) = match renew(&shared, &mut *session).await {
            Ok(pause) => (true, pause),
            Err(error) if error.keeps_connection() => {
                shared.failed("lease", &error);
                (false, STANDBY.min(shared.settings.lease / 4))
            }
            Err(error) => return Err(error),
        };
        if is_done {
            shared.works("lease");
            keeping.look(&shared, &mut *session).await?;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.lease_changed.notified() => {}
            () = stop.asked() => break,
        }
    }
    session.leave_queues(&shared.holder).await
}

/// Answers how long until the next time.
async fn renew(shared: &Shared, session: &mut dyn StoreSession) -> Result<Duration, DatabaseError> {
    let lease = shared.settings.lease;
    let queues = shared.attached();
    let names: Vec<String> = queues.iter().map(|queue| queue.name.to_string()).collect();
    let leaving = shared.leaving();
    let begun = Instant::now();
    let held = session
        .hold_queues(&shared.holder, lease, &names, &leaving)
        .await?;
    shared.left(&leaving);
    // What the database counts from is later than `begun`: a queue is left here before it is free there.
    let valid_until = begun + lease * 3 / 4;
    let held: HashMap<&str, i64> = held
        .iter()
        .map(|held| (held.queue.as_str(), held.fence))
        .collect();
    let mut all_held = true;
    for queue in &queues {
        match held.get(&*queue.name) {
            Some(fence) => queue.renewed(*fence, valid_until),
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

/// What is looked at seldom.
struct Keeping {
    counted_at: HashMap<Arc<str>, Instant>,
    trimmed_at: Instant,
}

impl Keeping {
    async fn look(
        &mut self,
        shared: &Shared,
        session: &mut dyn StoreSession,
    ) -> Result<(), DatabaseError> {
        let now = Instant::now();
        let queues = shared.attached();
        self.counted_at
            .retain(|name, _| queues.iter().any(|queue| queue.name == *name));
        for queue in queues {
            let counted_at = self.counted_at.get(&queue.name);
            if counted_at.is_some_and(|at| now < *at + COUNT) {
                continue;
            }
            self.counted_at.insert(Arc::clone(&queue.name), now);
            // One more, so that a full queue is known to be one.
            let most = shared.settings.rows.saturating_add(1);
            match session.count_queued(&queue.name, most).await {
                Ok(rows) => queue.counted(rows),
                Err(error) if error.keeps_connection() => {}
                Err(error) => return Err(error),
            }
        }
        if now >= self.trimmed_at + TRIM {
            self.trimmed_at = now;
            let keep = shared.settings.dead_letters;
            match session.trim_letters(keep, TRIMMED).await {
                Ok(trimmed) => shared.letters.count_evicted(trimmed),
                Err(error) if error.keeps_connection() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
