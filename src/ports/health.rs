use std::time::Duration;

use serde::Serialize;

/// What is wrong with a part of a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Problem {
    /// A supervisor gave up restarting the subscriber; it keeps its messages until
    /// [`resume`](crate::Subscription::resume). Unready.
    Suspended,
    /// The root of the supervision tree gave up, see [`Bus::failure`](crate::Bus::failure). Unready, and not
    /// live: no restart inside of the process is going to help.
    Failed,
    /// A handler blocks its thread, and with it every other subscriber there. Unready until it lets go.
    Stuck,
    /// The control thread does not answer: no restart, no timer, no shutdown happens. Unready, and not live.
    ControlStuck,
    /// Dead letters cannot be stored; their messages stay and are tried again. Unready.
    DeadLettersNotStored,
    /// The subscription's queue on RabbitMQ is not declared yet, or out of reach: what is published before its first
    /// declaration does not come to it. Unready.
    NotConnected,
    /// The bus is shutting down: it accepts what handlers release, and nothing else. Unready.
    Draining,
    /// The bus is shut down. Unready.
    Closed,
    /// A connection to RabbitMQ is down; the detail says why. Unready.
    Disconnected,
    /// RabbitMQ lets nothing be published: it is short of memory or disk. Unready.
    Blocked,
    /// What the bridge needs on RabbitMQ is not there, is there otherwise, or may not be used. Tried again; it
    /// stays until somebody changes one or the other. Unready.
    Topology,
    /// RabbitMQ does not have the consumer of a subscription, whose messages stay there; the detail says why, where the
    /// last one failed. Unready.
    NoConsumer,
    /// The database of the store does not do what it is asked for; the detail says why. What is in it stays, and it
    /// is tried again. Unready.
    Database,
    /// The relay of the outbox was not started, so that nothing of it is published: see
    /// [`Outbox::start_relay`](crate::Outbox::start_relay). Unready.
    RelayNotStarted,
    /// Waiting retries hold half of the mailbox, so nothing new is handed out. Reported.
    Stalled,
    /// No worker runs: it is being started or restarted. Messages wait. Reported.
    NoWorker,
    /// All workers have ended, and their restart types start none again; messages wait for
    /// [`resume`](crate::Subscription::resume). Reported, also where a temporary one failed: its restart type
    /// says that it may. [`Lifecycle`](crate::Lifecycle) tells why it ended.
    Ended,
    /// The user paused the subscription. Reported.
    Paused,
    /// The breaker is open: hand-over waits for a probe. Reported.
    BreakerOpen,
}

impl Problem {
    /// Whether a bus with it should get no new work.
    #[must_use]
    pub fn makes_unready(self) -> bool {
        !matches!(
            self,
            Self::Stalled | Self::NoWorker | Self::Ended | Self::Paused | Self::BreakerOpen
        )
    }

    /// Whether only a new process helps.
    #[must_use]
    pub fn makes_dead(self) -> bool {
        matches!(self, Self::Failed | Self::ControlStuck)
    }
}

/// One thing that is wrong, and with what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Condition {
    /// The subscription, or the service for what concerns all of the bus.
    pub subject: String,
    /// What is wrong.
    pub problem: Problem,
    /// More of it, where there is more to say.
    pub detail: Option<String>,
    /// For how long it has been so, where that is known.
    pub lasts: Option<Duration>,
}

impl Condition {
    pub(crate) fn new(subject: &str, problem: Problem) -> Self {
        Self {
            subject: subject.to_owned(),
            problem,
            detail: None,
            lasts: None,
        }
    }
}

/// A part of a bus that has a say in its health. Asked at every probe: it answers from what it knows, never
/// waits, and allocates nothing while all is well.
pub(crate) trait HealthSource: Send + Sync {
    fn examine(&self, found: &mut Vec<Condition>);
}
