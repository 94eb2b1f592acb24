use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use actix::{Actor, Addr, ArbiterHandle};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use super::config::Durable;
use super::letters::Ledger;
use super::queue::{Replies, StoreQueue};
use super::writes::Writes;
use super::{consumer, lease, writer};
use crate::delivery::{Restart, Strategy};
use crate::message::MessageId;
use crate::ports::{ChildId, Condition, HealthSource, LifecycleKind, LocalBoxFuture, Problem};
use crate::queue::Services;
use crate::store::{DatabaseError, DatabaseProblem, Migrations, StoreLink, StoreSession};
use crate::supervisor::{
    AddChild, ChildSpec, Life, OnExceeded, PartChild, Stop, StopAll, SupervisorActor,
    SupervisorSpec,
};

/// The longest that a part may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// The most messages of publishers that wait to be written.
const MOST_WAITING: usize = 8192;
/// How often it is looked whether something has been written.
const LOOK: Duration = Duration::from_millis(2);

/// What durable queues are made of.
pub(crate) struct Wiring {
    pub(crate) service: String,
    pub(crate) settings: Durable,
    pub(crate) migrations: Migrations,
    pub(crate) services: Arc<Services>,
    pub(crate) link: Arc<StoreLink>,
    pub(crate) thread: ArbiterHandle,
}

/// What the parts share, and what outlives each of their lives.
pub(crate) struct Shared {
    pub(super) name: Arc<str>,
    /// Tells this process from all others, also from one of the same service.
    pub(super) holder: String,
    pub(super) settings: Durable,
    migrations: Migrations,
    pub(super) services: Arc<Services>,
    link: Arc<StoreLink>,
    thread: ArbiterHandle,
    supervisor: Addr<SupervisorActor>,
    queues: Mutex<BTreeMap<Arc<str>, Arc<StoreQueue>>>,
    /// Queues to be given up.
    leaving: Mutex<Vec<String>>,
    pub(super) writes: Arc<Writes>,
    pub(super) replies: Arc<Replies>,
    pub(super) waiting: Semaphore,
    pub(super) look: Arc<Notify>,
    pub(super) lease_changed: Notify,
    pub(super) letters: Ledger,
    /// Whether the parts run: they start with the first queue.
    is_started: tokio::sync::Mutex<bool>,
    /// What is wrong, by part.
    troubles: Mutex<BTreeMap<&'static str, (DatabaseError, Instant)>>,
    pub(super) this: Weak<Self>,
}

impl Shared {
    pub(crate) fn new(wiring: Wiring) -> Arc<Self> {
        let Wiring {
            service,
            settings,
            migrations,
            services,
            link,
            thread,
        } = wiring;
        let name: Arc<str> = format!("{service}.queues").into();
        let root = SupervisorActor::new(
            SupervisorSpec {
                name: Arc::clone(&name),
                strategy: Strategy::OneForOne,
                on_exceeded: OnExceeded::Suspend,
            },
            Arc::clone(&services.timers),
            Arc::clone(&services.lifecycle),
        );
        let supervisor = SupervisorActor::start_in_arbiter(&services.control, move |_| root);
        Arc::new_cyclic(|this| Self {
            name,
            holder: format!("{service}/{}", MessageId::new()),
            settings,
            migrations,
            services,
            link,
            thread,
            supervisor,
            queues: Mutex::default(),
            leaving: Mutex::default(),
            writes: Arc::new(Writes::new()),
            replies: Arc::default(),
            waiting: Semaphore::new(MOST_WAITING),
            look: Arc::default(),
            lease_changed: Notify::new(),
            letters: Ledger::default(),
            is_started: tokio::sync::Mutex::new(false),
            troubles: Mutex::default(),
            this: this.clone(),
        })
    }

    /// Starts the parts, unless they run.
    pub(super) async fn start(self: &Arc<Self>) {
        let mut is_started = self.is_started.lock().await;
        if !std::mem::replace(&mut *is_started, true) {
            // Stopped in reverse: queues are given up when everything is written.
            self.add("lease", lease::live).await;
            self.add("writer", writer::live).await;
            self.add("consumer", consumer::live).await;
        }
    }

