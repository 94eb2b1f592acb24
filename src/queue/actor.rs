use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use actix::{Actor, AsyncContext, Context, Handler, Message, WrapFuture, fut::ActorFutureExt};

use super::QueueCore;
use crate::delivery::Reason;
use crate::mailbox::{Ending, Slot};
use crate::message::MessageId;
use crate::ports::{TimerKey, drop_caught};

/// How long a dead letter that could not be stored waits for the next try; the original stays (rule 5).
const BURY_AGAIN: Duration = Duration::from_secs(1);

/// Waits for retries and makes dead letters.
///
/// Its actix mailbox holds nothing that does not hold a credit, so it is bounded by the queue's bound.
pub(crate) struct QueueActor {
    core: Weak<QueueCore>,
    waiting: HashMap<u64, (Slot, TimerKey)>,
    /// Those whose dead letter could not be stored, until its next try.
    unstored: HashMap<u64, (Slot, Reason)>,
    next: u64,
    /// How what waits ends from now on: the queue is closed.
    closed: Option<Ending>,
    /// Whose dead letter could not be stored since then.
    left: Vec<MessageId>,
}

impl QueueActor {
    pub(super) fn new(core: Weak<QueueCore>) -> Self {
        Self {
            core,
            waiting: HashMap::new(),
            unstored: HashMap::new(),
            next: 0,
            closed: None,
            left: Vec::new(),
        }
    }

    fn next_id(&mut self) -> u64 {
        let id = self.next;
        self.next += 1;
        id
    }

    /// Stores a dead letter and ends its message; until then the message is in flight. `again`: it could not be stored
    /// before, which its queue's health tells.
    fn bury(&mut self, slot: Slot, reason: Reason, again: bool, ctx: &mut Context<Self>) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        let (slot, parcel) = slot.share();
        if !core.backing().is_live(slot.record().token) {
            // It comes again, and its attempts with it.
            if again {
                core.not_stored.fetch_sub(1, Ordering::Relaxed);
            }
            core.backing().end(&core, slot, Ending::Returned);
            return;
        }
        let letter = core.dead_letter(&slot, parcel, reason);
        let stored = core.foundation.dead_letters.add(letter.clone());
        ctx.spawn(stored.into_actor(self).map(move |stored, actor, ctx| {
            match stored {
                Ok(()) => {
                    core.backing().acked(slot.record().token);
                    if again {
                        core.not_stored.fetch_sub(1, Ordering::Relaxed);
                    }
                    core.tell_interceptors(&letter);
                    core.mailbox
                        .end_in_flight(Ending::DeadLettered, core.lane_of(&slot));
                    core.refuse_reply(&slot, Ending::DeadLettered);
                    core.services.lifecycle.dead_letter(&letter.announcement());
                    drop_caught("a message", (slot, letter));
                }
                Err(error) => {
                    tracing::warn!(queue = %core.name, %error, "a dead letter could not be stored; the message stays");
                    if !again {
                        core.not_stored.fetch_add(1, Ordering::Relaxed);
                    }
                    if let Some(ending) = actor.closed {
                        actor.left.push(slot.parcel().envelope().id);
                        end_unstored(&core, slot, ending);
                        return;
                    }
                    let id = actor.next_id();
                    actor.unstored.insert(id, (slot, reason));
                    ctx.notify_later(BuryAgain(id), BURY_AGAIN);
                }
            }
        }));
    }
}

impl Actor for QueueActor {
    type Context = Context<Self>;
}

/// A failed message begins to wait; the mailbox counts it as waiting already.
pub(super) struct Wait {
    pub(super) slot: Slot,
    /// When it failed.
    pub(super) since: Instant,
    pub(super) delay: Duration,
}

impl Message for Wait {
    type Result = ();
}

impl Handler<Wait> for QueueActor {
    type Result = ();

    fn handle(&mut self, Wait { slot, since, delay }: Wait, ctx: &mut Self::Context) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        if let Some(ending) = self.closed {
            give_up(&core, slot, ending);
            return;
        }
        let id = self.next_id();
        let actor = ctx.address();
        let timers = &core.services.timers;
        let left = delay.saturating_sub(timers.now().saturating_duration_since(since));
        let key = timers.after(left, Box::new(move || actor.do_send(Due(id))));
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

/// A message is given up.
pub(super) struct Bury {
    pub(super) slot: Slot,
    pub(super) reason: Reason,
}

impl Message for Bury {
    type Result = ();
}

impl Handler<Bury> for QueueActor {
    type Result = ();

