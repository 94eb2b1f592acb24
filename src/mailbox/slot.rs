use std::hash::{DefaultHasher, Hasher};
use std::time::SystemTime;

use crate::delivery::Reason;
use crate::message::{Held, SharedParcel};

/// One message in one queue, with what this queue knows of it.
pub(crate) struct Slot {
    pub(crate) parcel: Held,
    /// How its attempts failed; none for a message that never failed.
    pub(crate) history: Option<Box<History>>,
    /// Names the delivery to a backing outside the process; 0 for a local queue.
    pub(crate) token: u64,
    /// Attempts that have finished.
    pub(crate) attempts: u32,
    /// Whether its queue is keyed. A number and not a truth value: that would be where the compiler keeps
    /// the `None` of an `Option<Slot>`, which then is moved in pieces (measured: a tenth of a delivery).
    keyed: u32,
}

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
    #[inline]
    pub(crate) fn new(parcel: Held, keyed: bool) -> Self {
        Self {
            parcel,
            history: None,
            token: 0,
            attempts: 0,
            keyed: u32::from(keyed),
        }
    }

    /// Whether there is nothing to it but the message: no expiry, no key, no reply, no failure before, no broker.
    #[inline]
    pub(crate) fn is_simple(&self) -> bool {
        self.token == 0 && self.history.is_none() && self.parcel.envelope().metadata.is_none()
    }

    /// From now on somebody else has its parcel too.
    pub(crate) fn share(self) -> (Self, SharedParcel) {
        let parcel = self.parcel.share();
        let slot = Self {
            parcel: Held::Shared(SharedParcel::clone(&parcel)),
            ..self
        };
        (slot, parcel)
    }

    /// The lane of a message in a keyed queue. Keys that share a hash share a lane: still in order.
    #[inline]
    pub(crate) fn key(&self) -> Option<u64> {
        if self.keyed == 0 {
            return None;
        }
        self.parcel.envelope().key().map(lane_of)
    }
}

pub(crate) fn lane_of(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(key.as_bytes());
    hasher.finish()
}
