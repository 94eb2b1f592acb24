use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::ActorFutureExt;
use actix::{
    Actor, AsyncContext, Context, Handler, Message, MessageResult, ResponseActFuture, WrapFuture,
};

use super::{ChildSpec, OnExceeded, SupervisorSpec};
use crate::delivery::{
    Backoff, Counted, ExitKind, IntensityWindow, Restart, affected, should_restart,
};
use crate::ports::{
    BoxFuture, Child, ChildId, Exit, ExitReporter, Lifecycle, LifecycleKind, LifecycleSink, Part,
    Report, SuspendReason, Timers,
};
use crate::time::Deadline;

/// Keeps its children running by their specs and its strategy.
pub(crate) struct SupervisorActor {
    spec: SupervisorSpec,
    children: BTreeMap<ChildId, Entry>,
    next: u64,
    stopping: bool,
    /// Where the children report to; the same for all of them.
    reports: Option<Arc<Report>>,
    timers: Arc<dyn Timers>,
    lifecycle: Arc<dyn LifecycleSink>,
}

struct Entry {
    child: Box<dyn Child>,
    spec: Arc<ChildSpec>,
    state: State,
    incarnation: u64,
    /// Allocated at the first failure: most children never have one.
    failures: Option<Box<Failures>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// Stopped for a sibling, or about to be started again.
    Restarting,
    Suspended,
    Ended,
}

struct Failures {
    window: IntensityWindow,
    backoff: Backoff,
}

impl SupervisorActor {
    pub(crate) fn new(
        spec: SupervisorSpec,
        timers: Arc<dyn Timers>,
        lifecycle: Arc<dyn LifecycleSink>,
    ) -> Self {
        Self {
            spec,
            children: BTreeMap::new(),
            next: 0,
            stopping: false,
            reports: None,
            timers,
            lifecycle,
        }
    }

    fn tell(&self, subject: &str, kind: LifecycleKind, why: Option<String>) {
        self.lifecycle.event(Lifecycle {
            subject: subject.to_owned(),
            kind,
            why,
        });
    }

    fn start_part(&mut self, id: ChildId, part: Part, ctx: &Context<Self>) {
        let Some(entry) = self.children.get_mut(&id) else {
            return;
        };
        let reports = self.reports.get_or_insert_with(|| {
            // Weak, so that it does not keep itself alive.
            let supervisor = ctx.address().downgrade();
            Arc::new(move |child, incarnation, part, exit| {
                if let Some(supervisor) = supervisor.upgrade() {
                    supervisor.do_send(Exited {
                        child,
                        incarnation,
                        part,
                        exit,
                    });
                }
            })
        });
        let exits = ExitReporter {
            child: id,
            incarnation: entry.incarnation,
            to: Arc::clone(reports),
        };
        entry.state = State::Running;
        entry.child.start(part, &exits);
    }

    /// Stops children one after another in reverse order of starting, each with its own timeout.
    fn stop_children(
        &mut self,
        ids: &[ChildId],
    ) -> Vec<(ChildId, BoxFuture<'static, ()>, Duration)> {
        let mut stops = Vec::new();
        for id in ids.iter().rev() {
            if let Some(entry) = self.children.get_mut(id) {
                entry.incarnation += 1;
                entry.state = State::Restarting;
                stops.push((*id, entry.child.stop(), entry.spec.stop_timeout));
            }
        }
        stops
    }

    fn restart_after(&mut self, ids: Vec<ChildId>, delay: Duration, ctx: &mut Context<Self>) {
        let stops = self.stop_children(&ids);
        let timers = Arc::clone(&self.timers);
        let actor = ctx.address();
        let restart = async move {
            for (id, stop, timeout) in stops {
                if !within(stop, timeout, &timers).await {
                    actor.do_send(Kill(id));
                }
            }
            Deadline::new(timers, delay).await;
        };
        ctx.spawn(restart.into_actor(self).map(move |(), supervisor, ctx| {
            for id in ids {
                let waits = supervisor
                    .children
                    .get(&id)
                    .is_some_and(|entry| entry.state == State::Restarting);
                if waits && !supervisor.stopping {
                    supervisor.start_part(id, Part::All, ctx);
                }
            }
        }));
    }

