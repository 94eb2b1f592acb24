//! What scenarios play with: messages, and the means to hold a handler and to see what it did.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context as Wake, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::unmet::{Unmet, holds, same};
use crate::delivery::{Failure, Outcome, Retry};
use crate::message::{Command, Event, RawMessage};
use crate::subscriber::{Context, RawSubscriber};

/// What a broker that counts in milliseconds may take off a wait, at each stage of it.
pub(super) const ROUNDED: Duration = Duration::from_millis(10);

/// Where waits do not end to the millisecond: at least as long as they should be, however late it is looked at.
pub(super) fn never_early(starts: &[Instant], waits: &[Duration]) -> Result<(), Unmet> {
    same("starts", starts.len(), waits.len() + 1)?;
    for (between, wait) in starts.windows(2).zip(waits) {
        let waited = between[1].duration_since(between[0]);
        holds("no wait is too short", waited + ROUNDED >= *wait, waited)?;
    }
    Ok(())
}

/// The event that most scenarios use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) n: u32,
}

impl Event for Note {
    const TOPIC: &'static str = "conformance.note";
}

pub(super) fn note(n: u32) -> Note {
    Note { n }
}

/// The same topic, as another service sees it: a field that it does not know, one that it has a default for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TwinNote {
    pub(super) n: u64,
    #[serde(default)]
    pub(super) remark: String,
}

impl Event for TwinNote {
    const TOPIC: &'static str = Note::TOPIC;
}

/// What follows from a note.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Effect {
    pub(super) n: u32,
}

impl Event for Effect {
    const TOPIC: &'static str = "conformance.effect";
}

/// A command that is answered with its number plus one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Ask {
    pub(super) n: u32,
}

impl Command for Ask {
    const QUEUE: &'static str = "conformance.ask";
    type Reply = u32;
}

/// The same command, for a requester who takes the reply for something else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Misunderstood {
    pub(super) n: u32,
}

impl Command for Misunderstood {
    const QUEUE: &'static str = Ask::QUEUE;
    type Reply = Vec<String>;
}

/// A command to nobody.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Lost {
    pub(super) n: u32,
}

impl Command for Lost {
    const QUEUE: &'static str = "conformance.nowhere";
    type Reply = ();
}

/// What handlers did, in order.
pub(super) struct Journal<T>(Arc<Mutex<Vec<T>>>);

impl<T: Clone> Journal<T> {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    pub(super) fn write(&self, entry: T) {
        self.0.lock().push(entry);
    }

    pub(super) fn read(&self) -> Vec<T> {
        self.0.lock().clone()
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl<T> Clone for Journal<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Holds handlers until it is opened, and counts those that stand in it.
#[derive(Clone)]
pub(super) struct Door {
    pass: Arc<Semaphore>,
    inside: Arc<AtomicU32>,
}

impl Door {
    pub(super) fn shut() -> Self {
        Self {
            pass: Arc::new(Semaphore::new(0)),
            inside: Arc::default(),
        }
    }

    /// Lets everyone through from now on.
    pub(super) fn open(&self) {
        self.pass.close();
    }

    pub(super) async fn enter(&self) {
        self.inside.fetch_add(1, Ordering::SeqCst);
        // An error means that the door is open.
        let _ = self.pass.acquire().await;
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn waiting(&self) -> u32 {
        self.inside.load(Ordering::SeqCst)
    }
}

/// A number that scenario and handlers share.
#[derive(Clone, Default)]
pub(super) struct Count(Arc<AtomicU32>);

impl Count {
    pub(super) fn up(&self) -> u32 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(super) fn set(&self, number: u32) {
        self.0.store(number, Ordering::SeqCst);
    }

    pub(super) fn get(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Writes the addresses of what a pattern matches, but for the bus's own events, which `#` matches too.
pub(super) struct Watcher(pub(super) Journal<String>);

impl RawSubscriber for Watcher {
    async fn handle(&mut self, message: RawMessage<'_>, _: &mut Context<'_>) -> Outcome {
        if !message.address().starts_with("postroom.") {
            self.0.write(message.address().to_owned());
        }
        Ok(())
    }
}

/// Polls a future once.
pub(super) fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Wake::from_waker(Waker::noop()))
}

/// So many attempts, with a wait of `wait` between them.
pub(super) fn attempts(attempts: u32, wait: Duration) -> Retry {
    Retry::fixed(wait).attempts(attempts)
}

/// An error of a handler that says nothing of what is to be done.
pub(super) fn plain_error() -> Failure {
    Failure::from(std::io::Error::other("on purpose"))
}
