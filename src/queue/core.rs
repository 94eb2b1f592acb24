use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use actix::{Actor, Addr, ArbiterHandle};

use super::actor::QueueActor;
use super::{Backing, BreakerGate, Foundation, QueueSpec};
use crate::delivery::{NextStep, Reason};
use crate::mailbox::{Ending, Mailbox, Record, Slot, lane_of};
use crate::message::{ReplyRefusal, SharedParcel};
use crate::ports::{
    DeadLetter, DeadLetterId, Interceptor, Lifecycle, LifecycleKind, LifecycleSink, Outgoing,
    Timers,
};
use crate::time::Clock;

/// What the rooms of one bus share.
pub(crate) struct Services {
    pub(crate) clock: Clock,
    pub(crate) timers: Arc<dyn Timers>,
    pub(crate) control: ArbiterHandle,
    /// What the queues of this process alone stand on.
    pub(crate) memory: Arc<Foundation>,
    pub(crate) lifecycle: Arc<dyn LifecycleSink>,
    pub(crate) interceptors: Arc<[Arc<dyn Interceptor>]>,
    pub(crate) outgoing: OnceLock<Weak<dyn Outgoing>>,
    pub(crate) late_replies: AtomicU64,
    /// How long a request of a handler waits that says nothing else.
    pub(crate) request_timeout: Duration,
    /// The database, if there is one.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) store: Option<Arc<crate::store::StoreLink>>,
}

impl Services {
    pub(crate) fn outgoing(&self) -> Option<Arc<dyn Outgoing>> {
        self.outgoing.get().and_then(Weak::upgrade)
    }

    pub(crate) fn tell(&self, subject: &str, kind: LifecycleKind, why: Option<String>) {
        self.lifecycle.event(Lifecycle {
            subject: subject.to_owned(),
            kind,
            why,
        });
    }
}

/// The shared part of a queue: publishers push into it, workers take from it.
pub(crate) struct QueueCore {
    pub(crate) id: u64,
    pub(crate) name: Arc<str>,
    pub(crate) spec: Arc<QueueSpec>,
    pub(crate) mailbox: Mailbox,
    pub(crate) services: Arc<Services>,
    pub(super) foundation: Arc<Foundation>,
    pub(crate) breaker: Option<Box<BreakerGate>>,
    pub(crate) restarts: AtomicU64,
    /// Messages that it refused for lack of room.
    pub(crate) refused: AtomicU64,
    /// Times that a handler was found to block its thread.
    pub(crate) stuck: AtomicU32,
    /// Dead letters whose storing failed and is tried again.
    pub(super) not_stored: AtomicU32,
    /// Workers whose loop runs, from the making of their handler on.
    pub(crate) workers: AtomicU32,
    keyed: bool,
    actor: OnceLock<Addr<QueueActor>>,
    this: Weak<QueueCore>,
}

// Six cache lines, of which every idle queue has its own.
const _: () = assert!(size_of::<QueueCore>() <= 384);

