use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use super::backing::StoreBacking;
use super::letters::StoreDeadLetters;
use super::publication::{Content, Publication};
use super::queue::StoreQueue;
use super::replies::Replies;
use super::schedules::StoreSchedules;
use super::shared::Shared;
use crate::broker::Stored;
use crate::delivery::Overflow;
use crate::mailbox::halt;
use crate::message::{MessageId, SharedParcel};
use crate::ports::{
    BoxFuture, DeadLetter, DeadLetterStore, Deadline, DurableSnapshot, Refusal, ScheduleStore,
};
use crate::queue::{Foundation, QueueCore};
use crate::store::{NewQueued, row_of};

/// What is done when its publisher does not wait any more.
struct Waiting {
    publication: Arc<Publication>,
    /// Where a reply to it is waited for.
    expects_reply: Option<(Arc<Replies>, MessageId)>,
    is_done: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        if self.publication.withdraw() {
            self.forget_reply();
        }
    }
}

impl Waiting {
    /// It was not written, and nobody will answer it.
    fn forget_reply(&self) {
        if let Some((replies, message)) = &self.expects_reply {
            replies.forget(*message);
        }
    }
}

pub(super) fn body_of(parcel: &SharedParcel) -> Result<String, Refusal> {
    let codec = |error: &dyn std::error::Error| Refusal::Codec(error.to_string());
    let body = parcel.json().map_err(|error| codec(&error))?;
    String::from_utf8(body.to_vec()).map_err(|error| codec(&error))
}

impl Shared {
    /// Whether the message goes to a queue: `Ok(false)` where its policy drops it. Waits for room where it waits.
    async fn room(
        &self,
        queue: &StoreQueue,
        core: &QueueCore,
        deadline: &mut Deadline,
    ) -> Result<bool, Refusal> {
        let name = || core.name.to_string();
        loop {
            let mut room = std::pin::pin!(queue.room.notified());
            // What is told from here on is heard.
            room.as_mut().enable();
            if core.mailbox.is_closed() {
                return Ok(false);
            }
            if self.has_room(queue) {
                return Ok(true);
            }
            let halted = core.mailbox.halted();
            let refusal = match core.mailbox.overflow() {
                Overflow::DropNewest => return Ok(false),
                _ if halted & halt::ENDED != 0 => Refusal::Ended { queue: name() },
                _ if halted & halt::SUSPENDED != 0 => Refusal::Suspended { queue: name() },
                Overflow::Fail => Refusal::Full { queue: name() },
                _ => match deadline.bound(room).await {
                    Some(()) => continue,
                    None => Refusal::Timeout { queue: name() },
                },
            };
            core.count_refused();
            return Err(refusal);
        }
    }

    fn has_room(&self, queue: &StoreQueue) -> bool {
        let most = i64::try_from(self.settings.rows).unwrap_or(i64::MAX);
        queue.rows.load(Ordering::Relaxed) < most
    }

    fn queue_of(&self, core: &QueueCore) -> Result<Arc<StoreQueue>, Refusal> {
        self.queue(&core.name).ok_or_else(|| Refusal::NoQueue {
            queue: core.name.to_string(),
        })
    }

    async fn rooms(
        self: Arc<Self>,
        cores: Vec<Arc<QueueCore>>,
        patience: Duration,
    ) -> Result<Vec<Arc<QueueCore>>, Refusal> {
        let mut deadline = Deadline::new(Arc::clone(&self.tree.services.timers), patience);
        let mut taking = Vec::with_capacity(cores.len());
        for core in cores {
            let queue = self.queue_of(&core)?;
            if self.room(&queue, &core, &mut deadline).await? {
                taking.push(core);
            }
        }
        Ok(taking)
    }

    async fn publish_parcel(
        self: Arc<Self>,
        parcel: SharedParcel,
        cores: Vec<Arc<QueueCore>>,
        patience: Duration,
    ) -> Result<(), Refusal> {
        let body = body_of(&parcel)?;
        let deadline = Deadline::new(Arc::clone(&self.tree.services.timers), patience);
        let queues = cores.iter().map(|core| self.queue_of(core));
        let queues = queues.collect::<Result<Vec<_>, _>>()?;
        let names = queues.iter().map(|queue| queue.name.to_string()).collect();
        let now_ms = self.tree.services.clock.wall_ms();
        let row = row_of(parcel.envelope(), body, None, now_ms);
        let message = Arc::new(NewQueued::new(row, names));
        let content = Content::Queued { message, queues };
        self.write(&parcel, content, deadline).await
    }

