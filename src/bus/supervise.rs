use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};

use super::{Bus, SubscribeError};
use crate::delivery::{Restart, Strategy};
use crate::message::validate_queue;
use crate::ports::ChildId;
use crate::supervisor::{
    AddChild, ChildSpec, NestedChild, OnExceeded, RemoveChild, ResumeChild, SupervisorActor,
    SupervisorSpec,
};

/// A running supervisor: give it to [`SubscriberBuilder::under`](super::SubscriberBuilder::under).
///
/// The handle can be dropped: the supervisor runs on.
///
/// ```
/// # use std::time::Duration;
/// # use postroom::{Bus, Strategy};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let bus = Bus::builder("shop").start().await?;
/// // The feed and what is computed from it: when one of them fails, both start anew.
/// let prices = bus.supervisor("prices").strategy(Strategy::OneForAll).start().await?;
/// // bus.subscriber("feed", …).under(&prices) …
/// // A part that fails as a whole when one of its children fails too often.
/// let quotes = bus.supervisor("quotes").under(&prices).escalate().start().await?;
/// # let _ = quotes; bus.shutdown(Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Supervisor {
    name: Arc<str>,
    actor: Arc<Addr<SupervisorActor>>,
    parent: Arc<Addr<SupervisorActor>>,
    child: ChildId,
}

/// A supervisor about to be started. Made by [`Bus::supervisor`].
#[must_use = "nothing is supervised until it is started"]
pub struct SupervisorBuilder {
    bus: Bus,
    name: String,
    strategy: Strategy,
    escalates: bool,
    child: ChildSpec,
    parent: Option<Supervisor>,
}

impl Bus {
    /// A supervisor of its own for subscribers that belong together.
    pub fn supervisor(&self, name: impl Into<String>) -> SupervisorBuilder {
        SupervisorBuilder {
            bus: self.clone(),
            name: name.into(),
            strategy: Strategy::OneForOne,
            escalates: false,
            child: ChildSpec {
                restart: Restart::Permanent,
                // Its children have timeouts of their own.
                stop_timeout: Duration::MAX,
                ..ChildSpec::default()
            },
            parent: None,
        }
    }
}

impl SupervisorBuilder {
    /// Which children restart when one fails. Default: that one.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// How often this supervisor itself may fail by escalation before its parent gives up. Default: 10 in 30 s.
    pub fn intensity(mut self, restarts: u32, period: Duration) -> Self {
        self.child.intensity = restarts;
        self.child.period = period;
        self
    }

    /// A child that fails too often makes this supervisor stop all of its children and fail itself, instead
    /// of suspending that child.
    pub fn escalate(mut self) -> Self {
        self.escalates = true;
        self
    }

    /// The parent. Default: the bus's root.
    pub fn under(mut self, parent: &Supervisor) -> Self {
        self.parent = Some(parent.clone());
        self
    }

    /// Starts it, behind the children that its parent has already.
    ///
    /// # Cancel safety
    /// Once polled, it may run although nobody has a handle of it. It has no children then, and ends with its
    /// parent.
    ///
    /// # Errors
    /// When its name is not valid, or the bus or the parent is stopped.
    pub async fn start(self) -> Result<Supervisor, SubscribeError> {
        validate_queue(&self.name)?;
        let services = &self.bus.0.broker.services;
        let name: Arc<str> = self.name.into();
        let spec = SupervisorSpec {
            name: Arc::clone(&name),
            strategy: self.strategy,
            on_exceeded: if self.escalates {
                OnExceeded::Escalate(None)
            } else {
                OnExceeded::Suspend
            },
        };
        let actor = SupervisorActor::new(
            spec,
            Arc::clone(&services.timers),
            Arc::clone(&services.lifecycle),
        );
        let actor = SupervisorActor::start_in_arbiter(&services.control, move |_| actor);
        let parent = self
            .parent
            .as_ref()
            .map_or_else(|| Arc::clone(&self.bus.0.root), Supervisor::address);
        let child = Box::new(NestedChild {
            name: Arc::clone(&name),
            supervisor: actor.clone(),
            lifecycle: Arc::clone(&services.lifecycle),
        });
        match parent
            .send(AddChild {
                child,
                spec: Arc::new(self.child),
            })
            .await
        {
            Ok(Some(child)) => Ok(Supervisor {
                name,
                actor: Arc::new(actor),
                parent,
                child,
            }),
            Ok(None) | Err(_) => Err(SubscribeError::Closed),
        }
    }
}

impl Supervisor {
    /// The supervisor's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn address(&self) -> Arc<Addr<SupervisorActor>> {
        Arc::clone(&self.actor)
    }

    /// Starts it again after it escalated too often and its parent gave it up: its subscriptions, which were
    /// suspended with it, take messages again, and all failures are forgotten. Of one that runs it is a no-op.
    /// (A single one of them is started again by its own [`resume`](super::Subscription::resume).)
    ///
    /// # Cancel safety
    /// Once polled, the resumption goes on behind it.
    pub async fn resume(&self) {
        // A parent that is gone has stopped this supervisor.
        let _ = self.parent.send(ResumeChild(self.child)).await;
    }

    /// Stops its children for good, in reverse order of starting, one after another: each within its
    /// `stop_timeout`, all of them within `deadline`, at which those that are left stop together and what they
    /// have in hand is cut off. Supervisors among them stop theirs in the same way. The queues keep their
    /// messages, and go on accepting up to their bounds: [`Ended`](crate::SubscriptionState::Ended). Nothing can
    /// be added under it afterwards.
    ///
    /// Answers, within 200 ms after `deadline`, with the names of those that were cut off in the middle of a
    /// message or of making their handler, or whose thread is blocked. What was idle is not among them.
    ///
    /// # Cancel safety
    /// Once polled, the stop goes on behind it.
    pub async fn stop(&self, deadline: Duration) -> Vec<String> {
        let remove = RemoveChild {
            id: self.child,
            timeout: deadline,
        };
        // A parent that is gone has stopped this supervisor.
        self.parent.send(remove).await.unwrap_or_default()
    }
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Supervisor").field(&self.name).finish()
    }
}

impl std::fmt::Debug for SupervisorBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SupervisorBuilder")
            .field("name", &self.name)
            .field("strategy", &self.strategy)
            .finish_non_exhaustive()
    }
}
