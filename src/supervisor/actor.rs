use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::fut::ActorFutureExt;
use actix::{
    Actor, AsyncContext, Context, Handler, Message, MessageResult, ResponseActFuture, SpawnHandle,
    WrapFuture,
};

use super::exits::Exited;
use super::{ChildSpec, SupervisorSpec};
use crate::delivery::{Backoff, IntensityWindow};
use crate::ports::{
    Child, ChildId, ExitReporter, Lifecycle, LifecycleKind, LifecycleSink, Part, Report, Starting,
    StopFor, SuspendReason, Timers,
};

/// Keeps its children running by their specs and its strategy.
pub(crate) struct SupervisorActor {
    pub(super) spec: SupervisorSpec,
    pub(super) children: BTreeMap<ChildId, Entry>,
    next: u64,
    /// It was stopped for good, or is about to be: nothing starts any more.
    pub(super) stopping: bool,
    /// Its parent gave it up.
    pub(super) suspended: bool,
    /// What it does to several children at once. One at a time: the next one takes over.
    pub(super) under_way: Option<UnderWay>,
    /// How many of those there were.
    begun: u64,
    /// Where the children report to; the same for all of them.
    reports: Option<Arc<Report>>,
    pub(super) timers: Arc<dyn Timers>,
    pub(super) lifecycle: Arc<dyn LifecycleSink>,
}

pub(super) struct Entry {
    pub(super) child: Box<dyn Child>,
    pub(super) spec: Arc<ChildSpec>,
    pub(super) state: State,
    pub(super) incarnation: u64,
    /// It was suspended, and its next start ends that.
    pub(super) resuming: bool,
    /// Workers that ended and are not started again.
    pub(super) ended: u32,
    /// Allocated at the first failure: most children never have one.
    pub(super) failures: Option<Box<Failures>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Running,
    /// Stopped for a sibling, or about to be started again.
    Restarting,
    Suspended,
    Ended,
    /// Being stopped for good.
    Leaving,
}

pub(super) struct Failures {
    pub(super) window: IntensityWindow,
    pub(super) backoff: Backoff,
}

/// A restart of several children, or an escalation.
pub(super) struct UnderWay {
    future: SpawnHandle,
    number: u64,
    /// The children whose failures began it and that have not been started again.
    pub(super) failed: Vec<ChildId>,
    pub(super) not_before: Instant,
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
            suspended: false,
            under_way: None,
            begun: 0,
            reports: None,
            timers,
            lifecycle,
        }
    }

    pub(super) fn tell(&self, subject: &str, kind: LifecycleKind, why: Option<String>) {
        self.lifecycle.event(Lifecycle {
            subject: subject.to_owned(),
            kind,
            why,
        });
    }

    pub(super) fn start_part(
        &mut self,
        id: ChildId,
        part: Part,
        starting: &Starting,
        ctx: &Context<Self>,
    ) {
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
        if part == Part::All {
            entry.ended = 0;
        }
        if std::mem::take(&mut entry.resuming) {
            entry.child.resumed();
        }
        entry.state = State::Running;
        entry.child.start(part, &exits, starting);
    }

    pub(super) fn ended(&mut self, id: ChildId, why: String) {
        if let Some(entry) = self.children.get_mut(&id) {
            entry.state = State::Ended;
            entry.child.ended();
            let name = Arc::clone(entry.child.name());
            self.tell(&name, LifecycleKind::Ended, Some(why));
        }
    }

    pub(super) fn suspend(&mut self, id: ChildId, why: &str, ctx: &mut Context<Self>) {
        let Some(entry) = self.children.get_mut(&id) else {
            return;
        };
        entry.state = State::Suspended;
        entry.resuming = false;
        entry.incarnation += 1;
        entry.child.suspended(&SuspendReason {
            last: why.to_owned(),
        });
        // Its other workers finish what they have in hand.
        let stop = entry.child.stop(StopFor::Restart)(entry.spec.stop_timeout);
        ctx.spawn(stop.into_actor(self).map(|_, _, _| ()));
    }

    /// Does something to several children at once, and what follows it, unless another takes over meanwhile.
    pub(super) fn begin(
        &mut self,
        work: impl Future<Output = ()> + 'static,
        failed: Vec<ChildId>,
        not_before: Instant,
        ctx: &mut Context<Self>,
        then: impl FnOnce(&mut Self, &mut Context<Self>) + 'static,
    ) {
        self.begun += 1;
        let number = self.begun;
        let future = ctx.spawn(work.into_actor(self).map(move |(), supervisor, ctx| {
            // actix may poll a future once more that was cancelled.
            if supervisor
                .under_way
                .take_if(|present| present.number == number)
                .is_some()
            {
                then(supervisor, ctx);
            }
        }));
        self.under_way = Some(UnderWay {
            future,
            number,
            failed,
            not_before,
        });
    }

    /// Ends what is under way; the children that it was about to start again are the caller's now.
    pub(super) fn take_over(&mut self, ctx: &mut Context<Self>) -> Option<UnderWay> {
        let under_way = self.under_way.take()?;
        ctx.cancel_future(under_way.future);
        Some(under_way)
    }
}

