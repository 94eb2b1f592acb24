use std::collections::VecDeque;
use std::sync::Arc;

use actix::{Addr, Context, Handler, Message};

use super::actor::State;
use super::again::Again;
use super::stop::{StopAll, StopForRestart};
use super::{OnExceeded, SupervisorActor};
use crate::delivery::Restart;
use crate::ports::{
    Child, ExitReporter, Lifecycle, LifecycleKind, LifecycleSink, Part, Starting, Stop, StopFor,
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

    fn start(&mut self, _: Part, exits: &ExitReporter, starting: &Starting) {
        self.supervisor.do_send(RestartAll {
            parent: exits.clone(),
            starting: starting.clone(),
        });
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
struct RestartAll {
    parent: ExitReporter,
    starting: Starting,
}

impl Message for RestartAll {
    type Result = ();
}

impl Handler<RestartAll> for SupervisorActor {
    type Result = ();

    fn handle(&mut self, RestartAll { parent, starting }: RestartAll, ctx: &mut Self::Context) {
        if let OnExceeded::Escalate(reporter) = &mut self.spec.on_exceeded {
            *reporter = Some(parent);
        }
        self.suspended = false;
        self.take_over(ctx);
        if self.stopping {
            return;
        }
        let mut again = Again {
            waiting: VecDeque::new(),
            told: Vec::new(),
            why: format!("its supervisor `{}` started again", self.spec.name),
            not_before: self.timers.now(),
            starting,
        };
        for (id, entry) in &mut self.children {
            match entry.state {
                State::Suspended => {
                    entry.incarnation += 1;
                    entry.state = State::Restarting;
                    entry.resuming = true;
                }
                State::Restarting => {}
                State::Running | State::Ended | State::Leaving => continue,
            }
            entry.failures = None;
            again.waiting.push_back((*id, entry.incarnation));
        }
        self.start_next(again, ctx);
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
