use std::marker::PhantomData;
use std::sync::Arc;

use actix::{Actor, Addr, ArbiterHandle};
use tokio::sync::oneshot;

use super::dispatch::Dispatch;
use super::factory::Factory;
use super::shell::{KillWorker, Retire, Shell, StartWorker, StopWorker};
use crate::mailbox::halt;
use crate::ports::{BoxFuture, Child, ExitReporter, LifecycleKind, Part, SuspendReason};
use crate::queue::QueueCore;

/// One subscriber as it was declared: what its workers share.
pub(crate) struct Member<H, F, D> {
    pub(crate) queue: Arc<QueueCore>,
    pub(crate) factory: F,
    pub(crate) dispatch: D,
    pub(crate) handler: PhantomData<fn() -> H>,
}

/// A member's workers as their supervisor sees them.
pub(crate) struct MemberChild<H, F, D>
where
    H: 'static,
    F: Factory<H>,
    D: Dispatch<H>,
{
    member: Arc<Member<H, F, D>>,
    /// Exactly as long as it must be, as everything that each of many idle subscribers has.
    workers: Box<[Worker<H, F, D>]>,
}

/// A worker's seat at the mailbox, and its actor.
type Worker<H, F, D> = (u32, Addr<Shell<H, F, D>>);

impl<H, F, D> MemberChild<H, F, D>
where
    H: 'static,
    F: Factory<H>,
    D: Dispatch<H>,
{
    /// Starts the actors, spread over the threads of `placement`; their workers start when the supervisor says so.
    pub(crate) fn new(member: Arc<Member<H, F, D>>, placement: &[ArbiterHandle]) -> Self {
        let workers = member.queue.spec.order.workers();
        let workers = (0..workers)
            .zip(placement.iter().cycle())
            .map(|(_, arbiter)| {
                let seat = member.queue.mailbox.add_seat();
                let shell = Shell::new(Arc::clone(&member), seat);
                (seat, Shell::start_in_arbiter(arbiter, move |_| shell))
            })
            .collect();
        Self { member, workers }
    }

    fn queue(&self) -> &QueueCore {
        &self.member.queue
    }
}

impl<H, F, D> Child for MemberChild<H, F, D>
where
    H: 'static,
    F: Factory<H>,
    D: Dispatch<H>,
{
    fn name(&self) -> &Arc<str> {
        &self.member.queue.name
    }

    fn start(&mut self, part: Part, exits: &ExitReporter) {
        for (index, (_, shell)) in (0u32..).zip(&self.workers) {
            if part == Part::All || part == Part::One(index) {
                shell.do_send(StartWorker {
                    part: index,
                    exits: exits.clone(),
                });
            }
        }
    }

    fn stop(&mut self) -> BoxFuture<'static, ()> {
        let waits: Vec<_> = self
            .workers
            .iter()
            .map(|(seat, shell)| {
                self.queue().mailbox.stop_seat(*seat);
                let (done, wait) = oneshot::channel();
                shell.do_send(StopWorker { done });
                wait
            })
            .collect();
        Box::pin(async move {
            for wait in waits {
                // An actor that is gone has stopped.
                let _ = wait.await;
            }
        })
    }

    fn kill(&mut self) {
        for (_, shell) in &self.workers {
            shell.do_send(KillWorker);
        }
    }

    fn restarted(&mut self) {
        self.queue().count_restart();
    }

    fn suspended(&mut self, why: &SuspendReason) {
        self.queue().mailbox.set_halt(halt::SUSPENDED);
        self.queue()
            .services
            .tell(self.name(), LifecycleKind::Suspended, Some(why.to_string()));
    }

    fn resumed(&mut self) {
        self.queue().mailbox.clear_halt(halt::SUSPENDED);
        self.queue()
            .services
            .tell(self.name(), LifecycleKind::Resumed, None);
    }
}

impl<H, F, D> Drop for MemberChild<H, F, D>
where
    H: 'static,
    F: Factory<H>,
    D: Dispatch<H>,
{
    fn drop(&mut self) {
        for (seat, shell) in &self.workers {
            self.member.queue.mailbox.remove_seat(*seat);
            shell.do_send(KillWorker);
            shell.do_send(Retire);
        }
    }
}