impl Actor for SupervisorActor {
    type Context = Context<Self>;
}

/// Adds a child behind the others and starts it. Refused once the supervisor is stopped.
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
            resuming: false,
            ended: 0,
            failures: None,
        };
        self.children.insert(id, entry);
        self.start_part(id, Part::All, &Starting::unwatched(), ctx);
        self.tell(&name, LifecycleKind::Started, None);
        MessageResult(Some(id))
    }
}

/// Stops a child and forgets it. Answers with the names of what had to be cut off.
pub(crate) struct RemoveChild {
    pub(crate) id: ChildId,
    pub(crate) timeout: Duration,
}

impl Message for RemoveChild {
    type Result = Vec<String>;
}

impl Handler<RemoveChild> for SupervisorActor {
    type Result = ResponseActFuture<Self, Vec<String>>;

    fn handle(
        &mut self,
        RemoveChild { id, timeout }: RemoveChild,
        _: &mut Self::Context,
    ) -> Self::Result {
        let stop = self.children.get_mut(&id).map(|entry| {
            entry.incarnation += 1;
            entry.state = State::Leaving;
            entry.child.stop(StopFor::Good)(timeout)
        });
        let stopped = async move {
            match stop {
                Some(stop) => stop.await,
                None => Vec::new(),
            }
        };
        Box::pin(stopped.into_actor(self).map(move |late, supervisor, _| {
            if let Some(entry) = supervisor.children.remove(&id) {
                supervisor.tell(entry.child.name(), LifecycleKind::Stopped, None);
            }
            late
        }))
    }
}

/// Starts a suspended or ended child again, its failures forgotten. False: it was neither.
pub(crate) struct ResumeChild(pub(crate) ChildId);

impl Message for ResumeChild {
    type Result = bool;
}

impl Handler<ResumeChild> for SupervisorActor {
    type Result = ResponseActFuture<Self, bool>;

    fn handle(&mut self, ResumeChild(id): ResumeChild, _: &mut Self::Context) -> Self::Result {
        let stop = match self.children.get_mut(&id) {
            Some(entry)
                if matches!(entry.state, State::Suspended | State::Ended) && !self.stopping =>
            {
                entry.failures = None;
                entry.incarnation += 1;
                entry.state = State::Restarting;
                entry.child.resumed();
                // A worker may still have a message in hand from before.
                let stop = entry.child.stop(StopFor::Restart)(entry.spec.stop_timeout);
                Some((stop, entry.incarnation))
            }
            _ => None,
        };
        let stopped = async move {
            let (stop, incarnation) = stop?;
            stop.await;
            Some(incarnation)
        };
        Box::pin(
            stopped
                .into_actor(self)
                .map(move |incarnation, supervisor, ctx| {
                    let Some(incarnation) = incarnation else {
                        return false;
                    };
                    if supervisor.still_waits(id, incarnation) {
                        supervisor.start_part(id, Part::All, &Starting::unwatched(), ctx);
                    }
                    true
                }),
        )
    }
}
