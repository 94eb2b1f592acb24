use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::shared::Shared;
use crate::store::DatabaseError;
use crate::supervisor::Stop;

/// How soon a lane is given up whose last row has landed.
const SOON: Duration = Duration::from_millis(50);

/// Holds lanes for as long as the relay is to run, and renews them.
pub(super) async fn live(shared: Arc<Shared>, mut stop: Stop) -> Result<(), DatabaseError> {
    let mut session = shared.tree.open().await?;
    shared.tree.works("lease");
    let mut started = shared.started.subscribe();
    tokio::select! {
        // An error means that the bus is gone.
        _ = started.wait_for(|started| *started) => {}
        () = stop.asked() => return Ok(()),
    }
    let lease = shared.settings.relay.lease;
    loop {
        let begun = Instant::now();
        let give_up = shared.lanes.lock().give_up();
        let renewed = session.renew(&shared.tree.holder, lease, &give_up).await;
        match renewed {
            Ok(held) => {
                // What the database counts from is later than `begun`: a lane is left here before it is free there.
                // A quarter is kept back for what is on its way when the time has come.
                let valid_until = begun + lease * 3 / 4;
                let lanes = {
                    let mut lanes = shared.lanes.lock();
                    lanes.renewed(&held, valid_until);
                    lanes.len()
                };
                let counts = &shared.tree.link.counts;
                counts.lanes.store(lanes as u64, Ordering::Relaxed);
                counts
                    .relays
                    .store(u64::from(held.relays), Ordering::Relaxed);
                shared.tree.works("lease");
                shared.lanes_changed.notify_one();
            }
            Err(error) if error.keeps_connection() => shared.tree.failed("lease", &error),
            Err(error) => return Err(error),
        }
        let pause = if shared.lanes.lock().some_leave() {
            SOON
        } else {
            lease / 4
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.asked() => break,
        }
    }
    // What is on its way may be published under its lane's fence, so no successor begins there before the lease ends.
    let keep = shared.flights.lanes();
    session.leave(&shared.tree.holder, &keep).await
}