    async fn add<L>(
        self: &Arc<Self>,
        what: &'static str,
        live: fn(Arc<Self>, Stop) -> L,
    ) -> Option<ChildId>
    where
        L: Future<Output = Result<(), DatabaseError>> + 'static,
    {
        let here = Arc::clone(self);
        let life: Arc<Life> = Arc::new(move |stop| -> LocalBoxFuture<'static, _> {
            let here = Arc::clone(&here);
            Box::pin(async move {
                let ended = live(Arc::clone(&here), stop).await;
                ended.map_err(|error| {
                    here.failed(what, &error);
                    error.to_string()
                })
            })
        });
        let spec = ChildSpec {
            restart: Restart::Permanent,
            intensity: u32::MAX,
            period: Duration::from_secs(30),
            backoff_initial: Duration::from_millis(50),
            backoff_cap: Duration::from_secs(2),
            stop_timeout: STOP_TIMEOUT,
        };
        let child = Box::new(PartChild::new(
            format!("{}.{what}", self.name).into(),
            &self.thread,
            Arc::clone(&self.services.timers),
            life,
        ));
        let spec = Arc::new(spec);
        // A supervisor that is gone was stopped.
        self.supervisor.send(AddChild { child, spec }).await.ok()?
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
        let end = Instant::now() + STOP_TIMEOUT;
        while !is_so() && Instant::now() < end {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A connection of a part's own, on which the tables are as they must be.
    pub(super) async fn open(&self) -> Result<Box<dyn StoreSession>, DatabaseError> {
        let mut session = self.link.store.open().await?;
        match self.migrations {
            Migrations::Run => session.migrate().await?,
            Migrations::Assume => session.check().await?,
        }
        Ok(session)
    }

    /// Notes what the database did not do. Told once for as long as it lasts.
    pub(super) fn failed(&self, part: &'static str, error: &DatabaseError) {
        let errors = &self.link.counts.database_errors;
        errors.fetch_add(1, Ordering::Relaxed);
        let (is_first, was_well) = {
            let mut troubles = self.troubles.lock();
            let was_well = troubles.is_empty();
            let since = troubles.get(part).map(|(_, since)| *since);
            let entry = (error.clone(), since.unwrap_or_else(Instant::now));
            (troubles.insert(part, entry).is_none(), was_well)
        };
        if is_first {
            tracing::warn!(part, %error, "the database of durable queues fails");
        }
        if was_well {
            let why = Some(error.to_string());
            self.services
                .tell(&self.name, LifecycleKind::Disconnected, why);
        }
    }

    /// The database did what this part asked for.
    pub(super) fn works(&self, part: &'static str) {
        let is_well_again = {
            let mut troubles = self.troubles.lock();
            troubles.remove(part).is_some() && troubles.is_empty()
        };
        if is_well_again {
            self.services
                .tell(&self.name, LifecycleKind::Connected, None);
        }
    }

    pub(super) fn trouble(&self) -> Option<String> {
        let troubles = self.troubles.lock();
        let (error, _) = troubles.values().next()?;
        Some(error.to_string())
    }

    /// Stops to hand out, writes what is left, and gives the queues up.
    pub(super) async fn end(&self, deadline: Duration) {
        let stop = self.supervisor.send(StopAll { deadline });
        // By real time, so that a manual clock can not hold up the end.
        let _ = tokio::time::timeout(deadline, stop).await;
        self.writes.close();
        self.queues.lock().clear();
    }

    /// Runs something with a connection of its own, on the thread of the store.
    pub(super) async fn with_session<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl AsyncFnOnce(&mut dyn StoreSession) -> Result<T, DatabaseError> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let (done, wait) = tokio::sync::oneshot::channel();
        let here = Arc::clone(self);
        self.thread.spawn_fn(move || {
            actix::spawn(async move {
                let worked = async {
                    let mut session = here.link.store.open().await?;
                    work(&mut *session).await
                };
                // Who asked may have gone.
                let _ = done.send(worked.await);
            });
        });
        let closed = || {
            DatabaseError::new(
                DatabaseProblem::Unreachable,
                "be asked",
                "the bus is shut down",
            )
        };
        wait.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl HealthSource for Shared {
    fn examine(&self, found: &mut Vec<Condition>) {
        if let Some((error, since)) = self.troubles.lock().values().next() {
            found.push(Condition {
                detail: Some(error.to_string()),
                lasts: Some(since.elapsed()),
                ..Condition::new(&self.name, Problem::Database)
            });
        }
    }
}
