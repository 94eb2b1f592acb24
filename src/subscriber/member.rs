use std::marker::PhantomData;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use actix::{Actor, Addr};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::dispatch::Dispatch;
use super::factory::Factory;
use super::pulse::WorkerThread;
use super::shell::{KillWorker, Retire, Shell, StartWorker, StopWorker};
use crate::ports::{
    Child, Deadline, ExitReporter, LifecycleKind, Part, Starting, Stop, StopFor, SuspendReason,
};
use crate::queue::QueueCore;

/// How long a thread may take to come round and drop a worker that is cut off; what takes longer is blocked. By
/// real time, since that is what blocks it.
const COMES_ROUND_WITHIN: Duration = Duration::from_millis(150);

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
    /// It counts at the mailbox as one of those who take messages.
    serves: bool,
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
                let (member, pulse) = (Arc::clone(&member), Arc::clone(&thread.pulse));
                let shell = move |_: &mut _| Shell::new(member, seat, pulse);
                (seat, Shell::start_in_arbiter(&thread.arbiter, shell))
            })
            .collect();
        member.queue.mailbox.join();
        Self {
            member,
            workers,
            suspended: false,
            serves: true,
        }
    }

    fn queue(&self) -> &QueueCore {
        &self.member.queue
    }

    fn end_suspension(&mut self) {
        if std::mem::take(&mut self.suspended) {
            self.queue().mailbox.end_suspension();
        }
    }

    fn leave(&mut self) {
        if std::mem::take(&mut self.serves) {
            for (seat, _) in &*self.workers {
                self.queue().mailbox.end_seat(*seat);
            }
            self.queue().leave();
        }
    }
}

fn cut_off<H, F, D>(child: &Weak<[Worker<H, F, D>]>)
where
    H: 'static,
    F: Factory<H>,
    D: Dispatch<H>,
{
    for (_, shell) in child.upgrade().iter().flat_map(|workers| workers.iter()) {
        shell.do_send(KillWorker);
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

    fn start(&mut self, part: Part, exits: &ExitReporter, starting: &Starting) {
        if !std::mem::replace(&mut self.serves, true) {
            self.queue().mailbox.join();
        }
        for (index, (seat, shell)) in (0u32..).zip(&*self.workers) {
            if part == Part::All || part == Part::One(index) {
                // Here and not on the worker's thread: a stop that follows at once must not be undone there.
                self.queue().mailbox.restart_seat(*seat);
                shell.do_send(StartWorker {
                    part: index,
                    exits: exits.clone(),
                    starting: starting.clone(),
                });
            }
        }
    }

    fn stop(&mut self, _: StopFor) -> Stop {
        let child = Arc::downgrade(&self.workers);
        let queue = Arc::clone(&self.member.queue);
        Box::new(move |timeout| {
            let asked = child.upgrade().map(|workers| {
                let ask = |(seat, shell): &Worker<H, F, D>| {
                    queue.mailbox.stop_seat(*seat);
                    let (ended, wait) = oneshot::channel();
                    shell.do_send(StopWorker { ended });
                    wait
                };
                workers.iter().map(ask).collect::<Vec<_>>()
            });
            let mut given_up = None;
            if timeout.is_zero() {
                cut_off(&child);
                given_up = Some(Instant::now() + COMES_ROUND_WITHIN);
            }
            Box::pin(async move {
                let mut ends = pin!(async {
                    let mut was_cut_off = false;
                    for end in asked.into_iter().flatten() {
                        // An actor that is gone has stopped.
                        was_cut_off |= end.await.unwrap_or(false);
                    }
                    was_cut_off
                });
                let mut ended = None;
                if given_up.is_none() {
                    let timers = Arc::clone(&queue.services.timers);
                    ended = Deadline::new(timers, timeout).bound(ends.as_mut()).await;
                }
                let was_cut_off = match ended {
                    Some(was_cut_off) => was_cut_off,
                    None => {
                        let given_up = given_up.unwrap_or_else(|| {
                            cut_off(&child);
                            Instant::now() + COMES_ROUND_WITHIN
                        });
                        timeout_at(given_up, ends).await.unwrap_or(true)
                    }
                };
                Vec::from_iter(was_cut_off.then(|| queue.name.to_string()))
            })
        })
    }

    fn restarted(&mut self) {
        self.queue().count_restart();
    }

    fn suspended(&mut self, why: &SuspendReason) {
        if !std::mem::replace(&mut self.suspended, true) {
            self.queue().suspend();
        }
        self.queue()
            .services
            .tell(self.name(), LifecycleKind::Suspended, Some(why.to_string()));
    }

    fn resumed(&mut self) {
        self.end_suspension();
        self.queue()
            .services
            .tell(self.name(), LifecycleKind::Resumed, None);
    }

    fn ended(&mut self) {
        self.leave();
    }
}

impl<H, F, D> Drop for MemberChild<H, F, D>
where
    H: 'static,
    F: Factory<H>,
    D: Dispatch<H>,
{
    fn drop(&mut self) {
        // The other members of its group go on without it.
        self.end_suspension();
        self.leave();
        for (seat, shell) in &*self.workers {
            self.member.queue.mailbox.remove_seat(*seat);
            shell.do_send(Retire);
        }
    }
}
