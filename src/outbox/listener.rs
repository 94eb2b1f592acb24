use std::sync::Arc;

use super::shared::Shared;
use crate::store::{DatabaseError, Ring, Told};
use crate::supervisor::Stop;

/// Wakes the relay for what other processes write, where the database tells of that.
pub(super) async fn live(shared: Arc<Shared>, mut stop: Stop) -> Result<(), DatabaseError> {
    let Some(listening) = shared.tree.link.store.listen(Told::Outbox) else {
        stop.asked().await;
        return Ok(());
    };
    let mut listener = listening.await?;
    shared.tree.works("listener");
    loop {
        // Also what was written before it was listened.
        shared.tree.link.bell.ring(Ring::Committed);
        tokio::select! {
            heard = listener.heard() => heard?,
            () = stop.asked() => return Ok(()),
        }
    }
}
