use std::sync::Arc;

use actix::fut::ActorFutureExt;
use actix::{
    Actor, ArbiterHandle, AsyncContext, Context, Handler, Message, SpawnHandle, WrapFuture,
};
use tokio::sync::{oneshot, watch};

use crate::ports::{
    Caught, Child, Deadline, Exit, ExitReporter, LocalBoxFuture, Panicked, Part, Starting, StopFor,
    SuspendReason, Timers,
};

/// One life of a part: it ends well when it was asked to stop, and otherwise says why.
pub(crate) type Life = dyn Fn(Stop) -> LocalBoxFuture<'static, Result<(), String>> + Send + Sync;

/// How a part learns that it is to stop.
#[derive(Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Resolves when the part is to stop. Cancel safe.
    pub(crate) async fn asked(&mut self) {
        // An error means that who could ask is gone.
        let _ = self.0.wait_for(|asked| *asked).await;
    }
}

/// An actor of a bridge or of a store: it runs one life after another, as its supervisor says.
struct PartActor {
    life: Arc<Life>,
    running: Option<(SpawnHandle, watch::Sender<bool>)>,
    waiting: Vec<oneshot::Sender<()>>,
}

impl PartActor {
    fn ended(&mut self) {
        self.running = None;
        for waiting in self.waiting.drain(..) {
            // Who asked may have stopped waiting.
            let _ = waiting.send(());
        }
    }
}

impl Actor for PartActor {
    type Context = Context<Self>;
}

struct Start {
    exits: ExitReporter,
    /// A life waits by itself for what it stands on: with its beginning its start is done.
    #[expect(dead_code, reason = "dropped with this message")]
    starting: Starting,
}

impl Message for Start {
    type Result = ();
}

impl Handler<Start> for PartActor {
    type Result = ();

    fn handle(&mut self, Start { exits, .. }: Start, ctx: &mut Self::Context) {
        if let Some((running, _)) = self.running.take() {
            ctx.cancel_future(running);
        }
        let (ask, asked) = watch::channel(false);
        let life = Caught::new((self.life)(Stop(asked)));
        let life = life.into_actor(self).map(move |ended, part, _| {
            part.ended();
            let failed = |why| Exit::Failed { message: None, why };
            exits.report(
                0,
                match ended {
                    Ok(Ok(())) => Exit::Stopped,
                    Ok(Err(why)) => failed(why),
                    Err(Panicked(text)) => failed(format!("panicked: {text}")),
                },
            );
        });
        self.running = Some((ctx.spawn(life), ask));
    }
}

struct AskToStop(oneshot::Sender<()>);

impl Message for AskToStop {
    type Result = ();
}

impl Handler<AskToStop> for PartActor {
    type Result = ();

    fn handle(&mut self, AskToStop(done): AskToStop, _: &mut Self::Context) {
        self.waiting.push(done);
        match &self.running {
            // An error means that the life has ended, which is told by its end.
            Some((_, ask)) => drop(ask.send(true)),
            None => self.ended(),
        }
    }
}

struct Kill;

impl Message for Kill {
    type Result = ();
}

impl Handler<Kill> for PartActor {
    type Result = ();

    fn handle(&mut self, _: Kill, ctx: &mut Self::Context) {
        if let Some((running, _)) = self.running.take() {
            ctx.cancel_future(running);
        }
        self.ended();
    }
}

/// A part of a bridge or of a store as its supervisor sees it.
pub(crate) struct PartChild {
    name: Arc<str>,
    actor: actix::Addr<PartActor>,
    timers: Arc<dyn Timers>,
}

impl PartChild {
    /// Starts the actor on a thread; its life begins when the supervisor says so.
    pub(crate) fn new(
        name: Arc<str>,
        thread: &ArbiterHandle,
        timers: Arc<dyn Timers>,
        life: Arc<Life>,
    ) -> Self {
        let actor = PartActor::start_in_arbiter(thread, move |_| PartActor {
            life,
            running: None,
            waiting: Vec::new(),
        });
        Self {
            name,
            actor,
            timers,
        }
    }
}

impl Child for PartChild {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn start(&mut self, _: Part, exits: &ExitReporter, starting: &Starting) {
        self.actor.do_send(Start {
            exits: exits.clone(),
            starting: starting.clone(),
        });
    }

    fn stop(&mut self, _: StopFor) -> crate::ports::Stop {
        let (name, actor) = (Arc::clone(&self.name), self.actor.clone());
        let timers = Arc::clone(&self.timers);
        Box::new(move |timeout| {
            Box::pin(async move {
                let (done, wait) = oneshot::channel();
                actor.do_send(AskToStop(done));
                let ended = async {
                    // An actor that is gone has stopped.
                    let _ = wait.await;
                };
                if Deadline::new(timers, timeout).bound(ended).await.is_some() {
                    return Vec::new();
                }
                actor.do_send(Kill);
                vec![name.to_string()]
            })
        })
    }

    fn parts(&self) -> u32 {
        1
    }

    fn restarted(&mut self) {}

    fn suspended(&mut self, _: &SuspendReason) {}

    fn resumed(&mut self) {}

    fn ended(&mut self) {}
}
