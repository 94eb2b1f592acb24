use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::{Addr, ArbiterHandle};
use tokio::sync::SetOnce;

use super::{Abandoned, Bus, threads};
use crate::delivery::NEVER;
use crate::mailbox::{Ending, halt};
use crate::observe::QueueSnapshot;
use crate::ports::{ChildId, LifecycleKind};
use crate::queue::{CloseQueue, QueueCore, SubscriptionState};
use crate::supervisor::{RemoveChild, ResumeChild, SupervisorActor};

/// A running subscriber. The handle can be dropped: the subscriber runs on.
#[derive(Clone)]
pub struct Subscription(Arc<Inner>);

struct Inner {
    bus: Bus,
    queue: Arc<QueueCore>,
    home: Home,
    /// A member leaves its group once, however often it is stopped.
    stopping: OnceLock<Box<SetOnce<StopReport>>>,
}

/// Where a subscriber runs and who keeps it.
pub(super) struct Home {
    pub(super) supervisor: Arc<Addr<SupervisorActor>>,
    pub(super) child: ChildId,
    pub(super) thread: Option<ArbiterHandle>,
}

/// What was left when a subscriber stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport {
    /// Messages that the last member of a group left unhandled in memory at the deadline: counted, and gone. What a
    /// durable queue or RabbitMQ has stays there, and is not among them.
    pub abandoned: Vec<Abandoned>,
    /// Whether the handlers ended by themselves within the deadline.
    pub in_time: bool,
}

/// A subscriber that was started for somebody who may have gone meanwhile: who has no handle of it would start it again.
pub(super) struct Unclaimed(Option<Subscription>);

/// How long the handlers of one that nobody claims have to finish what they have in hand.
const UNCLAIMED_STOPS_IN: Duration = Duration::from_secs(5);

impl Unclaimed {
    pub(super) fn new(subscription: Subscription) -> Self {
        Self(Some(subscription))
    }

    /// Always some.
    pub(super) fn claim(mut self) -> Option<Subscription> {
        self.0.take()
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(subscription) = self.0.take() {
            let control = subscription.0.bus.0.broker.services.control.clone();
            control.spawn(async move {
                let report = subscription.stop(UNCLAIMED_STOPS_IN).await;
                // Nobody else sees what was left.
                if !report.abandoned.is_empty() || !report.in_time {
                    tracing::warn!(
                        queue = subscription.name(),
                        abandoned = ?report.abandoned,
                        in_time = report.in_time,
                        "a subscriber whose start was dropped is stopped"
                    );
                }
            });
        }
    }
}

impl Subscription {
    pub(super) fn new(bus: Bus, queue: Arc<QueueCore>, home: Home) -> Self {
        Self(Arc::new(Inner {
            bus,
            queue,
            home,
            stopping: OnceLock::new(),
        }))
    }

