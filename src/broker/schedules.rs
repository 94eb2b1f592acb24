use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::schedule::Schedule;
use super::{Broker, Gate};
use crate::delivery::NEVER;
use crate::message::{MessageId, SharedParcel};
use crate::ports::{
    BoxFuture, Draft, Outgoing, Refusal, ScheduleStore, ScheduledMessage, StoreError, TimerKey,
};

/// How long a due message whose queues stay full waits before its next try.
const AGAIN: Duration = Duration::from_secs(1);

/// Messages that wait for their time.
#[derive(Default)]
pub(crate) struct Schedules {
    kept: Mutex<Kept>,
    published: AtomicU64,
    cancelled: AtomicU64,
    refused: AtomicU64,
    made: AtomicU64,
    abandoned: AtomicU64,
}

#[derive(Default)]
struct Kept {
    waiting: HashMap<MessageId, Waiting>,
    /// Whose time has come, until they are published.
    due: HashMap<MessageId, Due>,
    /// Whose time had come, and which the end of the bus overtook.
    overtaken: Vec<MessageId>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    Moving,
    /// Waits for room in a queue.
    Blocked,
}

struct Waiting {
    parcel: SharedParcel,
    due: SystemTime,
    timer: TimerKey,
    /// Which one it is of those made: its timer may ring after it was taken back, and another have its id.
    number: u64,
}

impl Waiting {
    fn scheduled(&self) -> ScheduledMessage {
        ScheduledMessage {
            due: self.due,
            parcel: Arc::clone(&self.parcel),
        }
    }
}

/// How many messages were delayed and where they went: their own ledger (contract, rule 13). Of those
/// that wait in memory: a bus with a store writes them there, and counts them in
/// [`OutboxSnapshot`](crate::OutboxSnapshot). Exact when nothing is becoming due: made = published + cancelled + refused + abandoned + waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ScheduleLedger {
    /// Taken since the bus started.
    pub made: u64,
    /// Published when they were due; from then on they are in the books of their queues.
    pub published: u64,
    /// Taken back by [`Schedule::cancel`](crate::Schedule::cancel) or by its id.
    pub cancelled: u64,
    /// Refused when they were due, for another reason than a full queue: no such queue.
    pub refused: u64,
    /// Left when the bus was shut down, due or not.
    pub abandoned: u64,
    /// Kept now: not due, or due and waiting for room in a queue. Bounded by the bus's `schedule_capacity`.
    pub waiting: u64,
}

impl Schedules {
    pub(crate) fn ledger(&self) -> ScheduleLedger {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ScheduleLedger {
            made: read(&self.made),
            published: read(&self.published),
            cancelled: read(&self.cancelled),
            refused: read(&self.refused),
            abandoned: read(&self.abandoned),
            waiting: self.waiting(),
        }
    }

    /// Not due, or due and not published yet.
    fn waiting(&self) -> u64 {
        self.kept.lock().count()
    }

    /// How many were published, and whether one is on its way that does not wait for room.
    pub(crate) fn movement(&self) -> (u64, bool) {
        let moving = self.kept.lock().due.values().any(|due| *due == Due::Moving);
        (self.published.load(Ordering::Relaxed), moving)
    }

    /// Gives up everything that waits or is overtaken, when the bus takes nothing any more.
    pub(crate) fn clear(&self) -> Vec<MessageId> {
        let Kept {
            waiting,
            due,
            overtaken,
        } = std::mem::take(&mut *self.kept.lock());
        let left = waiting.keys().chain(due.keys());
        let left: Vec<_> = left.copied().chain(overtaken).collect();
        self.abandoned
            .fetch_add(left.len() as u64, Ordering::Relaxed);
        left
    }

    /// What became of a message that was due. Nothing, if it was given up meanwhile.
    fn concluded(&self, id: MessageId, refusal: Option<&Refusal>) {
        let mut kept = self.kept.lock();
        if kept.due.remove(&id).is_none() {
            return;
        }
        let count = match refusal {
            None => &self.published,
            Some(Refusal::Closed) => {
                kept.overtaken.push(id);
                return;
            }
            Some(_) => &self.refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Kept {
    fn count(&self) -> u64 {
        (self.waiting.len() + self.due.len() + self.overtaken.len()) as u64
    }
}

/// Those of one bus, as a store of them.
struct MemorySchedules(Weak<Broker>);

impl ScheduleStore for MemorySchedules {
    fn list(
        &self,
        address: Option<&str>,
        most: usize,
    ) -> BoxFuture<'static, Result<Vec<ScheduledMessage>, StoreError>> {
        let mut found = Vec::new();
        if let Some(broker) = self.0.upgrade() {
            let kept = broker.schedules.kept.lock();
            let is_wanted = |waiting: &&Waiting| {
                address.is_none_or(|address| waiting.parcel.envelope().address() == address)
            };
            found.extend(
                kept.waiting
                    .values()
                    .filter(is_wanted)
                    .map(Waiting::scheduled),
            );
        }
        found.sort_by_key(|scheduled| scheduled.due);
        found.truncate(most);
        Box::pin(std::future::ready(Ok(found)))
    }

    fn count(&self) -> BoxFuture<'static, Result<u64, StoreError>> {
        let broker = self.0.upgrade();
        // Those that are being published cannot be taken back any more.
        let count = broker.map_or(0, |broker| {
            broker.schedules.kept.lock().waiting.len() as u64
        });
        Box::pin(std::future::ready(Ok(count)))
    }

    fn cancel(&self, id: MessageId) -> BoxFuture<'static, Result<bool, StoreError>> {
        let broker = self.0.upgrade();
        // With its bus the message is gone too.
        let cancelled = broker.is_none_or(|broker| broker.cancel_in_memory(id));
        Box::pin(std::future::ready(Ok(cancelled)))
    }
}