    fn exceeded(&mut self, id: ChildId, why: String, ctx: &mut Context<Self>) {
        self.suspend(id, &why, ctx);
        match self.spec.on_exceeded.clone() {
            OnExceeded::Suspend => {}
            OnExceeded::Escalate(parent) => {
                self.tell(
                    &self.spec.name.clone(),
                    LifecycleKind::Escalated,
                    Some(why.clone()),
                );
                let ids: Vec<_> = self.children.keys().copied().collect();
                let stops = self.stop_children(&ids);
                let timers = Arc::clone(&self.timers);
                let stopped = async move {
                    for (_, stop, timeout) in stops {
                        within(stop, timeout, &timers).await;
                    }
                };
                ctx.spawn(stopped.into_actor(self).map(move |(), _, _| {
                    if let Some(parent) = parent {
                        parent.report(0, Exit::Failed { message: None, why });
                    }
                }));
            }
            OnExceeded::StopBus(stop) => {
                self.tell(
                    &self.spec.name.clone(),
                    LifecycleKind::Escalated,
                    Some(why.clone()),
                );
                stop(why);
            }
        }
    }

    fn suspend(&mut self, id: ChildId, why: &str, ctx: &mut Context<Self>) {
        let Some(entry) = self.children.get_mut(&id) else {
            return;
        };
        entry.state = State::Suspended;
        entry.incarnation += 1;
        entry.child.suspended(&SuspendReason {
            last: why.to_owned(),
        });
        let stop = entry.child.stop();
        ctx.spawn(stop.into_actor(self));
    }
}

/// Waits for a stop; false if it took too long.
async fn within(stop: BoxFuture<'static, ()>, timeout: Duration, timers: &Arc<dyn Timers>) -> bool {
    let mut stop = stop;
    let mut deadline = Deadline::new(Arc::clone(timers), timeout);
    std::future::poll_fn(|cx| {
        use std::task::Poll;
        if stop.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        std::pin::Pin::new(&mut deadline).poll(cx).map(|()| false)
    })
    .await
}

impl Actor for SupervisorActor {
    type Context = Context<Self>;
}

/// Adds a child behind the others and starts it. Refused while stopping.
pub(crate) struct AddChild {
    pub(crate) child: Box<dyn Child>,
    pub(crate) spec: Arc<ChildSpec>,
}

impl Message for AddChild {
    type Result = Option<ChildId>;
}

impl Handler<AddChild> for SupervisorActor {
    type Result = MessageResult<AddChild>;

    fn handle(
        &mut self,
        AddChild { child, spec }: AddChild,
        ctx: &mut Self::Context,
    ) -> Self::Result {
        if self.stopping {
            return MessageResult(None);
        }
        let id = ChildId(self.next);
        self.next += 1;
        let name = Arc::clone(child.name());
        let entry = Entry {
            child,
            spec,
            state: State::Running,
            incarnation: 0,
            failures: None,
        };
        self.children.insert(id, entry);
        self.start_part(id, Part::All, ctx);
        self.tell(&name, LifecycleKind::Started, None);
        MessageResult(Some(id))
    }
}

/// Stops a child and forgets it. True: it stopped by itself in time.
pub(crate) struct RemoveChild {
    pub(crate) id: ChildId,
    pub(crate) timeout: Duration,
}

impl Message for RemoveChild {
    type Result = bool;
}

impl Handler<RemoveChild> for SupervisorActor {
    type Result = ResponseActFuture<Self, bool>;

    fn handle(
        &mut self,
        RemoveChild { id, timeout }: RemoveChild,
        _: &mut Self::Context,
    ) -> Self::Result {
        let stops = self.stop_children(&[id]);
        let timers = Arc::clone(&self.timers);
        let stopped = async move {
            for (_, stop, _) in stops {
                if !within(stop, timeout, &timers).await {
                    return false;
                }
            }
            true
        };
        Box::pin(stopped.into_actor(self).map(move |in_time, supervisor, _| {
            if let Some(mut entry) = supervisor.children.remove(&id) {
                if !in_time {
                    entry.child.kill();
                }
                supervisor.tell(entry.child.name(), LifecycleKind::Stopped, None);
            }
            in_time
        }))
    }
}