    async fn delay_parcel(
        self: Arc<Self>,
        parcel: SharedParcel,
        delay: Duration,
        patience: Duration,
    ) -> Result<(), Refusal> {
        self.start().await;
        let body = body_of(&parcel)?;
        let now_ms = self.tree.services.clock.wall_ms();
        let row = row_of(parcel.envelope(), body, Some(delay), now_ms);
        let deadline = Deadline::new(Arc::clone(&self.tree.services.timers), patience);
        let content = Content::Delayed(Arc::new(row));
        self.write(&parcel, content, deadline).await
    }

    /// Waits until it is written and committed.
    async fn write(
        &self,
        parcel: &SharedParcel,
        content: Content,
        mut deadline: Deadline,
    ) -> Result<(), Refusal> {
        let target = content.target();
        let not_stored = |why: Option<String>| Refusal::NotStored {
            queue: target.clone(),
            why: why.unwrap_or_else(|| "the database did not answer in time".to_owned()),
        };
        let place = Arc::clone(&self.waiting).acquire_owned();
        let Some(place) = deadline.bound(place).await else {
            return Err(not_stored(self.tree.trouble()));
        };
        // It is never closed.
        let place = place.map_err(|_| Refusal::Closed)?;
        let (publication, wait) = Publication::new(content, Some(place));
        let envelope = parcel.envelope();
        let metadata = envelope.metadata.as_ref();
        let port = metadata.and_then(|metadata| metadata.reply.as_ref());
        let mut waiting = Waiting {
            publication: Arc::clone(&publication),
            expects_reply: port.map(|_| (Arc::clone(&self.replies), envelope.id)),
            is_done: false,
        };
        if let Some(port) = port {
            self.replies.expect(envelope.id, port);
        }
        if !self.writes.publish(publication) {
            return Err(Refusal::Closed);
        }
        let answer = Self::answer(&waiting, wait, &mut deadline).await;
        waiting.is_done = true;
        // Of unknown outcome it may be handled, and answered, all the same.
        if !matches!(answer, Ok(()) | Err(Some(Refusal::Unconfirmed { .. }))) {
            waiting.forget_reply();
        }
        answer.map_err(|refusal| refusal.unwrap_or_else(|| not_stored(self.tree.trouble())))
    }

    /// None for a refusal: it was not written in time, and will not be.
    async fn answer(
        waiting: &Waiting,
        wait: oneshot::Receiver<Result<(), Refusal>>,
        deadline: &mut Deadline,
    ) -> Result<(), Option<Refusal>> {
        let unknown = |why: &str| Refusal::Unconfirmed {
            why: why.to_owned(),
        };
        match deadline.bound(wait).await {
            Some(Ok(answer)) => answer.map_err(Some),
            // The writer is gone with the bus.
            Some(Err(_)) => Err(Some(unknown("the bus is shut down"))),
            None if waiting.publication.withdraw() => Err(None),
            None => Err(Some(unknown("the database did not answer in time"))),
        }
    }
}

