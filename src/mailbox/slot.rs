use std::hash::{DefaultHasher, Hasher};
use std::time::SystemTime;

use crate::delivery::Reason;
use crate::message::{Held, Parcel, RawMessage, SharedParcel, Spent};

/// One message in one queue, with what this queue knows of it.
///
/// Three words: a queue writes and reads one for each message. So what a local message that never failed does not
/// have is kept apart, with the message.
pub(crate) struct Slot(Place);

enum Place {
    Own(Box<Parcel>),
    Shared(SharedParcel),
    Recorded(Box<Recorded>),
    /// It has left its place, which nobody looks at any more.
    Gone,
}

struct Recorded {
    parcel: Held,
    record: Record,
}

const _: () = assert!(size_of::<Slot>() <= 24);

/// What is known of the deliveries of a message.
#[derive(Default)]
pub(crate) struct Record {
    /// How its attempts failed; none for a message that never failed.
    pub(crate) history: Option<Box<History>>,
    /// Names the delivery to a backing outside the process; 0 for a local queue.
    pub(crate) token: u64,
    /// Attempts that have finished.
    pub(crate) attempts: u32,
}

impl Record {
    /// One more attempt has failed.
    pub(crate) fn failed(&mut self, errors: Vec<String>, now: SystemTime) {
        self.attempts = self.attempts.saturating_add(1);
        match &mut self.history {
            Some(history) => {
                history.errors = errors;
                history.last_failed_at = now;
            }
            none => *none = Some(Box::new(History::new(errors, now))),
        }
    }

    /// No handler can read it: it is given up unseen.
    #[cfg(any(feature = "amqp", feature = "sqlite", feature = "postgres"))]
    pub(crate) fn undecodable(&mut self, why: String, now: SystemTime) {
        self.history = Some(Box::new(History {
            unfit: Some(Reason::Undecodable),
            ..History::new(vec![why], now)
        }));
    }

    /// Nobody has tried it: it waits once for a deploy that brings a handler for it.
    pub(crate) fn awaits_handler(&mut self) {
        self.attempts = self.attempts.saturating_sub(1);
        if let Some(history) = &mut self.history {
            history.awaited_handler = true;
        }
    }
}

static NOTHING: Record = Record {
    history: None,
    token: 0,
    attempts: 0,
};

/// The failures of a message so far.
#[derive(Clone, Debug)]
pub(crate) struct History {
    /// The last failure and its sources.
    pub(crate) errors: Vec<String>,
    pub(crate) first_failed_at: SystemTime,
    pub(crate) last_failed_at: SystemTime,
    /// Whether it has waited for a deploy that brings a handler for it.
    pub(crate) awaited_handler: bool,
    /// Why it is given up unseen: no handler could read it.
    pub(crate) unfit: Option<Reason>,
}

impl History {
    /// Of a message that fails for the first time.
    pub(crate) fn new(errors: Vec<String>, now: SystemTime) -> Self {
        Self {
            errors,
            first_failed_at: now,
            last_failed_at: now,
            awaited_handler: false,
            unfit: None,
        }
    }
}

impl Slot {
    #[inline(always)]
    pub(crate) fn new(parcel: Held) -> Self {
        Self(match parcel {
            Held::Own(parcel) => Place::Own(parcel),
            Held::Shared(parcel) => Place::Shared(parcel),
        })
    }

    #[inline]
    pub(crate) fn parcel(&self) -> &Parcel {
        match &self.0 {
            Place::Own(parcel) => parcel,
            Place::Shared(parcel) => parcel,
            Place::Recorded(recorded) => &recorded.parcel,
            Place::Gone => gone(),
        }
    }

    /// Leaves its place, in which nothing is then.
    pub(super) fn leave(&mut self) -> Self {
        Self(std::mem::replace(&mut self.0, Place::Gone))
    }

    /// Its parcel, if others may have it too.
    pub(crate) fn shared_parcel(&self) -> Option<&SharedParcel> {
        match &self.0 {
            Place::Shared(parcel) => Some(parcel),
            Place::Own(_) | Place::Gone => None,
            Place::Recorded(recorded) => match &recorded.parcel {
                Held::Shared(parcel) => Some(parcel),
                Held::Own(_) => None,
            },
        }
    }

    /// As a pattern subscriber sees it.
    pub(crate) fn raw(&self) -> RawMessage<'_> {
        match self.shared_parcel() {
            Some(parcel) => RawMessage::of(parcel),
            None => RawMessage::new(self.parcel()),
        }
    }

    #[inline]
    pub(crate) fn record(&self) -> &Record {
        match &self.0 {
            Place::Recorded(recorded) => &recorded.record,
            _ => &NOTHING,
        }
    }

    /// Which attempt it is that begins now, or is under way; the first is 1.
    #[inline]
    pub(crate) fn attempt(&self) -> u32 {
        self.record().attempts.saturating_add(1)
    }

    /// With something more in its record.
    pub(crate) fn noted(self, note: impl FnOnce(&mut Record)) -> Self {
        let mut recorded = match self.0 {
            Place::Recorded(recorded) => recorded,
            Place::Own(parcel) => Recorded::new(Held::Own(parcel)),
            Place::Shared(parcel) => Recorded::new(Held::Shared(parcel)),
            Place::Gone => gone(),
        };
        note(&mut recorded.record);
        Self(Place::Recorded(recorded))
    }

    /// Whether there is nothing to it but the message: no expiry, no key, no reply, no failure before, no broker.
    #[inline]
    pub(crate) fn is_simple(&self) -> bool {
        let envelope = match &self.0 {
            Place::Own(parcel) => parcel.envelope(),
            Place::Shared(parcel) => parcel.envelope(),
            Place::Recorded(_) | Place::Gone => return false,
        };
        envelope.metadata.is_none()
    }

    /// Drops it. What remains of its parcel may carry another message.
    #[inline]
    pub(crate) fn spend(self) -> Option<Spent> {
        match self.0 {
            Place::Own(parcel) => Held::Own(parcel).spend(),
            _ => None,
        }
    }

    /// From now on somebody else has its parcel too.
    pub(crate) fn share(self) -> (Self, SharedParcel) {
        match self.0 {
            Place::Own(parcel) => Self::shared(parcel.into()),
            Place::Shared(parcel) => Self::shared(parcel),
            Place::Recorded(recorded) => {
                let Recorded { parcel, record } = *recorded;
                let (slot, parcel) = Self::shared(parcel.share());
                (slot.noted(|new| *new = record), parcel)
            }
            Place::Gone => gone(),
        }
    }

    fn shared(parcel: SharedParcel) -> (Self, SharedParcel) {
        (Self(Place::Shared(SharedParcel::clone(&parcel))), parcel)
    }

    /// The lane of a message in a keyed queue. Keys that share a hash share a lane: still in order.
    pub(crate) fn lane(&self) -> Option<u64> {
        self.parcel().envelope().key().map(lane_of)
    }
}

#[cold]
fn gone() -> ! {
    unreachable!("a message is looked at where it has left")
}

impl Recorded {
    fn new(parcel: Held) -> Box<Self> {
        Box::new(Self {
            parcel,
            record: Record::default(),
        })
    }
}

pub(crate) fn lane_of(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(key.as_bytes());
    hasher.finish()
}
