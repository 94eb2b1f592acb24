use std::sync::Arc;
use std::time::Duration;

use crate::delivery::{Restart, Strategy};
use crate::ports::ExitReporter;

/// How one child is kept running.
#[derive(Clone, Debug)]
pub(crate) struct ChildSpec {
    pub(crate) restart: Restart,
    pub(crate) intensity: u32,
    pub(crate) period: Duration,
    pub(crate) backoff_initial: Duration,
    pub(crate) backoff_cap: Duration,
    pub(crate) stop_timeout: Duration,
}

impl Default for ChildSpec {
    fn default() -> Self {
        Self {
            restart: Restart::Permanent,
            intensity: 10,
            period: Duration::from_secs(30),
            backoff_initial: Duration::from_millis(10),
            backoff_cap: Duration::from_secs(5),
            stop_timeout: Duration::from_secs(5),
        }
    }
}

/// What follows when a child failed too often.
#[derive(Clone)]
pub(crate) enum OnExceeded {
    /// The child is suspended, the others run on.
    Suspend,
    /// The supervisor stops its children and fails itself, towards its parent. Part 0 of the reporter.
    Escalate(Option<ExitReporter>),
    /// The root's choice: the bus is told to stop.
    StopBus(Arc<dyn Fn(String) + Send + Sync>),
}

/// How a supervisor keeps its children.
#[derive(Clone)]
pub(crate) struct SupervisorSpec {
    pub(crate) name: Arc<str>,
    pub(crate) strategy: Strategy,
    pub(crate) on_exceeded: OnExceeded,
}
