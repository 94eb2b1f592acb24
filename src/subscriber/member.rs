use std::marker::PhantomData;
use std::sync::Arc;

use actix::{Actor, Addr};
use tokio::sync::oneshot;

use super::dispatch::Dispatch;
use super::factory::Factory;
use super::pulse::WorkerThread;
use super::shell::{KillWorker, Retire, Shell, StartWorker, StopWorker};
use crate::mailbox::halt;
use crate::ports::within;
use crate::ports::{Child, ExitReporter, LifecycleKind, Part, Stop, StopFor, SuspendReason};
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
    /// Shared with nobody: a stop that outlives this child sees that it is gone.
    workers: Arc<[Worker<H, F, D>]>,
    suspended: bool,
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
    pub(crate) fn new(member: Arc<Member<H, F, D>>, placement: &[WorkerThread]) -> Self {
        let workers = member.queue.spec.order.workers();
        let workers = (0..workers)
            .zip(placement.iter().cycle())
            .map(|(_, thread)| {
                let seat = member.queue.mailbox.add_seat();
                let shell = Shell::new(Arc::clone(&member), seat, Arc::clone(&thread.pulse));
                (
                    seat,
                    Shell::start_in_arbiter(&thread.arbiter, move |_| shell),
                )
            })
            .collect();
        Self {
            member,
            workers,
            suspended: false,
        }
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

    fn parts(&self) -> u32 {
        u32::try_from(self.workers.len()).unwrap_or(u32::MAX)
    }

    fn start(&mut self, part: Part, exits: &ExitReporter) {
        for (index, (seat, shell)) in (0u32..).zip(&*self.workers) {
            if part == Part::All || part == Part::One(index) {
                // Here and not on the worker's thread: a stop that follows at once must not be undone there.
                self.queue().mailbox.restart_seat(*seat);
                shell.do_send(StartWorker {
                    part: index,
                    exits: exits.clone(),
                });
            }
        }
    }

    fn stop(&mut self, _: StopFor) -> Stop {
        let child = Arc::downgrade(&self.workers);
        let queue = Arc::clone(&self.member.queue);
        Box::new(move |timeout| {
            Box::pin(async move {
                let Some(workers) = child.upgrade() else {
                    return Vec::new();
                };
                let waits: Vec<_> = workers
                    .iter()
                    .map(|(seat, shell)| {
                        queue.mailbox.stop_seat(*seat);
                        let (done, wait) = oneshot::channel();
                        shell.do_send(StopWorker { done });
                        wait
                    })
                    .collect();
                drop(workers);
                let all = async {
                    for wait in waits {
                        // An actor that is gone has stopped.
                        let _ = wait.await;
                    }
                };
                if within(all, timeout, &queue.services.timers).await {
                    return Vec::new();
                }
                for (_, shell) in child.upgrade().iter().flat_map(|workers| workers.iter()) {
                    shell.do_send(KillWorker);
                }
                vec![queue.name.to_string()]
            })
        })
    }

    fn restarted(&mut self) {
        self.queue().count_restart();
    }

    fn suspended(&mut self, why: &SuspendReason) {
        self.suspended = true;
        self.queue().mailbox.set_halt(halt::SUSPENDED);
        self.queue()
            .services
            .tell(self.name(), LifecycleKind::Suspended, Some(why.to_string()));
    }

    fn resumed(&mut self) {
        self.suspended = false;
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
        if self.suspended {
            // The other members of its group go on without it.
            self.member.queue.mailbox.clear_halt(halt::SUSPENDED);
        }
        for (seat, shell) in &*self.workers {
            self.member.queue.mailbox.remove_seat(*seat);
            shell.do_send(KillWorker);
            shell.do_send(Retire);
        }
    }
}
