use serde::{Deserialize, Serialize};

use super::DeadLettered;
use crate::message::Event;

/// What happened to a subscription or a supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LifecycleKind {
    /// It was subscribed: its workers are being started, and its handlers made.
    Started,
    /// A worker failed, or was stopped because a sibling failed, and is started again with a fresh handler.
    Restarted,
    /// The supervisor gave up restarting it; it keeps its messages until `resume()`.
    Suspended,
    /// It takes messages again.
    Resumed,
    /// It was stopped on request.
    Stopped,
    /// All of its workers have ended, and its restart type does not start them again; see
    /// [`SubscriptionState::Ended`](crate::SubscriptionState::Ended).
    Ended,
    /// A supervisor handed a failure on to its parent.
    Escalated,
    /// A handler blocks its thread, see [`Builder::stuck_after`](crate::Builder::stuck_after). A subscriber of
    /// this event on the same thread sees it only when that has ended.
    Stuck,
    /// The handler that was [`Stuck`](Self::Stuck) has let go of its thread.
    Recovered,
    /// The user paused it.
    Paused,
    /// Too many deliveries failed; only probes are handed out.
    BreakerOpened,
    /// A probe succeeded.
    BreakerClosed,
    /// A connection to RabbitMQ was made, and `why` names the broker; or the database of the store does again what it
    /// is asked for.
    Connected,
    /// A connection to RabbitMQ was lost, or the database of the store does not do what it is asked for.
    Disconnected,
    /// A row of the outbox was given up; `why` says which, and what was wrong with it. See
    /// [`Outbox::dead`](crate::Outbox::dead).
    RowGivenUp,
    /// RabbitMQ lets nothing be published: it is short of memory or disk.
    Blocked,
    /// RabbitMQ lets messages be published again.
    Unblocked,
}

/// The event that tells of a [`LifecycleKind`], on the topic `postroom.lifecycle`.
///
/// Published without waiting: a subscriber that is full misses it, which
/// [`Snapshot::missed_events`](crate::Snapshot::missed_events) counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Lifecycle {
    /// The subscription or the supervisor.
    pub subject: String,
    /// What happened to it.
    pub kind: LifecycleKind,
    /// The reason, where there is one.
    pub why: Option<String>,
}

impl Event for Lifecycle {
    const TOPIC: &'static str = "postroom.lifecycle";
}

/// Where lifecycle events go. Never waits.
pub(crate) trait LifecycleSink: Send + Sync {
    fn event(&self, event: Lifecycle);
    /// Announces a dead letter, unless it is itself an announcement of ours.
    fn dead_letter(&self, announcement: &DeadLettered);
}
