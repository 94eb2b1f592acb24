use std::sync::Arc;

use super::shared::Shared;
use crate::store::{DatabaseError, Told};
use crate::supervisor::Stop;

/// Has the queues looked at for what other processes write, where the database tells of that.
pub(super) async fn live(shared: Arc<Shared>, mut stop: Stop) -> Result<(), DatabaseError> {
    let Some(listening) = shared.tree.link.store.listen(Told::Queues) else {
        stop.asked().await;
        return Ok(());
    };
    let mut listener = listening.await?;
    shared.tree.works("listener");
    loop {
        // Also what was written before it was listened.
        for queue in shared.attached() {
            queue.may_have_come();
        }
        shared.look.notify_one();
        tokio::select! {
            heard = listener.heard() => heard?,
            () = stop.asked() => return Ok(()),
        }
    }
}
