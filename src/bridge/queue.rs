use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::acks::{Acks, Flush, Stray, Wake};
use super::consumer::Holding;
use super::publisher::{Confirmed, Publication};
use super::topology::GroupNames;
use super::{Shared, delay, wire};
use crate::delivery::Reason;
use crate::mailbox::{Ending, Slot};
use crate::ports::Deadline;
use crate::ports::Refusal;
use crate::queue::{Backing, QueueCore};

/// How many bits of a token are the delivery tag; the others are the epoch of its channel.
const TAG_BITS: u32 = 40;
/// The wait between two tries of a copy that RabbitMQ did not take.
const COPY_AGAIN: Duration = Duration::from_secs(1);
/// How long one try may take.
const COPY_PATIENCE: Duration = Duration::from_secs(10);

/// A group's queue on RabbitMQ, as workers settle and its consumer sees it. Outlives every channel.
pub(super) struct AmqpQueue {
    this: Weak<Self>,
    pub(super) names: GroupNames,
    shared: Weak<Shared>,
    /// Of the channel whose deliveries can be settled; 0 for none. One for each channel, so that a settlement
    /// never reaches another channel.
    epoch: AtomicU64,
    last_epoch: AtomicU64,
    state: Mutex<Settlements>,
    pub(super) changed: Notify,
    /// It shall not consume any more; what is in hand can still be settled.
    detached: AtomicBool,
    /// It does not consume, and has given back what was not started.
    pub(super) at_rest: Notify,
    /// Whether RabbitMQ has its consumer.
    pub(super) is_consuming: AtomicBool,
    pub(super) holding: Mutex<Holding>,
    /// Why its last consumer ended, until the next one consumes.
    pub(super) trouble: Mutex<Option<String>>,
    /// Of keyed order: what was delivered and is not started, while nothing is handed out. RabbitMQ gives the next
    /// replica what is behind these as soon as a consumer is cancelled; by the end of the channel they go back first.
    pub(super) held: Mutex<Vec<Slot>>,
    /// Settlements whose channel was gone: RabbitMQ hands those messages out again.
    pub(super) lost: AtomicU64,
    declared: watch::Sender<Declared>,
}

/// Whether a queue is on RabbitMQ, bound to what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Declared {
    NotYet,
    Yes,
    /// It could not be declared so far: its health says why.
    Failed,
}

/// The first declaration is under way. Dropped, it is known how that ended.
pub(super) struct Declaring<'a>(&'a AmqpQueue);

impl Declaring<'_> {
    pub(super) fn succeeded(self) {
        self.0.declared.send_replace(Declared::Yes);
    }
}

impl Drop for Declaring<'_> {
    fn drop(&mut self) {
        self.0.declared.send_if_modified(|declared| {
            let is_failed = *declared == Declared::NotYet;
            if is_failed {
                *declared = Declared::Failed;
            }
            is_failed
        });
    }
}

#[derive(Default)]
struct Settlements {
    acks: Option<Acks>,
    /// To be handed out again by RabbitMQ.
    give_back: Vec<u64>,
}

/// What the consumer is to write.
pub(super) struct ToWrite {
    pub(super) flush: Flush,
    pub(super) give_back: Vec<u64>,
}

