use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use super::config::Durable;
use super::letters::{Ledger, MemoryLetters};
use super::queue::StoreQueue;
use super::replies::Replies;
use super::writes::Writes;
use super::{consumer, lease, listener, writer};
use crate::database::{Tree, Wiring};
use crate::ports::{Condition, HealthSource};
use crate::queue::{Foundation, Memory};
use crate::store::Told;

/// The longest that is waited for what is settled to be written.
const LAST_WRITES: Duration = Duration::from_secs(2);
/// The most messages of publishers that wait to be written.
const MOST_WAITING: usize = 8192;
/// How often it is looked whether something has been written.
const LOOK: Duration = Duration::from_millis(2);

/// What the parts share, and what outlives each of their lives.
pub(crate) struct Shared {
    pub(super) tree: Arc<Tree>,
    pub(super) settings: Durable,
    queues: Mutex<BTreeMap<Arc<str>, Arc<StoreQueue>>>,
    /// Queues to be given up.
    leaving: Mutex<Vec<String>>,
    pub(super) writes: Arc<Writes>,
    pub(super) replies: Arc<Replies>,
    pub(super) waiting: Arc<Semaphore>,
    pub(super) look: Arc<Notify>,
    pub(super) lease_changed: Notify,
    pub(super) letters: Ledger,
    /// What queues in memory stand on, shared by all of them.
    pub(super) memory: Arc<Foundation>,
    /// Whether the parts run: they start with the first queue.
    is_started: tokio::sync::Mutex<bool>,
    pub(super) this: Weak<Self>,
}

impl Shared {
    pub(crate) fn new(wiring: Wiring, settings: Durable) -> Arc<Self> {
        let tree = Tree::new(wiring, "queues");
        Arc::new_cyclic(|this| Self {
            tree,
            settings,
            queues: Mutex::default(),
            leaving: Mutex::default(),
            writes: Arc::new(Writes::new()),
            replies: Arc::default(),
            waiting: Arc::new(Semaphore::new(MOST_WAITING)),
            look: Arc::default(),
            lease_changed: Notify::new(),
            letters: Ledger::default(),
            memory: Arc::new(Foundation {
                backing: Arc::new(Memory),
                dead_letters: Arc::new(MemoryLetters(this.clone())),
            }),
            is_started: tokio::sync::Mutex::new(false),
            this: this.clone(),
        })
    }

    /// Starts the parts, unless they run.
    pub(super) async fn start(self: &Arc<Self>) {
        let mut is_started = self.is_started.lock().await;
        if !std::mem::replace(&mut *is_started, true) {
            // Stopped in reverse: queues are given up when everything is written.
            self.tree.add(self, "lease", lease::live).await;
            self.tree.add(self, "writer", writer::live).await;
            self.tree.add(self, "consumer", consumer::live).await;
            if self.tree.is_told(Told::Queues) {
                self.tree.add(self, "listener", listener::live).await;
            }
        }
    }

    /// The queue of a group, made at its first use. It is kept for as long as a subscription, also one that ends or has
    /// not begun yet, stands on it: each of a name stands on the same.
    pub(super) fn found_queue(&self, name: &str) -> Arc<StoreQueue> {
        let mut queues = self.queues.lock();
        queues.retain(|_, queue| queue.is_attached() || Arc::strong_count(queue) > 1);
        if let Some(known) = queues.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        let (writes, look) = (Arc::clone(&self.writes), Arc::clone(&self.look));
        let replies = Arc::clone(&self.replies);
        let queue = Arc::new(StoreQueue::new(Arc::clone(&name), writes, look, replies));
        queues.insert(name, Arc::clone(&queue));
        queue
    }

    pub(super) fn queue(&self, name: &str) -> Option<Arc<StoreQueue>> {
        self.queues.lock().get(name).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<StoreQueue>> {
        self.queues.lock().values().cloned().collect()
    }

    /// Those that are consumed here.
    pub(super) fn attached(&self) -> Vec<Arc<StoreQueue>> {
        let queues = self.queues.lock();
        let attached = queues.values().filter(|queue| queue.is_attached());
        attached.cloned().collect()
    }

    pub(super) fn leave(&self, name: &str) {
        self.leaving.lock().push(name.to_owned());
        self.lease_changed.notify_one();
    }

    pub(super) fn leaving(&self) -> Vec<String> {
        self.leaving.lock().clone()
    }

    /// They are given up.
    pub(super) fn left(&self, gone: &[String]) {
        self.leaving.lock().retain(|name| !gone.contains(name));
    }

    /// Waits until something is so, but not for ever.
    pub(super) async fn until(&self, mut is_so: impl FnMut() -> bool) {
        let end = Instant::now() + LAST_WRITES;
        while !is_so() && Instant::now() < end {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Stops to hand out, writes what is left, and gives the queues up.
    pub(super) async fn end(&self, deadline: Duration) {
        self.tree.stop(deadline).await;
        self.writes.close();
        self.queues.lock().clear();
    }
}

impl HealthSource for Shared {
    fn examine(&self, found: &mut Vec<Condition>) {
        self.tree.examine(found);
    }
}
