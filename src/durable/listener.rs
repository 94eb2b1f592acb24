use std::sync::Arc;

use super::shared::Shared;
use crate::store::{DatabaseError, Told};
use crate::supervisor::Stop;

/// Has the queues looked at for what other processes write, where the database tells of that.
pub(super) async fn live(shared: Arc<Shared>, stop: Stop) -> Result<(), DatabaseError> {
    let look = || {
        for queue in shared.attached() {
            queue.may_have_come();
        }
        shared.look.notify_one();
    };
    shared.tree.listen(Told::Queues, stop, look).await
}