    fn handle(&mut self, Bury { slot, reason }: Bury, ctx: &mut Self::Context) {
        self.bury(slot, reason, false, ctx);
    }
}

struct BuryAgain(u64);

impl Message for BuryAgain {
    type Result = ();
}

impl Handler<BuryAgain> for QueueActor {
    type Result = ();

    fn handle(&mut self, BuryAgain(id): BuryAgain, ctx: &mut Self::Context) {
        if let Some((slot, reason)) = self.unstored.remove(&id) {
            self.bury(slot, reason, true, ctx);
        }
    }
}

/// Gives up what still waits, for a retry or for its dead letter to be stored, at the end of the queue's life, and answers
/// with the ids. Asked again, with those whose dead letter was on its way then and could not be stored.
pub(crate) struct CloseQueue(pub(crate) Ending);

impl Message for CloseQueue {
    type Result = Vec<MessageId>;
}

impl Handler<CloseQueue> for QueueActor {
    type Result = Vec<MessageId>;

    fn handle(&mut self, CloseQueue(ending): CloseQueue, _ctx: &mut Self::Context) -> Self::Result {
        self.closed = Some(ending);
        let Some(core) = self.core.upgrade() else {
            return Vec::new();
        };
        let mut ids = std::mem::take(&mut self.left);
        for (slot, timer) in std::mem::take(&mut self.waiting).into_values() {
            core.services.timers.cancel(timer);
            ids.push(slot.parcel().envelope().id);
            give_up(&core, slot, ending);
        }
        for (slot, _) in std::mem::take(&mut self.unstored).into_values() {
            ids.push(slot.parcel().envelope().id);
            end_unstored(&core, slot, ending);
        }
        ids
    }
}

fn end_unstored(core: &Arc<QueueCore>, slot: Slot, ending: Ending) {
    core.not_stored.fetch_sub(1, Ordering::Relaxed);
    let (slot, message) = slot.share();
    core.backing().end(core, slot, ending);
    drop_caught("a message", message);
}

fn give_up(core: &Arc<QueueCore>, slot: Slot, ending: Ending) {
    core.mailbox.end_waiting_as(ending, core.lane_of(&slot));
    core.refuse_reply(&slot, ending);
    drop_caught("a message", slot);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64};
    use std::sync::{OnceLock, Weak};

    use super::*;
    use crate::delivery::{Order, Overflow, Retry};
    use crate::mailbox::{Demand, Take};
    use crate::message::{Address, AddressKind, Envelope, Held, Name, Payload, RawBody, parcel};
    use crate::ports::{
        BoxFuture, DeadLetter, DeadLetterSink, DeadLettered, HealthSource, Lifecycle,
        LifecycleSink, Outgoing, Problem, StoreError,
    };
    use crate::queue::{QueueSpec, Services};
    use crate::time::{Clock, ManualClock, TimerService};

    /// Fails until it is mended.
    #[derive(Default)]
    struct Broken {
        mended: AtomicBool,
    }

