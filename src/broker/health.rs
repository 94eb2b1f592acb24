use super::Broker;
use crate::ports::{Condition, HealthSource};

impl HealthSource for Broker {
    fn examine(&self, found: &mut Vec<Condition>) {
        for queue in self.table.queues() {
            queue.examine(found);
        }
    }
}