impl AmqpQueue {
    pub(super) fn new(names: GroupNames, shared: Weak<Shared>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            names,
            shared,
            epoch: AtomicU64::new(0),
            last_epoch: AtomicU64::new(0),
            state: Mutex::default(),
            changed: Notify::new(),
            detached: AtomicBool::new(false),
            at_rest: Notify::new(),
            is_consuming: AtomicBool::new(false),
            holding: Mutex::default(),
            trouble: Mutex::default(),
            held: Mutex::default(),
            lost: AtomicU64::new(0),
            declared: watch::Sender::new(Declared::NotYet),
        })
    }

    /// What a queue stands on; none for one that is not bridged.
    pub(super) fn of(core: &QueueCore) -> Option<Arc<Self>> {
        let backing: &dyn Any = core.backing();
        backing.downcast_ref::<Self>()?.this.upgrade()
    }

    pub(super) fn declaring(&self) -> Declaring<'_> {
        Declaring(self)
    }

    /// Waits until it was declared, or could not be. Cancel safe.
    pub(super) async fn declared(&self) {
        let mut watch = self.declared.subscribe();
        // An error means that the queue is gone.
        let _ = watch
            .wait_for(|declared| *declared != Declared::NotYet)
            .await;
    }

    /// A new channel: from now on only its deliveries can be settled.
    pub(super) fn open(&self, prefetch: u16) -> u64 {
        let epoch = self.last_epoch.fetch_add(1, Ordering::Relaxed) + 1;
        let mut state = self.state.lock();
        *state = Settlements {
            acks: Some(Acks::new(prefetch)),
            give_back: Vec::new(),
        };
        self.epoch.store(epoch, Ordering::Release);
        epoch
    }

    /// The channel is gone, and with it what it delivered.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        self.epoch.store(0, Ordering::Release);
        if let Some(acks) = state.acks.take() {
            self.lost.fetch_add(acks.unsent() as u64, Ordering::Relaxed);
        }
        state.give_back.clear();
        drop(state);
        self.held.lock().clear();
    }

    pub(super) fn token(epoch: u64, tag: u64) -> u64 {
        (epoch << TAG_BITS) | tag
    }

    /// The delivery tag, if it is of the present channel.
    fn tag(&self, token: u64) -> Option<u64> {
        let epoch = token >> TAG_BITS;
        let is_live = epoch != 0 && epoch == self.epoch.load(Ordering::Acquire);
        is_live.then_some(token & ((1 << TAG_BITS) - 1))
    }

    /// # Errors
    /// When a tag is not the one that follows: the channel can not be used any more.
    pub(super) fn delivered(&self, tag: u64) -> Result<(), Stray> {
        match &mut self.state.lock().acks {
            Some(acks) => acks.delivered(tag),
            None => Err(Stray::Unknown(tag)),
        }
    }

    pub(super) fn give_back(&self, token: u64) {
        // The epoch changes under the lock: the tag is not of another channel's by the time that it is noted.
        let mut state = self.state.lock();
        let Some(tag) = self.tag(token) else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        state.give_back.push(tag);
        drop(state);
        self.changed.notify_one();
    }

    /// Whether it shall have no consumer: it has handed nothing out for long.
    pub(super) fn is_resting(&self) -> bool {
        self.holding.lock().rests()
    }

    pub(super) fn detach(&self) {
        self.detached.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    pub(super) fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Acquire)
    }

    pub(super) fn has_channel(&self) -> bool {
        self.epoch.load(Ordering::Acquire) != 0
    }

    /// Takes what is to be written now. The tags to give back count as settled with that.
    pub(super) fn to_write(&self, force: bool) -> ToWrite {
        let now = Instant::now();
        let mut state = self.state.lock();
        let Settlements { acks, give_back } = &mut *state;
        let Some(acks) = acks else {
            return ToWrite {
                flush: Flush::default(),
                give_back: Vec::new(),
            };
        };
        let mut give_back = std::mem::take(give_back);
        // What is in hand no more was settled by somebody already.
        give_back.retain(|tag| acks.is_in_hand(*tag));
        ToWrite {
            flush: acks.flush(now, force),
            give_back,
        }
    }

    /// The nack of a tag was written.
    pub(super) fn gave_back(&self, tag: u64) {
        if let Some(acks) = &mut self.state.lock().acks {
            // A stray one is settled already.
            let _ = acks.settled_otherwise(tag, Instant::now());
        }
    }

    pub(super) fn outstanding(&self) -> usize {
        let state = self.state.lock();
        state.acks.as_ref().map_or(0, Acks::outstanding)
    }

    /// Publishes the copy that waits for a retry. Tries until RabbitMQ has it, or the original can not be
    /// settled any more: then RabbitMQ hands that out again, and a copy would be one more.
    async fn defer(&self, shared: &Shared, slot: &Slot, delay: Duration) -> bool {
        while self.tag(slot.record().token).is_some() {
            match self.publish_copy(shared, slot, delay).await {
                Ok(Confirmed::Routed) => return true,
                Ok(answer) => {
                    tracing::warn!(
                        queue = self.names.queue(),
                        ?answer,
                        "a retry copy was not taken"
                    );
                }
                Err(refusal) => {
                    tracing::warn!(queue = self.names.queue(), %refusal, "a retry copy was not published");
                }
            }
            let timers = Arc::clone(&shared.services.timers);
            Deadline::new(timers, COPY_AGAIN).await;
        }
        false
    }

    async fn publish_copy(
        &self,
        shared: &Shared,
        slot: &Slot,
        delay: Duration,
    ) -> Result<Confirmed, Refusal> {
        let body =
            wire::copy_body(slot.parcel()).map_err(|error| Refusal::Codec(error.to_string()))?;
        let address = self.names.address();
        let names = &shared.names;
        let entry = delay::entry(delay);
        let is_delayed = entry.is_some();
        let (exchange, routing_key) = match entry {
            Some(entry) => {
                shared.prepare_delay(entry.level()).await?;
                (names.delay(entry.level()), entry.routing_key(address))
            }
            None => (names.due(), address.as_str().to_owned()),
        };
        let publication = Publication {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            properties: wire::retry_copy(slot, shared.frame_max())?,
            body: Arc::new(body.into()),
        };
        let answer = shared.publisher.publish(publication, COPY_PATIENCE).await;
        if is_delayed && answer != Ok(Confirmed::Routed) {
            // A rung may have been deleted.
            shared.forget_ladder().await;
        }
        answer
    }
}

