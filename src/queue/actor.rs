use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, WrapFuture, fut::ActorFutureExt};

use super::QueueCore;
use crate::delivery::Reason;
use crate::mailbox::{Ending, Slot};
use crate::message::MessageId;
use crate::ports::TimerKey;

/// How long a dead letter that could not be stored waits for the next try; the original stays (rule 5).
const BURY_AGAIN: Duration = Duration::from_secs(1);

/// Waits for retries and makes dead letters.
///
/// Its actix mailbox holds nothing that does not hold a credit, so it is bounded by the queue's bound.
pub(crate) struct QueueActor {
    core: Weak<QueueCore>,
    waiting: HashMap<u64, (Slot, TimerKey)>,
    burying: usize,
    next: u64,
    closed: bool,
}

impl QueueActor {
    pub(super) fn new(core: Weak<QueueCore>) -> Self {
        Self {
            core,
            waiting: HashMap::new(),
            burying: 0,
            next: 0,
            closed: false,
        }
    }
}

impl Actor for QueueActor {
    type Context = Context<Self>;
}

/// A failed message begins to wait; the mailbox counts it as waiting already.
pub(super) struct Wait {
    pub(super) slot: Slot,
    pub(super) delay: Duration,
}

impl Message for Wait {
    type Result = ();
}

impl Handler<Wait> for QueueActor {
    type Result = ();

    fn handle(&mut self, Wait { slot, delay }: Wait, ctx: &mut Self::Context) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        if self.closed {
            abandon(&core, &slot);
            return;
        }
        let id = self.next;
        self.next += 1;
        let actor = ctx.address();
        let key = core
            .services
            .timers
            .after(delay, Box::new(move || actor.do_send(Due(id))));
        self.waiting.insert(id, (slot, key));
    }
}

struct Due(u64);

impl Message for Due {
    type Result = ();
}

impl Handler<Due> for QueueActor {
    type Result = ();

    fn handle(&mut self, Due(id): Due, _ctx: &mut Self::Context) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        if let Some((slot, _)) = self.waiting.remove(&id) {
            core.mailbox.end_waiting(slot);
        }
    }
}

/// A message is given up; it is in flight until its dead letter is stored.
pub(super) struct Bury {
    pub(super) slot: Slot,
    pub(super) reason: Reason,
    /// It could not be stored before, which its queue's health tells.
    pub(super) again: bool,
}

impl Message for Bury {
    type Result = ();
}

impl Handler<Bury> for QueueActor {
    type Result = ();

    fn handle(
        &mut self,
        Bury {
            slot,
            reason,
            again,
        }: Bury,
        ctx: &mut Self::Context,
    ) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        let (slot, parcel) = slot.share();
        let letter = core.dead_letter(&slot, parcel, reason);
        let stored = core.services.dead_letters.add(letter.clone());
        self.burying += 1;
        ctx.spawn(stored.into_actor(self).map(move |stored, actor, ctx| {
            actor.burying -= 1;
            match stored {
                Ok(()) => {
                    if again {
                        core.not_stored.fetch_sub(1, Ordering::Relaxed);
                    }
                    core.tell_interceptors(&letter);
                    core.mailbox.end_in_flight(Ending::DeadLettered, slot.key());
                    core.refuse_reply(&slot, Ending::DeadLettered);
                    core.services.lifecycle.dead_letter(&letter.announcement());
                }
                Err(error) => {
                    tracing::warn!(queue = %core.name, %error, "a dead letter could not be stored; the message stays");
                    if !again {
                        core.not_stored.fetch_add(1, Ordering::Relaxed);
                    }
                    let bury = Bury {
                        slot,
                        reason,
                        again: true,
                    };
                    ctx.notify_later(bury, BURY_AGAIN);
                }
            }
        }));
    }
}

/// Gives up what still waits, at the end of the queue's life, and answers with the ids.
pub(crate) struct CloseQueue;

impl Message for CloseQueue {
    type Result = Vec<MessageId>;
}

impl Handler<CloseQueue> for QueueActor {
    type Result = Vec<MessageId>;

    fn handle(&mut self, _: CloseQueue, _ctx: &mut Self::Context) -> Self::Result {
        self.closed = true;
        let Some(core) = self.core.upgrade() else {
            return Vec::new();
        };
        let waiting = std::mem::take(&mut self.waiting);
        waiting
            .into_values()
            .map(|(slot, timer)| {
                core.services.timers.cancel(timer);
                abandon(&core, &slot);
                slot.parcel.envelope().id
            })
            .collect()
    }
}

fn abandon(core: &Arc<QueueCore>, slot: &Slot) {
    core.mailbox.end_waiting_as(Ending::Abandoned, slot.key());
    core.refuse_reply(slot, Ending::Abandoned);
}
