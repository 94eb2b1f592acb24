use std::sync::{Arc, OnceLock, Weak};

use crate::broker::{Broker, Gate};
use crate::ports::{DeadLettered, Lifecycle, LifecycleSink};

/// Publishes what happens in the bus as events.
#[derive(Default)]
pub(super) struct SystemEvents(OnceLock<Weak<Broker>>);

impl SystemEvents {
    pub(super) fn set(&self, broker: &Arc<Broker>) -> bool {
        self.0.set(Arc::downgrade(broker)).is_ok()
    }

    fn broker(&self) -> Option<Arc<Broker>> {
        self.0.get().and_then(Weak::upgrade)
    }
}

impl LifecycleSink for SystemEvents {
    fn event(&self, event: Lifecycle) {
        tracing::info!(subject = %event.subject, kind = ?event.kind, why = event.why.as_deref(), "lifecycle");
        // At the end of the bus nobody is left to read it, and it would be counted as abandoned.
        if let Some(broker) = self.broker()
            && broker.admits(Gate::Draining)
        {
            broker.emit(&event);
        }
    }

    fn dead_letter(&self, announcement: &DeadLettered) {
        tracing::warn!(
            queue = %announcement.queue,
            messaging.message.id = %announcement.message,
            reason = %announcement.reason,
            attempts = announcement.attempts,
            "a message became a dead letter"
        );
        // An announcement never begets another.
        if announcement.address.starts_with("postroom.") {
            return;
        }
        if let Some(broker) = self.broker() {
            broker.emit(announcement);
        }
    }
}
