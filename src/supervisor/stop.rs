use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::fut::ActorFutureExt;
use actix::{Handler, Message, ResponseActFuture, WrapFuture};

use super::SupervisorActor;
use super::actor::State;
use crate::ports::{
    ChildId, Deadline, Lifecycle, LifecycleKind, LifecycleSink, Stop, StopFor, Timers,
};

/// Children to be stopped one after another.
pub(super) struct Stops {
    children: Vec<(Arc<str>, Stop, Duration)>,
    timers: Arc<dyn Timers>,
}

impl Stops {
    /// Stops them, each within its own timeout. A child that waits for its turn still works: those that stop
    /// before it may need it. At `end` all that are left stop together, with no time to finish what they have
    /// in hand. Answers with the names of what was cut off.
    pub(super) async fn run(
        self,
        end: Option<Instant>,
        tell: Option<Arc<dyn LifecycleSink>>,
    ) -> Vec<String> {
        let left = || end.map(|end| end.saturating_duration_since(self.timers.now()));
        let stopped = |name: &Arc<str>| {
            if let Some(lifecycle) = &tell {
                lifecycle.event(Lifecycle {
                    subject: name.to_string(),
                    kind: LifecycleKind::Stopped,
                    why: None,
                });
            }
        };
        let mut late = Vec::new();
        let mut over = left().map(|left| Deadline::new(Arc::clone(&self.timers), left));
        let mut together = Vec::new();
        for (name, stop, timeout) in self.children {
            let left = left();
            let mut stopping = stop(left.map_or(timeout, |left| timeout.min(left)));
            let in_time = match &mut over {
                Some(_) if left.is_some_and(|left| left.is_zero()) => None,
                Some(over) => over.bound(stopping.as_mut()).await,
                None => Some(stopping.as_mut().await),
            };
            if let Some(cut_off) = in_time {
                late.extend(cut_off);
                stopped(&name);
            } else {
                together.push((name, stopping));
            }
        }
        for (name, stopping) in together {
            late.extend(stopping.await);
            stopped(&name);
        }
        late
    }
}

impl SupervisorActor {
    /// Prepares to stop children in reverse order of starting. From here on their failures count no more.
    pub(super) fn stops(&mut self, ids: &[ChildId], why: StopFor) -> Stops {
        let mut children = Vec::new();
        for id in ids.iter().rev() {
            if let Some(entry) = self.children.get_mut(id) {
                entry.incarnation += 1;
                entry.state = match why {
                    StopFor::Restart => State::Restarting,
                    StopFor::Good => State::Leaving,
                };
                let name = Arc::clone(entry.child.name());
                children.push((name, entry.child.stop(why), entry.spec.stop_timeout));
            }
        }
        let timers = Arc::clone(&self.timers);
        Stops { children, timers }
    }

    /// Those that run, or are about to.
    pub(super) fn alive(&self) -> Vec<ChildId> {
        let alive = self
            .children
            .iter()
            .filter(|(_, entry)| matches!(entry.state, State::Running | State::Restarting));
        alive.map(|(id, _)| *id).collect()
    }
}

/// Stops all children in reverse order of starting, each with its timeout, within `deadline` over all, and
/// forgets them. Answers with the names of those that had to be cut off. Nothing can be added afterwards.
pub(crate) struct StopAll {
    pub(crate) deadline: Duration,
}

impl Message for StopAll {
    type Result = Vec<String>;
}

impl Handler<StopAll> for SupervisorActor {
    type Result = ResponseActFuture<Self, Vec<String>>;

    fn handle(&mut self, StopAll { deadline }: StopAll, ctx: &mut Self::Context) -> Self::Result {
        self.stopping = true;
        self.take_over(ctx);
        let ids: Vec<_> = self.children.keys().copied().collect();
        let stops = self.stops(&ids, StopFor::Good);
        let end = self.timers.now().checked_add(deadline);
        let stopped = stops.run(end, Some(Arc::clone(&self.lifecycle)));
        Box::pin(stopped.into_actor(self).map(|late, supervisor, _| {
            // Dropped in reverse order of starting.
            while supervisor.children.pop_last().is_some() {}
            late
        }))
    }
}

/// Stops the children of a nested supervisor like [`StopAll`], and keeps them, to be started again by
/// [`RestartAll`](super::nested::RestartAll).
pub(super) struct StopForRestart {
    pub(super) deadline: Duration,
}

impl Message for StopForRestart {
    type Result = Vec<String>;
}

impl Handler<StopForRestart> for SupervisorActor {
    type Result = ResponseActFuture<Self, Vec<String>>;

    fn handle(&mut self, stop: StopForRestart, ctx: &mut Self::Context) -> Self::Result {
        self.take_over(ctx);
        let alive = self.alive();
        let stops = self.stops(&alive, StopFor::Restart);
        let end = self.timers.now().checked_add(stop.deadline);
        Box::pin(stops.run(end, None).into_actor(self))
    }
}
