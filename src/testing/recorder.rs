use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use crate::message::{AddressKind, CodecError, Command, Envelope, Event, RawMessage, SharedParcel};
use crate::ports::DeadLetter;
use crate::ports::{Finished, Inbound, Interceptor};

/// How much is kept of each kind, unless it is chosen.
const KEPT: usize = 100_000;

/// Keeps what a bus published, handled, failed at and gave up, for tests to look at.
///
/// Add it with [`Builder::intercept`](crate::Builder::intercept) and keep a clone: all clones see the same.
/// Recording costs a lock and a pointer; a message is encoded only when it is asked for by its type. What is
/// recorded of a message is there when `bus.settle().await` returns, and the publish of a message is recorded
/// before any handling of it.
///
/// It keeps the last 100,000 of each kind; [`with_capacity`](Self::with_capacity) changes that.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

struct Inner {
    capacity: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    published: VecDeque<Record>,
    handled: VecDeque<Record>,
    failed: VecDeque<Record>,
    dead_lettered: VecDeque<DeadLetter>,
    forgotten: u64,
}

/// One thing that happened to a message.
#[derive(Clone)]
pub struct Record {
    parcel: SharedParcel,
    queue: Option<Arc<str>>,
    attempt: u32,
    error: Option<Arc<str>>,
}

impl Record {
    /// None only for what no bus with a recorder hands over: such a bus shares its messages.
    fn of(delivery: Inbound<'_>, error: Option<&str>) -> Option<Self> {
        Some(Self {
            parcel: delivery.message().shared()?,
            queue: Some(delivery.queue().into()),
            attempt: delivery.attempt(),
            error: error.map(Arc::from),
        })
    }

    /// The message's envelope.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        self.parcel.envelope()
    }

    /// The queue that the message was handed over from; none for a publish.
    #[must_use]
    pub fn queue(&self) -> Option<&str> {
        self.queue.as_deref()
    }

    /// Which attempt it was, from 1; 0 for a publish.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// What a failed attempt said.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The body, decoded from its JSON.
    ///
    /// # Errors
    /// When it cannot be encoded, or is not a `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, CodecError> {
        self.parcel.decode()
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("envelope", self.envelope())
            .field("queue", &self.queue())
            .field("attempt", &self.attempt)
            .field("error", &self.error())
            .finish()
    }
}

impl Recorder {
    /// An empty recorder.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(KEPT)
    }

    /// A recorder that keeps the last `records` of each kind.
    #[must_use]
    pub fn with_capacity(records: usize) -> Self {
        Self(Arc::new(Inner {
            capacity: records,
            kept: Mutex::default(),
        }))
    }

    /// The events of type `E` that were accepted, in order.
    ///
    /// # Panics
    /// When a message on the topic of `E` is not an `E`.
    #[must_use]
    #[track_caller]
    pub fn published<E: Event>(&self) -> Vec<E> {
        decoded(self.all_published(), AddressKind::Topic, E::TOPIC)
    }

    /// The commands of type `C` that were accepted, requests included, in order.
    ///
    /// # Panics
    /// When a message to the queue of `C` is not a `C`.
    #[must_use]
    #[track_caller]
    pub fn sent<C: Command>(&self) -> Vec<C> {
        decoded(self.all_published(), AddressKind::Queue, C::QUEUE)
    }

    /// The events of type `E` that this queue handled with success, in order.
    ///
    /// # Panics
    /// When a message on the topic of `E` is not an `E`.
    #[must_use]
    #[track_caller]
    pub fn handled<E: Event>(&self, queue: &str) -> Vec<E> {
        decoded(self.handled_by(queue), AddressKind::Topic, E::TOPIC)
    }

    /// The commands of type `C` that this queue handled with success, in order.
    ///
    /// # Panics
    /// When a message to the queue of `C` is not a `C`.
    #[must_use]
    #[track_caller]
    pub fn handled_commands<C: Command>(&self, queue: &str) -> Vec<C> {
        decoded(self.handled_by(queue), AddressKind::Queue, C::QUEUE)
    }

    /// Everything that was accepted: events and commands, in order.
    #[must_use]
    pub fn all_published(&self) -> Vec<Record> {
        self.0.kept.lock().published.iter().cloned().collect()
    }

    /// Every attempt that succeeded, in order of their ends.
    #[must_use]
    pub fn all_handled(&self) -> Vec<Record> {
        self.0.kept.lock().handled.iter().cloned().collect()
    }

    /// Every attempt that failed, in order of their ends: errors, panics, timeouts, refused releases.
    #[must_use]
    pub fn failed(&self) -> Vec<Record> {
        self.0.kept.lock().failed.iter().cloned().collect()
    }

    /// Every dead letter that was made, those replayed or discarded since then included.
    #[must_use]
    pub fn dead_lettered(&self) -> Vec<DeadLetter> {
        self.0.kept.lock().dead_lettered.iter().cloned().collect()
    }

    /// How many records were given up, oldest first, to stay within the capacity.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.0.kept.lock().forgotten
    }

    /// Forgets everything, and counts nothing of it as forgotten.
    pub fn clear(&self) {
        let kept = std::mem::take(&mut *self.0.kept.lock());
        // Outside of the lock: the user's values go with it.
        drop(kept);
    }

    fn handled_by(&self, queue: &str) -> Vec<Record> {
        let mut handled = self.all_handled();
        handled.retain(|record| record.queue() == Some(queue));
        handled
    }

    fn keep<T>(&self, record: T, kind: impl FnOnce(&mut Kept) -> &mut VecDeque<T>) {
        let oldest = {
            let mut kept = self.0.kept.lock();
            let records = kind(&mut kept);
            records.push_back(record);
            let oldest = if records.len() > self.0.capacity {
                records.pop_front()
            } else {
                None
            };
            kept.forgotten += u64::from(oldest.is_some());
            oldest
        };
        drop(oldest);
    }
}

#[track_caller]
fn decoded<T: DeserializeOwned>(records: Vec<Record>, kind: AddressKind, address: &str) -> Vec<T> {
    let mut found = Vec::new();
    for record in records {
        let envelope = record.envelope();
        if envelope.kind() != kind || envelope.address() != address {
            continue;
        }
        match record.decode() {
            Ok(message) => found.push(message),
            Err(error) => panic!("a recorded message cannot be read: {error}"),
        }
    }
    found
}

impl Interceptor for Recorder {
    fn accepted(&self, message: RawMessage<'_>) {
        let Some(parcel) = message.shared() else {
            return;
        };
        let record = Record {
            parcel,
            queue: None,
            attempt: 0,
            error: None,
        };
        self.keep(record, |kept| &mut kept.published);
    }

    fn finished(&self, attempt: Finished<'_>) {
        let Some(record) = Record::of(attempt.delivery(), attempt.error()) else {
            return;
        };
        self.keep(record, |kept| match attempt.error() {
            None => &mut kept.handled,
            Some(_) => &mut kept.failed,
        });
    }

    fn dead_lettered(&self, letter: &DeadLetter) {
        self.keep(letter.clone(), |kept| &mut kept.dead_lettered);
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.0.kept.lock();
        f.debug_struct("Recorder")
            .field("published", &kept.published.len())
            .field("handled", &kept.handled.len())
            .field("failed", &kept.failed.len())
            .field("dead_lettered", &kept.dead_lettered.len())
            .finish()
    }
}
