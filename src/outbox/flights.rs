use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Rows on their way through the broker, by lane. The memory of the relay learns of a landing only when a life of the
/// relay comes to it; this is known at once, also when there is no life any more.
#[derive(Default)]
pub(super) struct Flights {
    by_lane: Mutex<BTreeMap<u32, u32>>,
    all_landed: Notify,
}

/// One of them, until it is dropped.
pub(super) struct Flight {
    flights: Arc<Flights>,
    lane: u32,
}

impl Flights {
    pub(super) fn begin(self: &Arc<Self>, lane: u32) -> Flight {
        *self.by_lane.lock().entry(lane).or_default() += 1;
        Flight {
            flights: Arc::clone(self),
            lane,
        }
    }

    /// The lanes of which something is on its way.
    pub(super) fn lanes(&self) -> Vec<u32> {
        self.by_lane.lock().keys().copied().collect()
    }

    /// Waits until nothing is on its way. Cancel safe.
    pub(super) async fn all_landed(&self) {
        loop {
            let mut landed = std::pin::pin!(self.all_landed.notified());
            // What is told from here on is heard.
            landed.as_mut().enable();
            if self.by_lane.lock().is_empty() {
                return;
            }
            landed.await;
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut by_lane = self.flights.by_lane.lock();
        if let Some(count) = by_lane.get_mut(&self.lane) {
            *count -= 1;
            if *count == 0 {
                by_lane.remove(&self.lane);
            }
        }
        if by_lane.is_empty() {
            self.flights.all_landed.notify_waiters();
        }
    }
}
