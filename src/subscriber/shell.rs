use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::{Actor, AsyncContext, Context, Handler, Message, SpawnHandle, WrapFuture};
use actix::{ActorContext, fut::ActorFutureExt};
use tokio::sync::oneshot;

use super::dispatch::Dispatch;
use super::factory::Factory;
use super::member::Member;
use super::pulse::{Pulse, Pulsing};
use super::worker::work;
use crate::ports::{Caught, Exit, ExitReporter, Panicked, Starting};
use crate::queue::QueueCore;

/// The subscriber actor: it holds control, and the worker's loop runs inside it.
///
/// The handler lives in the loop, made anew at each start; the messages live in the queue. So what an actix
/// actor loses with a panic, its value and its mailbox, is nothing that anyone needs.
pub(super) struct Shell<H, F, D> {
    member: Arc<Member<H, F, D>>,
    seat: u32,
    pulse: Arc<Pulse>,
    running: Option<(SpawnHandle, Rc<Run>)>,
}

impl<H, F, D> Shell<H, F, D> {
    pub(super) fn new(member: Arc<Member<H, F, D>>, seat: u32, pulse: Arc<Pulse>) -> Self {
        Self {
            member,
            seat,
            pulse,
            running: None,
        }
    }

    fn cut_off(&mut self, ctx: &mut Context<Self>)
    where
        Self: Actor<Context = Context<Self>>,
    {
        if let Some((running, _)) = self.running.take() {
            ctx.cancel_future(running);
        }
    }
}

/// What a worker's loop and its shell share of one run.
pub(super) struct Run {
    /// Until its handler is made; one that cannot be is reported first.
    starting: Cell<Starting>,
    /// It is making its handler, or was dropped with a message in hand.
    in_the_middle: Cell<bool>,
    stopping: RefCell<Vec<oneshot::Sender<bool>>>,
}

impl Run {
    fn new(starting: Starting) -> Self {
        Self {
            starting: Cell::new(starting),
            in_the_middle: Cell::new(false),
            stopping: RefCell::default(),
        }
    }

    pub(super) fn has_begun(&self) {
        self.starting.replace(Starting::unwatched());
    }

    pub(super) fn set_in_the_middle(&self, is_so: bool) {
        self.in_the_middle.set(is_so);
    }
}

impl<H, F, D> Actor for Shell<H, F, D>
where
    H: 'static,
    F: Factory<H>,
    D: Dispatch<H>,
{
    type Context = Context<Self>;
}

/// Starts the worker with a fresh handler.
pub(super) struct StartWorker {
    pub(super) part: u32,
    pub(super) exits: ExitReporter,
    pub(super) starting: Starting,
}

impl Message for StartWorker {
    type Result = ();
}

impl<H, F, D> Handler<StartWorker> for Shell<H, F, D>
where
    H: 'static,
    F: Factory<H>,
    D: Dispatch<H>,
{
    type Result = ();

    fn handle(&mut self, start: StartWorker, ctx: &mut Self::Context) {
        self.cut_off(ctx);
        let StartWorker {
            part,
            exits,
            starting,
        } = start;
        let run = Rc::new(Run::new(starting));
        let present = Present::new(&self.member.queue, &run);
        let worker = work(Arc::clone(&self.member), self.seat, Rc::clone(&run));
        let worker = Caught::new(worker);
        let worker = Pulsing::new(worker, self.member.queue.id, Arc::clone(&self.pulse));
        // Cancelled, the loop is dropped before what is here, and so has said where it was.
        let running = worker.into_actor(self).map(move |ended, shell, _| {
            let run = Rc::clone(&present.run);
            // actix may poll a future once more that was cancelled for another run.
            shell
                .running
                .take_if(|(_, present)| Rc::ptr_eq(present, &run));
            drop(present);
            let exit = ended.unwrap_or_else(|Panicked(text)| Exit::Failed {
                message: None,
                why: format!("panicked: {text}"),
            });
            exits.report(part, exit);
            drop(run);
        });
        self.running = Some((ctx.spawn(running), run));
    }
}

/// Counts a worker for as long as its loop runs, and answers those who wait for its end.
struct Present {
    queue: Arc<QueueCore>,
    run: Rc<Run>,
}

impl Present {
    fn new(queue: &Arc<QueueCore>, run: &Rc<Run>) -> Self {
        queue.workers.fetch_add(1, Ordering::Relaxed);
        Self {
            queue: Arc::clone(queue),
            run: Rc::clone(run),
        }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.queue.workers.fetch_sub(1, Ordering::Relaxed);
        for waiting in self.run.stopping.take() {
            // Who asked may have stopped waiting.
            let _ = waiting.send(self.run.in_the_middle.get());
        }
    }
}

/// Asks the worker to end after the message in hand.
pub(super) struct StopWorker {
    /// Answered when it has ended: whether it was cut off in the middle of a message, or of making its handler.
    pub(super) ended: oneshot::Sender<bool>,
}

impl Message for StopWorker {
    type Result = ();
}

impl<H, F, D> Handler<StopWorker> for Shell<H, F, D>
where
    H: 'static,
    F: Factory<H>,
    D: Dispatch<H>,
{
    type Result = ();

    fn handle(&mut self, StopWorker { ended }: StopWorker, _: &mut Self::Context) {
        if let Some((_, run)) = &self.running {
            // Its seat was stopped by who asked. Read late, on a thread that was blocked, this must not stop it for
            // the worker that has been started since.
            run.stopping.borrow_mut().push(ended);
        } else {
            // Who asked may have stopped waiting.
            let _ = ended.send(false);
        }
    }
}

/// Cuts off a worker that was asked to stop; what it held goes back uncounted. One that has nothing in hand gets the turn
/// that it needs to end by itself.
pub(super) struct KillWorker;

impl Message for KillWorker {
    type Result = ();
}

impl<H, F, D> Handler<KillWorker> for Shell<H, F, D>
where
    H: 'static,
    F: Factory<H>,
    D: Dispatch<H>,
{
    type Result = ();

    fn handle(&mut self, _: KillWorker, ctx: &mut Self::Context) {
        // Read late, on a thread that was blocked, it must not end the worker that has been started since.
        let is_asked = |(_, run): &(_, Rc<Run>)| !run.stopping.borrow().is_empty();
        if self.running.as_ref().is_some_and(is_asked) {
            self.cut_off(ctx);
        }
    }
}

/// Ends the actor, and cuts its worker off.
pub(super) struct Retire;

impl Message for Retire {
    type Result = ();
}

impl<H, F, D> Handler<Retire> for Shell<H, F, D>
where
    H: 'static,
    F: Factory<H>,
    D: Dispatch<H>,
{
    type Result = ();

    fn handle(&mut self, _: Retire, ctx: &mut Self::Context) {
        self.cut_off(ctx);
        ctx.stop();
    }
}