    /// The subscriber's name, which is its group's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.queue.name
    }

    /// Whether it takes messages.
    #[must_use]
    pub fn state(&self) -> SubscriptionState {
        SubscriptionState::of(&self.0.queue)
    }

    /// The counts and depths of its queue.
    #[must_use]
    pub fn snapshot(&self) -> QueueSnapshot {
        QueueSnapshot::of(&self.0.queue)
    }

    /// Hands out nothing more, for the whole group. Messages in hand are finished; the mailbox fills up.
    pub fn pause(&self) {
        self.0.queue.mailbox.set_halt(halt::PAUSED);
        self.0
            .queue
            .services
            .tell(self.name(), LifecycleKind::Paused, None);
    }

    /// Hands out messages again: after a pause, after its supervisor suspended it, or after its workers ended.
    /// Waits until a worker that has a message in hand from before has finished it, or is cut off at its
    /// `stop_timeout`. Its failures are forgotten. Of one that runs, or whose supervisor was stopped, it only
    /// ends a pause. A group with several members that are suspended goes on when each was resumed or stopped.
    ///
    /// # Cancel safety
    /// Once polled, the resumption goes on behind it; dropped, only the lifecycle event of a pause's end may be
    /// missing.
    pub async fn resume(&self) {
        let queue = &self.0.queue;
        let was_paused = queue.mailbox.halted() & halt::PAUSED != 0;
        queue.mailbox.clear_halt(halt::PAUSED);
        // A supervisor that is gone has stopped this subscriber.
        let _ = self
            .0
            .home
            .supervisor
            .send(ResumeChild(self.0.home.child))
            .await;
        if was_paused {
            queue
                .services
                .tell(self.name(), LifecycleKind::Resumed, None);
        }
    }

    /// Throws away what is queued, for the whole group, and answers with the number: counted as `purged`. Senders
    /// that wait for a reply get [`RequestError::Discarded`](crate::RequestError::Discarded).
    ///
    /// Of a queue on RabbitMQ or in the store it is what was handed to this process: more comes after it.
    ///
    /// What is in flight or waits for a retry stays: it has been begun. So a purge with a worker under way
    /// may miss what it has taken, up to 64 messages; [`pause`](Self::pause) first to have it put them back
    /// after the message in hand.
    pub fn purge(&self) -> usize {
        let queue = &self.0.queue;
        let mut purged = queue.backing().take_held();
        purged.extend(queue.mailbox.take_queued(Ending::Purged));
        for slot in &purged {
            if slot.record().token != 0 {
                queue.backing().acked(slot.record().token);
            }
            queue.refuse_reply(slot, Ending::Purged);
        }
        tracing::info!(queue = %queue.name, messages = purged.len(), "purged");
        purged.len()
    }

    /// Takes this member out of its group. The last one unsubscribes the group first, then handles what is
    /// queued until the deadline; what is left in memory then is abandoned, counted and reported. A durable queue and one
    /// on RabbitMQ keep what was not handled.
    ///
    /// Stopped again, it waits for the first stop and answers with the same report; at its own deadline, if that is
    /// sooner, it cuts the handlers off, and leaves it to the first one to report what was abandoned.
    ///
    /// # Cancel safety
    /// Dropped, the stop goes on behind it.
    pub async fn stop(&self, deadline: Duration) -> StopReport {
        let this = self.clone();
        let report = self
            .0
            .bus
            .on_control(async move { this.stop_once(deadline).await })
            .await;
        report.unwrap_or_default()
    }

    async fn stop_once(&self, deadline: Duration) -> StopReport {
        let Inner { home, stopping, .. } = &*self.0;
        let mut is_first = false;
        let stopped = stopping.get_or_init(|| {
            is_first = true;
            Box::default()
        });
        if is_first {
            let report = self.stop_on_control(deadline).await;
            // Nobody else sets it.
            let _ = stopped.set(report.clone());
            return report;
        }
        if let Ok(report) = tokio::time::timeout(deadline.min(NEVER), stopped.wait()).await {
            return report.clone();
        }
        let remove = RemoveChild {
            id: home.child,
            timeout: Duration::ZERO,
        };
        let late = home.supervisor.send(remove).await;
        StopReport {
            abandoned: Vec::new(),
            in_time: late.is_ok_and(|late| late.is_empty()),
        }
    }

    async fn stop_on_control(&self, deadline: Duration) -> StopReport {
        let Inner {
            bus, queue, home, ..
        } = &*self.0;
        let end = tokio::time::Instant::now() + deadline.min(NEVER);
        let is_last = bus.0.broker.table.leave(queue);
        if is_last {
            if let Some(bridge) = &bus.0.broker.bridge
                && queue.backing().is_bridged()
            {
                // What was not started goes back to RabbitMQ, where it is kept.
                let left = end.saturating_duration_since(tokio::time::Instant::now());
                let _ = tokio::time::timeout(left, bridge.detach(queue)).await;
            }
            if let Some(stored) = &bus.0.broker.stored
                && queue.backing().is_stored()
            {
                stored.detach(queue);
            }
            queue.close();
            super::shutdown::drain(std::slice::from_ref(queue), end).await;
        }
        let timeout = end.saturating_duration_since(tokio::time::Instant::now());
        let remove = RemoveChild {
            id: home.child,
            timeout,
        };
        let late = home.supervisor.send(remove).await;
        let in_time = late.is_ok_and(|late| late.is_empty());
        let abandoned = if is_last {
            abandon(queue).await
        } else {
            Vec::new()
        };
        if let Some(bridge) = &bus.0.broker.bridge
            && is_last
            && queue.backing().is_bridged()
        {
            bridge.remove(queue).await;
        }
        if let Some(stored) = &bus.0.broker.stored
            && is_last
            && queue.backing().is_stored()
        {
            stored.remove(queue).await;
        }
        if let Some(thread) = &home.thread {
            threads::end(thread);
        }
        StopReport { abandoned, in_time }
    }
}

/// Gives up what a closed queue still holds. Answers with what is lost: nothing of a queue that is kept elsewhere is.
pub(super) async fn abandon(queue: &Arc<QueueCore>) -> Vec<Abandoned> {
    queue.close();
    let ending = if queue.backing().is_kept_elsewhere() {
        Ending::Returned
    } else {
        Ending::Abandoned
    };
    let mut ids = Vec::new();
    for slot in queue.mailbox.take_queued(ending) {
        queue.refuse_reply(&slot, ending);
        ids.push(slot.parcel().envelope().id());
    }
    if let Some(actor) = queue.started_actor() {
        // An actor that is gone holds nothing.
        ids.extend(actor.send(CloseQueue(ending)).await.unwrap_or_default());
    }
    if ending == Ending::Returned {
        return Vec::new();
    }
    ids.into_iter()
        .map(|id| Abandoned {
            queue: queue.name.to_string(),
            id,
        })
        .collect()
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("name", &self.name())
            .field("state", &self.state())
            .finish()
    }
}
