use std::sync::Arc;

use tokio::sync::SetOnce;

use super::Bus;
use crate::broker::{Broker, Gate};
use crate::observe::Health;
use crate::ports::{Condition, HealthSource, Problem};

/// What concerns the bus as a whole.
pub(super) struct Whole {
    pub(super) service: String,
    pub(super) broker: Arc<Broker>,
    pub(super) failure: Arc<SetOnce<String>>,
}

impl HealthSource for Whole {
    fn examine(&self, found: &mut Vec<Condition>) {
        if let Some(why) = self.failure.get() {
            found.push(Condition {
                detail: Some(why.clone()),
                ..Condition::new(&self.service, Problem::Failed)
            });
        }
        match self.broker.gate() {
            Gate::Open => {}
            Gate::Draining => found.push(Condition::new(&self.service, Problem::Draining)),
            Gate::Closed => found.push(Condition::new(&self.service, Problem::Closed)),
        }
    }
}

impl Bus {
    /// How the bus is, for a readiness and a liveness probe. Takes no lock of a queue that is well and never
    /// waits for a thread: fit to be asked each second, and answers while every handler is stuck.
    #[must_use]
    pub fn health(&self) -> Health {
        Health::ask(&self.0.health)
    }
}