/// Starts a suspended or ended child again, its failures forgotten. False: it was neither.
pub(crate) struct ResumeChild(pub(crate) ChildId);

impl Message for ResumeChild {
    type Result = bool;
}

impl Handler<ResumeChild> for SupervisorActor {
    type Result = bool;

    fn handle(&mut self, ResumeChild(id): ResumeChild, ctx: &mut Self::Context) -> bool {
        let Some(entry) = self.children.get_mut(&id) else {
            return false;
        };
        if !matches!(entry.state, State::Suspended | State::Ended) || self.stopping {
            return false;
        }
        entry.failures = None;
        entry.child.resumed();
        self.start_part(id, Part::All, ctx);
        true
    }
}

/// Stops all children in reverse order of starting, each with its timeout, within `deadline` over all.
/// Answers with the names of those that had to be cut off.
pub(crate) struct StopAll {
    pub(crate) deadline: Duration,
}

impl Message for StopAll {
    type Result = Vec<String>;
}

impl Handler<StopAll> for SupervisorActor {
    type Result = ResponseActFuture<Self, Vec<String>>;

    fn handle(&mut self, StopAll { deadline }: StopAll, _: &mut Self::Context) -> Self::Result {
        self.stopping = true;
        let ids: Vec<_> = self.children.keys().copied().collect();
        let stops = self.stop_children(&ids);
        let timers = Arc::clone(&self.timers);
        let end = timers.now() + deadline;
        let stopped = async move {
            let mut late = Vec::new();
            for (id, stop, timeout) in stops {
                let left = end.saturating_duration_since(timers.now());
                if !within(stop, timeout.min(left), &timers).await {
                    late.push(id);
                }
            }
            late
        };
        Box::pin(stopped.into_actor(self).map(|late, supervisor, _| {
            let mut names = Vec::new();
            for id in late {
                if let Some(entry) = supervisor.children.get_mut(&id) {
                    entry.child.kill();
                    names.push(entry.child.name().to_string());
                }
            }
            // Dropped in reverse order of starting.
            while supervisor.children.pop_last().is_some() {}
            supervisor.stopping = false;
            names
        }))
    }
}

struct Kill(ChildId);

impl Message for Kill {
    type Result = ();
}

impl Handler<Kill> for SupervisorActor {
    type Result = ();

    fn handle(&mut self, Kill(id): Kill, _: &mut Self::Context) {
        if let Some(entry) = self.children.get_mut(&id) {
            entry.child.kill();
        }
    }
}

struct StartPart {
    child: ChildId,
    incarnation: u64,
    part: u32,
}

impl Message for StartPart {
    type Result = ();
}

impl Handler<StartPart> for SupervisorActor {
    type Result = ();

    fn handle(&mut self, start: StartPart, ctx: &mut Self::Context) {
        let current = self.children.get(&start.child).is_some_and(|entry| {
            entry.incarnation == start.incarnation && entry.state == State::Running
        });
        if current && !self.stopping {
            self.start_part(start.child, Part::One(start.part), ctx);
        }
    }
}

struct Exited {
    child: ChildId,
    incarnation: u64,
    part: u32,
    exit: Exit,
}

impl Message for Exited {
    type Result = ();
}

impl Handler<Exited> for SupervisorActor {
    type Result = ();

