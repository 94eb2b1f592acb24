use std::time::{Duration, Instant};

use super::memory::Landing;
use super::shared::Shared;
use crate::broker::Gate;
use crate::ports::{Refusal, crash_point};
use crate::store::{StoredRow, parcel_of};

/// How long a full local queue is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// One row's way through the broker.
pub(super) async fn fly(shared: &Shared, row: StoredRow, fence: i64) -> Landing {
    let now_ms = shared.tree.services.clock.wall_ms();
    let parcel = match parcel_of(&row, now_ms) {
        Ok(parcel) => parcel,
        Err(error) => {
            return Landing::Failed {
                why: error.to_string(),
                is_final: true,
            };
        }
    };
    let broker = &shared.broker;
    let envelope = parcel.envelope();
    let route = broker.table.route(envelope.kind(), envelope.address());
    let patience = if route.must_wait {
        shared.settings.relay.publish_timeout
    } else {
        PATIENCE.min(shared.settings.relay.publish_timeout)
    };
    drop(route);
    // The last moment: a process that was stopped for longer than its lease publishes nothing of its successor's.
    if shared.lanes.lock().fence(row.lane, Instant::now()) != Some(fence) {
        return Landing::NotSent;
    }
    crash_point("before-publish");
    let accepted = broker
        .accept_waiting(parcel, None, patience, Gate::Draining)
        .await;
    crash_point("after-publish");
    match accepted {
        Ok(_) => Landing::Published,
        Err((refusal, _)) => refused(&refusal),
    }
}

/// Whether a row is to blame, or where it goes.
fn refused(refusal: &Refusal) -> Landing {
    let why = refusal.to_string();
    match refusal {
        Refusal::Closed => Landing::NotSent,
        refusal if refusal.is_of_its_target() => Landing::HeldBack { why },
        _ => Landing::Failed {
            why,
            is_final: false,
        },
    }
}