impl Stored for Shared {
    fn room(
        &self,
        queues: &[Arc<QueueCore>],
        patience: Duration,
    ) -> BoxFuture<'static, Result<Vec<Arc<QueueCore>>, Refusal>> {
        let (this, queues) = (self.this.upgrade(), queues.to_vec());
        Box::pin(async move {
            match this {
                Some(this) => this.rooms(queues, patience).await,
                None => Err(Refusal::Closed),
            }
        })
    }

    fn room_now(&self, queues: &[Arc<QueueCore>]) -> Option<Vec<Arc<QueueCore>>> {
        let mut taking = Vec::with_capacity(queues.len());
        for core in queues {
            let queue = self.queue(&core.name)?;
            if core.mailbox.is_closed() {
                return None;
            }
            match self.has_room(&queue) {
                true => taking.push(Arc::clone(core)),
                false if core.mailbox.overflow() == Overflow::DropNewest => {}
                false => return None,
            }
        }
        Some(taking)
    }

    fn publish(
        &self,
        parcel: &SharedParcel,
        queues: &[Arc<QueueCore>],
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), Refusal>> {
        let (this, parcel, queues) = (self.this.upgrade(), Arc::clone(parcel), queues.to_vec());
        Box::pin(async move {
            match this {
                Some(this) => this.publish_parcel(parcel, queues, patience).await,
                None => Err(Refusal::Closed),
            }
        })
    }

    fn delay(
        &self,
        parcel: &SharedParcel,
        delay: Duration,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), Refusal>> {
        let (this, parcel) = (self.this.upgrade(), Arc::clone(parcel));
        Box::pin(async move {
            match this {
                Some(this) => this.delay_parcel(parcel, delay, patience).await,
                None => Err(Refusal::Closed),
            }
        })
    }

    fn schedules(&self) -> Arc<dyn ScheduleStore> {
        Arc::new(StoreSchedules(self.this.clone()))
    }

    fn foundation(&self, group: &str) -> Arc<Foundation> {
        let queue = self.found_queue(group);
        Arc::new(Foundation {
            backing: Arc::new(StoreBacking(queue)),
            dead_letters: Arc::new(StoreDeadLetters(self.this.clone())),
        })
    }

    fn memory_foundation(&self) -> Arc<Foundation> {
        Arc::clone(&self.memory)
    }

    fn attach(&self, queue: &Arc<QueueCore>) -> BoxFuture<'static, ()> {
        let (this, core) = (self.this.upgrade(), Arc::clone(queue));
        Box::pin(async move {
            let Some(this) = this else { return };
            this.start().await;
            if let Some(queue) = this.queue(&core.name)
                && queue.attach(&core)
            {
                this.lease_changed.notify_one();
                this.look.notify_one();
            }
        })
    }

    fn detach(&self, queue: &Arc<QueueCore>) {
        if let Some(stored) = self.queue(&queue.name) {
            stored.detach(queue);
        }
    }

    fn remove(&self, queue: &Arc<QueueCore>) -> BoxFuture<'static, ()> {
        let (this, core) = (self.this.upgrade(), Arc::clone(queue));
        Box::pin(async move {
            let Some(this) = this else { return };
            let Some(stored) = this.queue(&core.name) else {
                return;
            };
            if !stored.is_of(&core) {
                stored.drop_left(&core);
                return;
            }
            this.until(|| stored.is_settled()).await;
            stored.drop_left(&core);
            if !stored.release(&core, || this.leave(&core.name)) {
                return;
            }
            this.until(|| !this.leaving().iter().any(|name| **name == *core.name))
                .await;
        })
    }

    fn detach_all(&self) {
        for queue in self.all() {
            if let Some(core) = queue.core() {
                queue.detach(&core);
            }
        }
    }

    fn dead_letters(&self) -> Arc<dyn DeadLetterStore> {
        Arc::new(StoreDeadLetters(self.this.clone()))
    }

    fn hand_back(
        &self,
        letter: &DeadLetter,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), Refusal>> {
        let this = self.this.upgrade();
        let (letter, queue) = (letter.id, Arc::clone(&letter.queue));
        let id = letter.to_string();
        Box::pin(async move {
            let this = this.ok_or(Refusal::Closed)?;
            let timers = Arc::clone(&this.tree.services.timers);
            let replaying = this
                .tree
                .with_session(async move |session| session.replay_letter(&id).await);
            let replayed = Deadline::new(timers, patience).bound(replaying).await;
            let replayed = match replayed {
                Some(answer) => answer.map_err(|error| Refusal::NotStored {
                    queue: queue.to_string(),
                    why: error.to_string(),
                })?,
                None => {
                    return Err(Refusal::Unconfirmed {
                        why: "the database did not answer in time".to_owned(),
                    });
                }
            };
            if replayed.is_some() {
                this.letters.count_replayed();
                if let Some(queue) = this.queue(&queue) {
                    queue.count_rows(1);
                    queue.has_come();
                }
                return Ok(());
            }
            let letters = StoreDeadLetters(Arc::downgrade(&this));
            match letters.get(letter).await {
                Ok(Some(_)) => Err(Refusal::NoQueue {
                    queue: queue.to_string(),
                }),
                // Another one has replayed or discarded it meanwhile.
                _ => Ok(()),
            }
        })
    }

    fn snapshot(&self) -> DurableSnapshot {
        let queues = self.attached();
        let rows = queues
            .iter()
            .map(|queue| queue.rows.load(Ordering::Relaxed).max(0).unsigned_abs());
        let counts = &self.writes.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        DurableSnapshot {
            queues: queues.len() as u64,
            held: queues.iter().filter(|queue| queue.is_held()).count() as u64,
            rows: rows.sum(),
            written: read(&counts.written),
            settled: read(&counts.settled),
            commits: read(&counts.commits),
            lost: read(&counts.lost),
        }
    }

    fn close(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        let this = self.this.upgrade();
        Box::pin(async move {
            if let Some(this) = this {
                this.end(deadline).await;
            }
        })
    }
}
