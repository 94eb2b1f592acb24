use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::{Actor, AsyncContext, Context, Handler, Message, SpawnHandle, WrapFuture};
use actix::{ActorContext, fut::ActorFutureExt};
use tokio::sync::oneshot;

use super::caught::{Caught, Panicked};
use super::dispatch::Dispatch;
use super::factory::Factory;
use super::member::Member;
use super::worker::work;
use crate::ports::{Exit, ExitReporter};
use crate::queue::QueueCore;

/// The subscriber actor: it holds control, and the worker's loop runs inside it.
///
/// The handler lives in the loop, made anew at each start; the messages live in the queue. So what an actix
/// actor loses with a panic, its value and its mailbox, is nothing that anyone needs.
pub(super) struct Shell<H, F, D> {
    member: Arc<Member<H, F, D>>,
    seat: u32,
    running: Option<SpawnHandle>,
    stopping: Vec<oneshot::Sender<()>>,
}

impl<H, F, D> Shell<H, F, D> {
    pub(super) fn new(member: Arc<Member<H, F, D>>, seat: u32) -> Self {
        Self {
            member,
            seat,
            running: None,
            stopping: Vec::new(),
        }
    }

    fn stopped(&mut self) {
        self.running = None;
        for waiting in self.stopping.drain(..) {
            // Who asked may have stopped waiting.
            let _ = waiting.send(());
        }
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
        if let Some(running) = self.running.take() {
            ctx.cancel_future(running);
        }
        self.member.queue.mailbox.restart_seat(self.seat);
        let StartWorker { part, exits } = start;
        let present = Present::new(&self.member.queue);
        let worker = Caught::new(work(Arc::clone(&self.member), self.seat));
        let running = worker.into_actor(self).map(move |ended, shell, _| {
            drop(present);
            let exit = ended.unwrap_or_else(|Panicked(text)| Exit::Failed {
                message: None,
                why: format!("panicked: {text}"),
            });
            shell.stopped();
            exits.report(part, exit);
        });
        self.running = Some(ctx.spawn(running));
    }
}

/// Counts a worker for as long as its loop runs.
struct Present(Arc<QueueCore>);

impl Present {
    fn new(queue: &Arc<QueueCore>) -> Self {
        queue.workers.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(queue))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.workers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Asks the worker to end after the message in hand; answered when it has ended.
pub(super) struct StopWorker {
    pub(super) done: oneshot::Sender<()>,
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

    fn handle(&mut self, StopWorker { done }: StopWorker, _: &mut Self::Context) {
        self.stopping.push(done);
        if self.running.is_none() {
            self.stopped();
        } else {
            // A start that was still on its way when the stop was asked for has taken the request back.
            self.member.queue.mailbox.stop_seat(self.seat);
        }
    }
}

/// Cuts the worker off; what it held goes back uncounted.
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
        if let Some(running) = self.running.take() {
            ctx.cancel_future(running);
        }
        self.stopped();
    }
}

/// Ends the actor.
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
        ctx.stop();
    }
}