impl QueueCore {
    pub(crate) fn new(
        id: u64,
        name: Arc<str>,
        spec: Arc<QueueSpec>,
        services: Arc<Services>,
        foundation: Arc<Foundation>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            id,
            name,
            mailbox: Mailbox::new(spec.depth, spec.overflow, spec.order),
            breaker: spec
                .breaker
                .as_ref()
                .map(|breaker| Box::new(BreakerGate::new(breaker))),
            keyed: spec.order.is_keyed(),
            spec,
            services,
            foundation,
            restarts: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            stuck: AtomicU32::new(0),
            not_stored: AtomicU32::new(0),
            workers: AtomicU32::new(0),
            actor: OnceLock::new(),
            this: this.clone(),
        })
    }

    /// How its deliveries are settled.
    #[inline]
    pub(crate) fn backing(&self) -> &dyn Backing {
        &*self.foundation.backing
    }

    /// A member was given up; those who wait for room are refused.
    pub(crate) fn suspend(&self) {
        self.mailbox.suspend();
        self.backing().halted();
    }

    /// A member takes no messages any more.
    pub(crate) fn leave(&self) {
        self.mailbox.leave();
        self.backing().halted();
    }

    /// Nothing is taken any more.
    pub(crate) fn close(&self) {
        self.mailbox.close();
        self.backing().halted();
    }

    /// Whether a delivery may be handed to a handler.
    #[inline]
    pub(crate) fn may_start(&self, slot: &Slot) -> bool {
        let token = slot.record().token;
        token == 0 || self.backing().may_start(token)
    }

    /// Whether nobody looks at its deliveries but their handler.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.services.interceptors.is_empty()
    }

    /// The lane of a message that is about to be accepted.
    #[inline]
    pub(crate) fn lane(&self, parcel_key: Option<&str>) -> Option<u64> {
        if self.keyed {
            parcel_key.map(lane_of)
        } else {
            None
        }
    }

    /// The lane of a message that was accepted.
    #[inline]
    pub(crate) fn lane_of(&self, slot: &Slot) -> Option<u64> {
        if self.keyed { slot.lane() } else { None }
    }

    pub(crate) fn shared(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }

    /// The queue's actor, started on the control thread at its first use.
    pub(super) fn actor(&self) -> &Addr<QueueActor> {
        self.actor.get_or_init(|| {
            let core = self.this.clone();
            QueueActor::start_in_arbiter(&self.services.control, move |_| QueueActor::new(core))
        })
    }

    pub(crate) fn started_actor(&self) -> Option<&Addr<QueueActor>> {
        self.actor.get()
    }

    /// Settles a failed attempt by the policy; the record counts it already. `kind` is what it was beside an error of
    /// the handler's.
    pub(crate) fn settle_failed(&self, slot: Slot, step: NextStep, kind: Reason) {
        // In keyed order its key would wait for it, and here, where no replica of another version sees it.
        if kind == Reason::UnknownType
            && !self.keyed
            && let Some(delay) = self.backing().unknown_type_delay()
            && let Some(history) = slot.record().history.as_deref()
            && !history.awaited_handler
        {
            let slot = slot.noted(Record::awaits_handler);
            self.backing().retry_after(self, slot, delay);
            return;
        }
        match step {
            NextStep::Immediate => self.backing().retry_now(self, slot),
            NextStep::After(delay) => self.backing().retry_after(self, slot, delay),
            NextStep::Discard => self.backing().end(self, slot, Ending::Discarded),
            NextStep::DeadLetter(reason) => {
                // What was wrong with the message says more than that the policy gave it up.
                let reason = match kind {
                    Reason::Exhausted => reason,
                    kind => kind,
                };
                self.backing().dead_letter(self, slot, reason);
            }
        }
    }

    /// By the clock on the wall.
    pub(crate) fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.services.clock.wall_ms())
    }

    pub(crate) fn refuse_reply(&self, slot: &Slot, ending: Ending) {
        let metadata = slot.parcel().envelope().metadata.as_ref();
        if let Some(reply) = metadata.and_then(|metadata| metadata.reply.as_ref()) {
            reply.refuse(match ending {
                Ending::DeadLettered => ReplyRefusal::DeadLettered,
                Ending::Discarded | Ending::Purged => ReplyRefusal::Discarded,
                Ending::Expired => ReplyRefusal::Expired,
                Ending::Abandoned => ReplyRefusal::Abandoned,
                // Another delivery of it will be answered.
                Ending::Returned => return,
            });
        }
    }

    /// The record of a message that is given up.
    pub(super) fn dead_letter(
        &self,
        slot: &Slot,
        parcel: SharedParcel,
        reason: Reason,
    ) -> DeadLetter {
        let clock = &self.services.clock;
        let now = self.now();
        let record = slot.record();
        let history = record.history.as_deref();
        DeadLetter {
            id: DeadLetterId::of(clock.new_id()),
            queue: Arc::clone(&self.name),
            reason,
            errors: history.map_or_else(Vec::new, |history| history.errors.clone()),
            attempts: record.attempts,
            first_failed_at: history.map_or(now, |history| history.first_failed_at),
            last_failed_at: history.map_or(now, |history| history.last_failed_at),
            queue_id: self.id,
            token: record.token,
            parcel,
        }
    }

    /// Shows the interceptors a dead letter that was stored.
    pub(super) fn tell_interceptors(&self, letter: &DeadLetter) {
        for interceptor in self.services.interceptors.iter() {
            let told = catch_unwind(AssertUnwindSafe(|| interceptor.dead_lettered(letter)));
            if told.is_err() {
                tracing::error!(queue = %self.name, "an interceptor panicked in `dead_lettered`");
            }
        }
    }

    /// Tells the breaker, if there is one, how an attempt ended.
    #[inline]
    pub(crate) fn record(&self, success: bool) {
        if self.breaker.is_some() {
            self.record_with_breaker(success);
        }
    }

    /// Counts a message from outside that found no room.
    pub(crate) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }
}

impl AsRef<Mailbox> for QueueCore {
    fn as_ref(&self) -> &Mailbox {
        &self.mailbox
    }
}