    fn handle(&mut self, exited: Exited, ctx: &mut Self::Context) {
        let Exited {
            child: id,
            incarnation,
            part,
            exit,
        } = exited;
        if self.stopping {
            return;
        }
        let now = self.timers.now();
        let Some(entry) = self.children.get_mut(&id) else {
            return;
        };
        // What an earlier incarnation reports is known already.
        if entry.incarnation != incarnation || entry.state != State::Running {
            return;
        }
        let (kind, message, why) = match exit {
            Exit::Stopped => (ExitKind::Shutdown, None, "stopped".to_owned()),
            Exit::Normal => (ExitKind::Normal, None, "ended".to_owned()),
            Exit::Failed { message, why } => (ExitKind::Abnormal, message, why),
            Exit::StartFailed { why } => (
                ExitKind::Abnormal,
                None,
                format!("could not be started: {why}"),
            ),
        };
        let name = Arc::clone(entry.child.name());
        if kind == ExitKind::Shutdown {
            return;
        }
        if !should_restart(entry.spec.restart, kind) {
            // A temporary child that fails takes no sibling with it: OTP's rule.
            entry.state = State::Ended;
            self.tell(&name, LifecycleKind::Ended, Some(why));
            return;
        }
        let spec = &entry.spec;
        let failures = entry.failures.get_or_insert_with(|| {
            Box::new(Failures {
                window: IntensityWindow::new(spec.intensity, spec.period),
                backoff: Backoff::new(spec.backoff_initial, spec.backoff_cap, spec.period),
            })
        });
        let delay = match failures.window.record(now, message) {
            Counted::Exceeded => {
                self.exceeded(id, why, ctx);
                return;
            }
            // A poison message delays the others no more than it must.
            Counted::Again => Duration::ZERO,
            Counted::New => failures.backoff.next(now, fastrand::f64()),
        };
        entry.child.restarted();
        self.tell(&name, LifecycleKind::Restarted, Some(why));
        let order: Vec<_> = match self.spec.strategy {
            crate::delivery::Strategy::OneForOne => Vec::new(),
            _ => self.children.keys().copied().collect(),
        };
        match order.iter().position(|known| *known == id) {
            None => {
                let start = StartPart {
                    child: id,
                    incarnation,
                    part,
                };
                if delay.is_zero() {
                    self.handle(start, ctx);
                } else {
                    let actor = ctx.address();
                    self.timers
                        .after(delay, Box::new(move || actor.do_send(start)));
                }
            }
            Some(failed) => {
                let ids = order[affected(self.spec.strategy, failed, order.len())].to_vec();
                let running = |id: &ChildId| {
                    self.children.get(id).is_some_and(|entry| {
                        entry.state == State::Running && entry.spec.restart != Restart::Temporary
                    })
                };
                let ids = ids.into_iter().filter(running).collect();
                self.restart_after(ids, delay, ctx);
            }
        }
    }
}

/// Tells a nested supervisor where to report when it escalates, and starts its children again.
pub(super) struct RestartAll(pub(super) ExitReporter);

impl Message for RestartAll {
    type Result = ();
}

impl Handler<RestartAll> for SupervisorActor {
    type Result = ();

    fn handle(&mut self, RestartAll(parent): RestartAll, ctx: &mut Self::Context) {
        if let OnExceeded::Escalate(reporter) = &mut self.spec.on_exceeded {
            *reporter = Some(parent);
        }
        let ids: Vec<_> = self.children.keys().copied().collect();
        for id in ids {
            let Some(entry) = self.children.get_mut(&id) else {
                continue;
            };
            if entry.state == State::Suspended {
                entry.failures = None;
                entry.child.resumed();
                self.start_part(id, Part::All, ctx);
            } else if entry.state == State::Restarting {
                self.start_part(id, Part::All, ctx);
            }
        }
    }
}

/// Stops the children of a nested supervisor and keeps them, to be started again by [`RestartAll`].
pub(super) struct StopForRestart;

impl Message for StopForRestart {
    type Result = ();
}

impl Handler<StopForRestart> for SupervisorActor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: StopForRestart, ctx: &mut Self::Context) -> Self::Result {
        let ids: Vec<_> = self
            .children
            .iter()
            .filter(|(_, entry)| entry.state == State::Running)
            .map(|(id, _)| *id)
            .collect();
        let stops = self.stop_children(&ids);
        let timers = Arc::clone(&self.timers);
        let actor = ctx.address();
        let stopped = async move {
            for (id, stop, timeout) in stops {
                if !within(stop, timeout, &timers).await {
                    actor.do_send(Kill(id));
                }
            }
        };
        Box::pin(stopped.into_actor(self))
    }
}
