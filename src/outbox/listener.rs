use std::sync::Arc;

use super::shared::Shared;
use crate::store::{DatabaseError, Ring, Told};
use crate::supervisor::Stop;

/// Wakes the relay for what other processes write, where the database tells of that.
pub(super) async fn live(shared: Arc<Shared>, stop: Stop) -> Result<(), DatabaseError> {
    let wake = || shared.tree.link.bell.ring(Ring::Committed);
    shared.tree.listen(Told::Outbox, stop, wake).await
}
