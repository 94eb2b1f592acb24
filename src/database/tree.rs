use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix::{Actor, Addr, ArbiterHandle};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::delivery::{Restart, Strategy};
use crate::message::MessageId;
use crate::ports::{Condition, HealthSource, LifecycleKind, LocalBoxFuture, Problem};
use crate::queue::Services;
use crate::store::{DatabaseError, DatabaseProblem, Migrations, StoreLink, StoreSession, Told};
use crate::supervisor::{
    AddChild, ChildSpec, Life, OnExceeded, PartChild, Stop, StopAll, SupervisorActor,
    SupervisorSpec,
};

/// The longest that a part may take to stop.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// What a tree stands on.
#[derive(Clone)]
pub(crate) struct Wiring {
    pub(crate) service: String,
    pub(crate) migrations: Migrations,
    pub(crate) services: Arc<Services>,
    pub(crate) link: Arc<StoreLink>,
    /// Where the parts run, and their connections are.
    pub(crate) thread: ArbiterHandle,
}

/// Whether the tables are there.
#[derive(Clone, Debug)]
pub(crate) enum State {
    Unknown,
    Down(DatabaseError),
    Ready,
}

/// Parts under a supervisor. A part's life ends when its connection does, and the next one opens another.
pub(crate) struct Tree {
    pub(crate) name: Arc<str>,
    /// Tells what holds leases here from all others, also from those of the same service.
    pub(crate) holder: String,
    pub(crate) services: Arc<Services>,
    pub(crate) link: Arc<StoreLink>,
    migrations: Migrations,
    thread: ArbiterHandle,
    supervisor: Addr<SupervisorActor>,
    state: watch::Sender<State>,
    /// What is wrong, by part.
    troubles: Mutex<BTreeMap<&'static str, (DatabaseError, Instant)>>,
}

impl Tree {
    /// Of the service, and what of it the parts do.
    pub(crate) fn new(wiring: Wiring, what: &str) -> Arc<Self> {
        let Wiring {
            service,
            migrations,
            services,
            link,
            thread,
        } = wiring;
        let name: Arc<str> = format!("{service}.{what}").into();
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
        Arc::new(Self {
            name,
            holder: format!("{service}/{}", MessageId::new()),
            services,
            link,
            migrations,
            thread,
            supervisor,
            state: watch::Sender::new(State::Unknown),
            troubles: Mutex::default(),
        })
    }

    /// Starts a part of `owner`'s. Parts are stopped in reverse.
    pub(crate) async fn add<T, L>(
        self: &Arc<Self>,
        owner: &Arc<T>,
        part: &'static str,
        live: fn(Arc<T>, Stop) -> L,
    ) where
        T: Send + Sync + 'static,
        L: Future<Output = Result<(), DatabaseError>> + 'static,
    {
        let (tree, owner) = (Arc::clone(self), Arc::clone(owner));
        let life: Arc<Life> = Arc::new(move |stop| -> LocalBoxFuture<'static, _> {
            let tree = Arc::clone(&tree);
            let life = live(Arc::clone(&owner), stop);
            Box::pin(async move {
                life.await.map_err(|error| {
                    tree.failed(part, &error);
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
            format!("{}.{part}", self.name).into(),
            &self.thread,
            Arc::clone(&self.services.timers),
            life,
        ));
        let spec = Arc::new(spec);
        // A supervisor that is gone was stopped.
        let _ = self.supervisor.send(AddChild { child, spec }).await;
    }

    /// Waits until it is known whether the tables are there. Cancel safe.
    pub(crate) async fn known(&self) -> State {
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| !matches!(state, State::Unknown));
        // An error cannot be: the sender is here.
        known.await.map_or(State::Unknown, |known| known.clone())
    }

    /// A connection of a part's own, on which the tables are as they must be.
    pub(crate) async fn open(&self) -> Result<Box<dyn StoreSession>, DatabaseError> {
        let mut session = self.link.store.open().await?;
        match self.migrations {
            Migrations::Run => session.migrate().await?,
            Migrations::Assume => session.check().await?,
        }
        self.state.send_replace(State::Ready);
        Ok(session)
    }

    /// Notes what the database did not do. Told once for as long as it lasts.
    pub(crate) fn failed(&self, part: &'static str, error: &DatabaseError) {
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
            tracing::warn!(store = %self.name, part, %error, "the store's database fails");
        }
        if was_well {
            let why = Some(error.to_string());
            self.services
                .tell(&self.name, LifecycleKind::Disconnected, why);
        }
        // Only now, so that who waits for it finds the reason.
        self.state.send_if_modified(|state| {
            let is_first = matches!(state, State::Unknown);
            if is_first {
                *state = State::Down(error.clone());
            }
            is_first
        });
    }

    /// The database did what this part asked for.
    pub(crate) fn works(&self, part: &'static str) {
        let is_well_again = {
            let mut troubles = self.troubles.lock();
            troubles.remove(part).is_some() && troubles.is_empty()
        };
        if is_well_again {
            self.services
                .tell(&self.name, LifecycleKind::Connected, None);
        }
    }

    /// Whether the database did not do what this part asked for last.
    pub(crate) fn is_in_trouble(&self, part: &'static str) -> bool {
        self.troubles.lock().contains_key(part)
    }

    /// What is wrong, if anything is.
    pub(crate) fn trouble(&self) -> Option<String> {
        let troubles = self.troubles.lock();
        let (error, _) = troubles.values().next()?;
        Some(error.to_string())
    }

    /// Whether the database tells of what is written, so that there is a part to be for [`listen`](Self::listen).
    pub(crate) fn is_told(&self, to: Told) -> bool {
        self.link.store.listen(to).is_some()
    }

    /// The life of a part that listens: `heard` at its beginning, for what was written before, and for what is written from
    /// then on, also by other processes.
    pub(crate) async fn listen(
        &self,
        to: Told,
        mut stop: Stop,
        heard: impl Fn(),
    ) -> Result<(), DatabaseError> {
        let Some(listening) = self.link.store.listen(to) else {
            stop.asked().await;
            return Ok(());
        };
        let mut listener = listening.await?;
        self.works("listener");
        loop {
            heard();
            tokio::select! {
                told = listener.heard() => told?,
                () = stop.asked() => return Ok(()),
            }
        }
    }

    /// Stops the parts, last first.
    pub(crate) async fn stop(&self, deadline: Duration) {
        let stop = self.supervisor.send(StopAll { deadline });
        // By real time, so that a manual clock can not hold up the end.
        let _ = tokio::time::timeout(deadline, stop).await;
    }

    /// Runs something with a connection of its own, on the thread of the parts.
    pub(crate) async fn with_session<T: Send + 'static>(
        &self,
        work: impl AsyncFnOnce(&mut dyn StoreSession) -> Result<T, DatabaseError> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let (done, wait) = tokio::sync::oneshot::channel();
        let link = Arc::clone(&self.link);
        self.thread.spawn_fn(move || {
            actix::spawn(async move {
                let worked = async {
                    let mut session = link.store.open().await?;
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

impl HealthSource for Tree {
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
