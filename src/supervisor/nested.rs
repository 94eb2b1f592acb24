use std::sync::Arc;

use actix::{Addr, Context, Handler, Message};

use super::actor::State;
use super::stop::{StopAll, StopForRestart};
use super::{OnExceeded, SupervisorActor};
use crate::delivery::Restart;
use crate::ports::{
    Child, ExitReporter, Lifecycle, LifecycleKind, LifecycleSink, Part, Stop, StopFor,
    SuspendReason,
};

/// A supervisor as a child of another.
pub(crate) struct NestedChild {
    pub(crate) name: Arc<str>,
    pub(crate) supervisor: Addr<SupervisorActor>,
    pub(crate) lifecycle: Arc<dyn LifecycleSink>,
}

impl NestedChild {
    fn tell(&self, kind: LifecycleKind, why: Option<String>) {
        self.lifecycle.event(Lifecycle {
            subject: self.name.to_string(),
            kind,
            why,
        });
    }
}

impl Child for NestedChild {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn parts(&self) -> u32 {
        1
    }

    fn start(&mut self, _: Part, exits: &ExitReporter) {
        self.supervisor.do_send(RestartAll(exits.clone()));
    }

    /// It needs no cutting off: it cuts off its children in time.
    fn stop(&mut self, why: StopFor) -> Stop {
        let supervisor = self.supervisor.clone();
        Box::new(move |deadline| match why {
            // An actor that is gone has stopped.
            StopFor::Restart => {
                let late = supervisor.send(StopForRestart { deadline });
                Box::pin(async move { late.await.unwrap_or_default() })
            }
            StopFor::Good => {
                let late = supervisor.send(StopAll { deadline });
                Box::pin(async move { late.await.unwrap_or_default() })
            }
        })
    }

    fn restarted(&mut self) {}

    fn suspended(&mut self, why: &SuspendReason) {
        self.tell(LifecycleKind::Suspended, Some(why.to_string()));
        self.supervisor.do_send(SuspendAll(why.clone()));
    }

    fn resumed(&mut self) {
        self.tell(LifecycleKind::Resumed, None);
    }

    fn ended(&mut self) {}
}

/// Tells a nested supervisor where to report when it escalates, and starts its children again, their failures
/// forgotten.
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
        self.suspended = false;
        self.take_over(ctx);
        if self.stopping {
            return;
        }
        let why = format!("its supervisor `{}` started again", self.spec.name);
        let ids: Vec<_> = self.children.keys().copied().collect();
        for id in ids {
            let Some(entry) = self.children.get_mut(&id) else {
                continue;
            };
            match entry.state {
                State::Suspended => {
                    entry.failures = None;
                    entry.incarnation += 1;
                    entry.child.resumed();
                    self.start_part(id, Part::All, ctx);
                }
                State::Restarting => {
                    entry.failures = None;
                    self.start_again(id, &why, ctx);
                }
                State::Running | State::Ended | State::Leaving => {}
            }
        }
    }
}

/// The parent gave this supervisor up: its children keep their messages until they are resumed.
struct SuspendAll(SuspendReason);

impl Message for SuspendAll {
    type Result = ();
}

impl Handler<SuspendAll> for SupervisorActor {
    type Result = ();

    fn handle(&mut self, SuspendAll(why): SuspendAll, ctx: &mut Context<Self>) {
        self.suspended = true;
        self.take_over(ctx);
        for id in self.alive() {
            let Some(entry) = self.children.get_mut(&id) else {
                continue;
            };
            if entry.spec.restart == Restart::Temporary {
                self.ended(id, why.last.clone());
            } else {
                self.suspend(id, &why.last, ctx);
            }
        }
    }
}
