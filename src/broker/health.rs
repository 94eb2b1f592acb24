use super::Broker;
use crate::ports::{Condition, HealthSource};

impl HealthSource for Broker {
    fn examine(&self, found: &mut Vec<Condition>) {
        for queue in self.table.queues() {
            queue.examine(found);
        }
        if let Some(bridge) = &self.bridge {
            bridge.examine(found);
        }
        if let Some(stored) = &self.stored {
            stored.examine(found);
        }
    }
}