    impl DeadLetterSink for Broken {
        fn add(&self, _: DeadLetter) -> BoxFuture<'static, Result<(), StoreError>> {
            let stored = match self.mended.load(Ordering::Relaxed) {
                true => Ok(()),
                false => Err(StoreError("no space left".to_owned())),
            };
            Box::pin(std::future::ready(stored))
        }
    }

    struct Nobody;

    impl LifecycleSink for Nobody {
        fn event(&self, _: Lifecycle) {}
        fn dead_letter(&self, _: &DeadLettered) {}
    }

    fn queue(store: &Arc<Broken>, clock: Clock) -> Arc<QueueCore> {
        let outgoing: OnceLock<Weak<dyn Outgoing>> = OnceLock::new();
        let services = Services {
            timers: TimerService::new(clock.clone()),
            clock,
            control: actix::Arbiter::current(),
            memory: Arc::new(crate::queue::Foundation {
                backing: Arc::new(crate::queue::Memory),
                dead_letters: Arc::clone(store) as Arc<dyn DeadLetterSink>,
            }),
            lifecycle: Arc::new(Nobody),
            interceptors: Arc::new([]),
            outgoing,
            late_replies: AtomicU64::new(0),
            request_timeout: Duration::ZERO,
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            store: None,
        };
        let spec = QueueSpec {
            patterns: Box::default(),
            commands: Box::default(),
            order: Order::Fifo,
            retry: Arc::new(Retry::none()),
            depth: 1,
            overflow: Overflow::Wait,
            timeout: None,
            release_timeout: Duration::ZERO,
            breaker: None,
            shares: false,
            transactional: false,
            durable: false,
        };
        let foundation = Arc::clone(&services.memory);
        QueueCore::new(
            1,
            "queue".into(),
            Arc::new(spec),
            Arc::new(services),
            foundation,
        )
    }

    /// A message in the hands of a worker that gives it up.
    fn in_hand(queue: &QueueCore) -> Slot {
        let envelope = Envelope {
            id: queue.services.clock.new_id(),
            address: Address {
                kind: AddressKind::Topic,
                name: Name::Static("topic"),
            },
            metadata: None,
        };
        let parcel = parcel(envelope, RawBody(serde_json::Value::Null));
        let seat = queue.mailbox.add_seat();
        let mailbox = &queue.mailbox;
        assert_eq!(mailbox.acquire(None), crate::mailbox::Acquire::Taken);
        mailbox.push(Slot::new(Held::Shared(parcel.shared())), None);
        let mut batch = std::collections::VecDeque::new();
        let waker = std::task::Waker::noop();
        let taken = mailbox.poll_take(
            seat,
            &mut Default::default(),
            &mut batch,
            Demand::ANY,
            waker,
        );
        assert!(matches!(taken, std::task::Poll::Ready(Take::Batch)));
        match batch.pop_front() {
            Some(slot) => slot,
            None => unreachable!("a batch has a message"),
        }
    }

    #[actix::test]
    async fn a_wait_counts_from_the_failure_however_late_the_actor_comes_to_it() {
        let clock = ManualClock::new();
        let queue = queue(&Arc::default(), clock.clock());
        let minute = Duration::from_secs(60);
        let slot = in_hand(&queue);
        // The actor is on this thread: it comes to it only after this.
        queue.backing().retry_after(&queue, slot, minute);
        clock.advance(minute);
        while queue.mailbox.books().waiting > 0 {
            clock.advance(Duration::ZERO);
            tokio::task::yield_now().await;
        }
        assert_eq!(queue.mailbox.books().queued, 1);
    }

    #[actix::test]
    async fn a_store_that_fails_keeps_the_message_and_shows_in_the_health() {
        let store = Arc::new(Broken::default());
        let queue = queue(&store, Clock::system());
        let is_told = || {
            let mut found = Vec::new();
            queue.examine(&mut found);
            let mut problems = found.iter().map(|condition| condition.problem);
            problems.any(|problem| problem == Problem::DeadLettersNotStored)
        };
        let slot = in_hand(&queue);
        assert!(!is_told());
        queue.backing().dead_letter(&queue, slot, Reason::Rejected);
        while !is_told() {
            tokio::task::yield_now().await;
        }
        assert_eq!(queue.mailbox.books().in_flight, 1, "the original stays");
        store.mended.store(true, Ordering::Relaxed);
        while is_told() {
            tokio::task::yield_now().await;
        }
        let books = queue.mailbox.books();
        assert_eq!((books.in_flight, books.counts.dead_lettered), (0, 1));
    }

    #[actix::test]
    async fn what_could_not_be_stored_is_among_what_is_left_at_the_end() {
        let store = Arc::new(Broken::default());
        let queue = queue(&store, Clock::system());
        let slot = in_hand(&queue);
        let id = slot.parcel().envelope().id;
        queue.backing().dead_letter(&queue, slot, Reason::Rejected);
        while queue.not_stored.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let left = queue.actor().send(CloseQueue(Ending::Abandoned)).await;
        assert_eq!(left.unwrap_or_default(), [id]);
        let books = queue.mailbox.books();
        assert_eq!((books.in_flight, books.counts.abandoned), (0, 1));
        assert_eq!(
            queue.not_stored.load(Ordering::Relaxed),
            0,
            "its health is well"
        );
    }
}
