use std::sync::Arc;

use serde::Serialize;

use crate::ports::{Condition, HealthSource};

/// How a bus is, for the probes of an orchestrator and for an alarm; serialises.
///
/// **Ready** means that it should be given work: it is unready while a subscription is suspended, a handler
/// blocks its thread, dead letters cannot be stored, the root of its supervision tree has given up, or it
/// shuts down; with a bridge, while a connection is down or blocked, or a queue or its consumer is not there; with a store,
/// while the database does not do what it is asked for, and until the relay was started. **Live** means that the process
/// can still mend itself: restart it when it is not.
///
/// A pause, an open breaker, a mailbox stalled by retries and a subscription without a worker are reported,
/// and change neither: they are wanted, or pass by themselves, and to take the whole process out of service
/// for one of them would stop all the others. [`Problem`](crate::Problem) says which is which; whoever sees it otherwise
/// decides by [`conditions`](Self::conditions).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let bus = postroom::Bus::builder("shop").start().await?;
/// let health = bus.health();
/// assert!(health.is_ready() && health.is_live());
/// for condition in health.conditions() {
///     println!("{}: {:?}", condition.subject, condition.problem);
/// }
/// # bus.shutdown(std::time::Duration::from_secs(5)).await;
/// assert!(!bus.health().is_ready(), "a bus that is shut down is not ready");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    ready: bool,
    live: bool,
    conditions: Vec<Condition>,
}

impl Health {
    pub(crate) fn ask(sources: &[Arc<dyn HealthSource>]) -> Self {
        let mut conditions = Vec::new();
        for source in sources {
            source.examine(&mut conditions);
        }
        let has = |is_one: fn(&Condition) -> bool| conditions.iter().any(is_one);
        Self {
            ready: !has(|condition| condition.problem.makes_unready()),
            live: !has(|condition| condition.problem.makes_dead()),
            conditions,
        }
    }

    /// Whether it should be given work.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Whether it can mend itself; if not, only a new process helps.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Everything that is not as it should be, those included that leave it ready.
    #[must_use]
    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }
}
