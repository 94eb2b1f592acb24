use std::sync::Arc;
use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message};

use super::actor::{Failures, State};
use super::again::Again;
use super::{OnExceeded, SupervisorActor};
use crate::delivery::{
    Backoff, Counted, ExitKind, IntensityWindow, Strategy, affected, should_restart,
};
use crate::ports::Deadline;
use crate::ports::{ChildId, Exit, ExitReporter, LifecycleKind, Part, Starting, StopFor};

/// A worker of a child ended.
pub(super) struct Exited {
    pub(super) child: ChildId,
    pub(super) incarnation: u64,
    pub(super) part: u32,
    pub(super) exit: Exit,
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
            // A temporary child that fails takes no sibling with it: OTP's rule. Its other workers run on.
            entry.ended += 1;
            if entry.ended >= entry.child.parts() {
                self.ended(id, why);
            }
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
        match self.spec.strategy {
            Strategy::OneForOne => {
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
            strategy => self.restart_siblings(strategy, id, delay, ctx),
        }
    }
}

/// Starts one worker again, at the end of its backoff.
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
            self.start_part(
                start.child,
                Part::One(start.part),
                &Starting::unwatched(),
                ctx,
            );
        }
    }
}

impl SupervisorActor {
    /// Stops the children that restart with `failed`, and starts them again in order after `delay`.
    ///
    /// A restart that is under way already is taken over with its children: what was started after a child
    /// that failed may depend on it, and must not start before it.
    fn restart_siblings(
        &mut self,
        strategy: Strategy,
        failed: ChildId,
        delay: Duration,
        ctx: &mut Context<Self>,
    ) {
        let now = self.timers.now();
        let mut not_before = now.checked_add(delay).unwrap_or(now);
        let mut known = vec![failed];
        if let Some(before) = self.take_over(ctx) {
            not_before = not_before.max(before.not_before);
            known.extend(before.failed);
        }
        let alive = self.alive();
        let place = alive.iter().position(|id| *id == failed).unwrap_or(0);
        let mut children = alive[affected(strategy, place, alive.len())].to_vec();
        // Of what was under way, those that come before it.
        children.extend(alive[..place].iter().filter(|id| {
            self.children
                .get(id)
                .is_some_and(|entry| entry.state == State::Restarting)
        }));
        children.sort_unstable();
        children.dedup();
        let stops = self.stops(&children, StopFor::Restart);
        let incarnations = children
            .iter()
            .filter_map(|id| Some((*id, self.children.get(id)?.incarnation)))
            .collect();
        let why = self
            .children
            .get(&failed)
            .map_or_else(String::new, |entry| {
                format!("its sibling `{}` failed", entry.child.name())
            });
        let timers = Arc::clone(&self.timers);
        let restart = async move {
            stops.run(None, None).await;
            let left = not_before.saturating_duration_since(timers.now());
            if !left.is_zero() {
                Deadline::new(timers, left).await;
            }
        };
        let again = Again {
            waiting: incarnations,
            told: known.clone(),
            why,
            not_before,
            starting: Starting::unwatched(),
        };
        self.begin(restart, known, not_before, ctx, |supervisor, ctx| {
            supervisor.start_next(again, ctx);
        });
    }

    /// A child failed too often.
    fn exceeded(&mut self, id: ChildId, why: String, ctx: &mut Context<Self>) {
        let name = Arc::clone(&self.spec.name);
        match self.spec.on_exceeded.clone() {
            OnExceeded::Escalate(parent) if !self.suspended => {
                self.tell(&name, LifecycleKind::Escalated, Some(why.clone()));
                self.escalate(parent, why, ctx);
            }
            OnExceeded::Suspend | OnExceeded::Escalate(_) => self.suspend(id, &why, ctx),
            OnExceeded::StopBus(stop) => {
                self.suspend(id, &why, ctx);
                self.tell(&name, LifecycleKind::Escalated, Some(why.clone()));
                stop(why);
            }
        }
    }

    /// Stops all children, and then fails towards the parent, which starts them again or gives them up.
    fn escalate(&mut self, parent: Option<ExitReporter>, why: String, ctx: &mut Context<Self>) {
        self.take_over(ctx);
        let alive = self.alive();
        let stops = self.stops(&alive, StopFor::Restart);
        let stopped = async move {
            stops.run(None, None).await;
        };
        let now = self.timers.now();
        self.begin(stopped, Vec::new(), now, ctx, |_, _| {
            if let Some(parent) = parent {
                parent.report(0, Exit::Failed { message: None, why });
            }
        });
    }
}