impl Backing for AmqpQueue {
    fn acked(&self, token: u64) {
        // As in `give_back`.
        let mut state = self.state.lock();
        let Some(tag) = self.tag(token) else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let wake = match &mut state.acks {
            // A stray one is settled already, and must not be settled twice.
            Some(acks) => acks.complete(tag, Instant::now()).unwrap_or(Wake::No),
            None => Wake::No,
        };
        drop(state);
        if wake != Wake::No {
            self.changed.notify_one();
        }
    }

    fn is_live(&self, token: u64) -> bool {
        self.tag(token).is_some()
    }

    fn retry_after(&self, queue: &QueueCore, slot: Slot, delay: Duration) {
        // The lane waits in place, or its successors would overtake it.
        if queue.spec.order.is_keyed() {
            queue.wait_in_memory(slot, delay);
            return;
        }
        queue.mailbox.start_waiting(queue.lane_of(&slot));
        let (Some(core), Some(shared)) = (queue.shared(), self.shared.upgrade()) else {
            return;
        };
        let Some(this) = self.this.upgrade() else {
            return;
        };
        shared.thread.clone().spawn(async move {
            if this.defer(&shared, &slot, delay).await {
                this.acked(slot.record().token);
            }
            core.mailbox
                .end_waiting_as(Ending::Returned, core.lane_of(&slot));
        });
    }

    fn retry_now(&self, queue: &QueueCore, slot: Slot) {
        queue.mailbox.retry_now(slot);
    }

    fn dead_letter(&self, queue: &QueueCore, slot: Slot, reason: Reason) {
        queue.bury(slot, reason);
    }

    fn end(&self, queue: &QueueCore, slot: Slot, ending: Ending) {
        match ending {
            Ending::Returned => self.give_back(slot.record().token),
            _ => self.acked(slot.record().token),
        }
        queue.end_in_flight(&slot, ending);
    }

    fn unknown_type_delay(&self) -> Option<Duration> {
        Some(self.shared.upgrade()?.amqp.unknown_type_delay)
    }

    fn take_held(&self) -> Vec<Slot> {
        std::mem::take(&mut self.held.lock())
    }

    fn is_bridged(&self) -> bool {
        true
    }

    /// A detached one is not meant to be.
    fn is_connected(&self) -> bool {
        self.has_channel() || self.is_detached()
    }
}