impl Broker {
    /// The time of the bus's clock after so long.
    pub(super) fn due_after(&self, delay: Duration) -> SystemTime {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(self.services.clock.wall_ms());
        now.checked_add(delay).unwrap_or_else(|| now + NEVER)
    }

    pub(super) fn memory_schedules(&self) -> Arc<dyn ScheduleStore> {
        Arc::new(MemorySchedules(Weak::clone(&self.this)))
    }

    /// Takes a message back that waits in memory. Whether it was there.
    fn cancel_in_memory(&self, id: MessageId) -> bool {
        let removed = self.schedules.kept.lock().waiting.remove(&id);
        let Some(waiting) = removed else {
            return false;
        };
        self.services.timers.cancel(waiting.timer);
        self.schedules.cancelled.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Keeps a message until its time. On a refusal the parcel comes back.
    pub(crate) fn schedule(
        self: &Arc<Self>,
        parcel: SharedParcel,
        delay: Duration,
    ) -> Result<Schedule, (Refusal, SharedParcel)> {
        let capacity = self.limits.schedule_capacity;
        let id = parcel.envelope().id;
        let broker = Arc::downgrade(self);
        let due = self.due_after(delay);
        let mut kept = self.schedules.kept.lock();
        // Under the lock, since a shutdown closes the gate and then takes out what waits.
        if !self.admits(Gate::Draining) {
            return Err((Refusal::Closed, parcel));
        }
        // Under the id of one that is there it is the same message.
        let known = kept.waiting.get(&id).map(|waiting| waiting.due);
        let now = || self.due_after(Duration::ZERO);
        if let Some(due) = known.or_else(|| kept.due.contains_key(&id).then(now)) {
            return Ok(Schedule::new(id, due, self.memory_schedules()));
        }
        // What is due and finds its queue full is kept here too.
        if kept.count() >= capacity as u64 {
            return Err((Refusal::ScheduleFull { capacity }, parcel));
        }
        let number = self.schedules.made.fetch_add(1, Ordering::Relaxed);
        let handle = Schedule::new(id, due, self.memory_schedules());
        let timer = self.services.timers.after(
            delay,
            Box::new(move || {
                if let Some(broker) = broker.upgrade() {
                    broker.due(id, number);
                }
            }),
        );
        let waiting = Waiting {
            parcel,
            due,
            timer,
            number,
        };
        kept.waiting.insert(id, waiting);
        Ok(handle)
    }

    /// Publishes on the control thread; what is refused for lack of room is tried again while the bus lives.
    fn due(self: &Arc<Self>, id: MessageId, number: u64) {
        let Waiting { parcel, .. } = {
            let mut kept = self.schedules.kept.lock();
            let scheduled = match kept.waiting.entry(id) {
                Entry::Occupied(waiting) if waiting.get().number == number => waiting.remove(),
                _ => return,
            };
            kept.due.insert(id, Due::Moving);
            scheduled
        };
        let broker = Arc::clone(self);
        self.services.control.spawn(async move {
            let mut draft = Draft {
                parcel,
                delay: None,
                // When it was scheduled.
                checked: true,
            };
            let published = broker.publish_due(id, &mut draft).await;
            if let Err(refusal) = &published {
                tracing::warn!(%id, %refusal, "a scheduled message was refused");
            }
            broker.schedules.concluded(id, published.as_ref().err());
        });
    }

    async fn publish_due(&self, id: MessageId, draft: &mut Draft) -> Result<(), Refusal> {
        let mut offered = self.offer(draft, None);
        if offered.as_ref().is_err_and(is_for_lack_of_room) {
            if let Some(due) = self.schedules.kept.lock().due.get_mut(&id) {
                *due = Due::Blocked;
            }
            offered = self.offer_waiting(draft, None, AGAIN).await;
        }
        loop {
            let refusal = match offered {
                Ok(_) => return Ok(()),
                Err(refusal) => refusal,
            };
            if !is_for_lack_of_room(&refusal) {
                return Err(refusal);
            }
            if !self.admits(Gate::Draining) {
                return Err(Refusal::Closed);
            }
            // A queue that does not let publishers wait is asked again in a while.
            let has_waited = matches!(
                refusal,
                Refusal::Timeout { .. }
                    | Refusal::MustWait { .. }
                    | Refusal::Unreachable { .. }
                    | Refusal::NotStored { .. }
            );
            if !has_waited {
                let timers = Arc::clone(&self.services.timers);
                crate::ports::Deadline::new(timers, AGAIN).await;
            }
            offered = self.offer_waiting(draft, None, AGAIN).await;
        }
    }
}

fn is_for_lack_of_room(refusal: &Refusal) -> bool {
    refusal.is_of_its_target() || matches!(refusal, Refusal::Rejected { .. })
}
