use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::{Broker, Gate};
use crate::message::{MessageId, SharedParcel};
use crate::ports::{Draft, Outgoing, Refusal, TimerKey};

/// How long a due message whose queues stay full waits before its next try.
const AGAIN: Duration = Duration::from_secs(1);

/// Messages that wait for their time.
#[derive(Default)]
pub(crate) struct Schedules {
    waiting: Mutex<HashMap<MessageId, (SharedParcel, TimerKey)>>,
    /// Messages whose time has come and that are being published.
    pub(crate) publishing: AtomicU64,
    /// Those of them that wait for room in a queue.
    pub(crate) blocked: AtomicU64,
    pub(crate) published: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) refused: AtomicU64,
    made: AtomicU64,
    abandoned: AtomicU64,
}

/// How many messages were delayed and where they went: their own ledger (contract, rule 13). Exact when
/// nothing is becoming due: made = published + cancelled + refused + abandoned + waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ScheduleLedger {
    /// Taken since the bus started.
    pub made: u64,
    /// Published when they were due; from then on they are in the books of their queues.
    pub published: u64,
    /// Taken back by [`Schedule::cancel`].
    pub cancelled: u64,
    /// Refused when they were due, for another reason than a full queue: no such queue, or a shutdown.
    pub refused: u64,
    /// Left when the bus was shut down.
    pub abandoned: u64,
    /// Kept now: not due, or due and waiting for room in a queue. Bounded by the bus's `schedule_capacity`.
    pub waiting: u64,
}

impl Schedules {
    pub(crate) fn ledger(&self) -> ScheduleLedger {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let waiting = self.waiting.lock().len() as u64;
        ScheduleLedger {
            made: read(&self.made),
            published: read(&self.published),
            cancelled: read(&self.cancelled),
            refused: read(&self.refused),
            abandoned: read(&self.abandoned),
            waiting: waiting + read(&self.publishing),
        }
    }

    /// Gives up everything that waits.
    pub(crate) fn clear(&self) -> Vec<MessageId> {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        self.abandoned
            .fetch_add(waiting.len() as u64, Ordering::Relaxed);
        waiting.into_keys().collect()
    }
}

/// A message that waits for its time; the handle can be dropped without effect.
///
/// Had from the receipt of a publish with a [`delay`](crate::Publish::delay). The message waits in memory,
/// counts against the bus's `schedule_capacity`, and meets its queues only when it is due: a queue that is
/// full then is waited for; a command whose queue does not exist then is given up with a warning in the log.
/// A shutdown abandons what still waits, with its id in the report.
#[derive(Clone)]
pub struct Schedule(Box<Scheduled>);

/// Boxed, so that a receipt stays small: most messages are not delayed.
#[derive(Clone)]
struct Scheduled {
    id: MessageId,
    due: SystemTime,
    broker: Weak<Broker>,
}

impl Schedule {
    /// The message's id.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.0.id
    }

    /// When it will be published, by the bus's clock, to some milliseconds.
    #[must_use]
    pub fn due(&self) -> SystemTime {
        self.0.due
    }

    /// Takes the message back. True: it will never be published. False: it was already.
    #[must_use = "false means that the message was published"]
    pub fn cancel(&self) -> bool {
        let Some(broker) = self.0.broker.upgrade() else {
            return true;
        };
        let removed = broker.schedules.waiting.lock().remove(&self.0.id);
        let Some((_parcel, timer)) = removed else {
            return false;
        };
        broker.services.timers.cancel(timer);
        broker.schedules.cancelled.fetch_add(1, Ordering::Relaxed);
        true
    }
}

impl std::fmt::Debug for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schedule")
            .field("id", &self.0.id)
            .field("due", &self.0.due)
            .finish_non_exhaustive()
    }
}

impl Broker {
    /// Keeps a message until its time. On a refusal the parcel comes back.
    pub(crate) fn schedule(
        self: &Arc<Self>,
        parcel: SharedParcel,
        delay: Duration,
    ) -> Result<Schedule, (Refusal, SharedParcel)> {
        let capacity = self.limits.schedule_capacity;
        let id = parcel.envelope().id;
        let broker = Arc::downgrade(self);
        let due = SystemTime::UNIX_EPOCH + Duration::from_millis(self.services.clock.wall_ms());
        // What no clock can express never comes due: 30 years stand for it, as in the timers.
        let never = Duration::from_secs(946_080_000);
        let due = due.checked_add(delay).unwrap_or_else(|| due + never);
        let mut waiting = self.schedules.waiting.lock();
        // Under the lock, since a shutdown closes the gate and then takes out what waits.
        if !self.admits(Gate::Draining) {
            return Err((Refusal::Closed, parcel));
        }
        // What is due and finds its queue full is kept here too.
        let blocked = self.schedules.publishing.load(Ordering::Relaxed);
        if waiting.len() as u64 + blocked >= capacity as u64 {
            return Err((Refusal::ScheduleFull { capacity }, parcel));
        }
        self.schedules.made.fetch_add(1, Ordering::Relaxed);
        let handle = Schedule(Box::new(Scheduled {
            id,
            due,
            broker: broker.clone(),
        }));
        let timer = self.services.timers.after(
            delay,
            Box::new(move || {
                if let Some(broker) = broker.upgrade() {
                    broker.due(id);
                }
            }),
        );
        waiting.insert(id, (parcel, timer));
        Ok(handle)
    }

    /// Publishes on the control thread; what is refused for lack of room is tried again while the bus lives.
    fn due(self: &Arc<Self>, id: MessageId) {
        let (parcel, _) = {
            let mut waiting = self.schedules.waiting.lock();
            let Some(scheduled) = waiting.remove(&id) else {
                return;
            };
            // Under the lock, so that it counts against the capacity all the time.
            self.schedules.publishing.fetch_add(1, Ordering::Relaxed);
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
            let mut offered = broker.offer(&mut draft, None);
            let is_blocked = offered.as_ref().is_err_and(is_for_lack_of_room);
            if is_blocked {
                broker.schedules.blocked.fetch_add(1, Ordering::Relaxed);
                offered = broker.offer_waiting(&mut draft, None, AGAIN).await;
            }
            loop {
                match offered {
                    Ok(_) => {
                        broker.schedules.published.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    Err(refusal)
                        if is_for_lack_of_room(&refusal) && broker.admits(Gate::Draining) =>
                    {
                        // A queue that does not let publishers wait is asked again in a while.
                        let has_waited = matches!(
                            refusal,
                            Refusal::Timeout { .. }
                                | Refusal::MustWait { .. }
                                | Refusal::Unreachable { .. }
                                | Refusal::NotStored { .. }
                        );
                        if !has_waited {
                            let timers = Arc::clone(&broker.services.timers);
                            crate::ports::Deadline::new(timers, AGAIN).await;
                        }
                        offered = broker.offer_waiting(&mut draft, None, AGAIN).await;
                    }
                    Err(refusal) => {
                        tracing::warn!(%id, %refusal, "a scheduled message was refused");
                        broker.schedules.refused.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                }
            }
            if is_blocked {
                broker.schedules.blocked.fetch_sub(1, Ordering::Relaxed);
            }
            broker.schedules.publishing.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn is_for_lack_of_room(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Timeout { .. }
            | Refusal::Full { .. }
            | Refusal::Suspended { .. }
            | Refusal::Ended { .. }
            | Refusal::MustWait { .. }
            | Refusal::Unreachable { .. }
            | Refusal::Unconfirmed { .. }
            | Refusal::NotStored { .. }
            | Refusal::Rejected { .. }
    )
}
