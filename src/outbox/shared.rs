use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix::{Actor, Addr, ArbiterHandle};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::config::Relay;
use super::lanes::Lanes;
use super::memory::Memory;
use super::relay::Landed;
use super::{keeper, lease, relay};
use crate::broker::Broker;
use crate::delivery::{Restart, Strategy};
use crate::message::MessageId;
use crate::ports::{Condition, HealthSource, LifecycleKind, LocalBoxFuture, Problem, WhenDown};
use crate::queue::Services;
use crate::store::{DatabaseError, Migrations, StoreLink, StoreSession};
use crate::supervisor::{
    AddChild, ChildSpec, Life, OnExceeded, PartChild, Stop, StopAll, SupervisorActor,
    SupervisorSpec,
};

/// The longest that a part may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest that the start of a bus waits to know how its database is.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// What the builder was told.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) relay: Relay,
    pub(crate) migrations: Migrations,
    pub(crate) when_down: WhenDown,
}

/// What the parts share, and what outlives each of their lives.
pub(crate) struct Shared {
    pub(super) name: Arc<str>,
    /// Tells this relay from all others, also from one of the same service.
    pub(super) holder: String,
    pub(super) settings: Settings,
    pub(super) broker: Arc<Broker>,
    pub(super) link: Arc<StoreLink>,
    pub(super) thread: ArbiterHandle,
    supervisor: Addr<SupervisorActor>,
    pub(super) lanes: Mutex<Lanes>,
    /// Rung when lanes were won, or rows landed that a leaving lane waits for.
    pub(super) lanes_changed: tokio::sync::Notify,
    pub(super) memory: Mutex<Memory>,
    /// What lands, also between two lives of the relay.
    pub(super) landed: mpsc::UnboundedSender<Landed>,
    pub(super) landing: tokio::sync::Mutex<mpsc::UnboundedReceiver<Landed>>,
    /// Whether the relay was started.
    pub(super) started: watch::Sender<bool>,
    state: watch::Sender<State>,
    /// What is wrong, by part.
    troubles: Mutex<BTreeMap<&'static str, (DatabaseError, Instant)>>,
}

/// Whether the tables are there.
#[derive(Clone, Debug)]
enum State {
    Unknown,
    Down(DatabaseError),
    Ready,
}

/// Starts the tree of a store: it makes the tables, and waits a moment to know whether it could.
pub(crate) async fn start(
    service: &str,
    settings: Settings,
    broker: &Arc<Broker>,
    link: &Arc<StoreLink>,
    thread: ArbiterHandle,
) -> Result<Arc<Shared>, DatabaseError> {
    let services = &broker.services;
    let root = SupervisorActor::new(
        SupervisorSpec {
            name: format!("{service}.store").into(),
            strategy: Strategy::OneForOne,
            on_exceeded: OnExceeded::Suspend,
        },
        Arc::clone(&services.timers),
        Arc::clone(&services.lifecycle),
    );
    let supervisor = SupervisorActor::start_in_arbiter(&services.control, move |_| root);
    let (landed, landing) = mpsc::unbounded_channel();
    let starts_with_bus = settings.relay.starts_with_bus;
    let when_down = settings.when_down;
    let shared = Arc::new(Shared {
        name: format!("{service}.store").into(),
        holder: format!("{service}/{}", MessageId::new()),
        settings,
        broker: Arc::clone(broker),
        link: Arc::clone(link),
        thread,
        supervisor,
        lanes: Mutex::default(),
        lanes_changed: tokio::sync::Notify::new(),
        memory: Mutex::default(),
        landed,
        landing: tokio::sync::Mutex::new(landing),
        started: watch::Sender::new(starts_with_bus),
        state: watch::Sender::new(State::Unknown),
        troubles: Mutex::default(),
    });
    // Stopped in reverse: the lanes are given up when the relay has marked what it published.
    shared.add("lease", lease::live).await;
    shared.add("relay", relay::live).await;
    shared.add("keeper", keeper::live).await;
    let known = tokio::time::timeout(FIRST_LOOK, shared.known()).await;
    if when_down == WhenDown::Fail {
        let why = match known {
            Ok(State::Down(error)) => Some(error),
            Ok(_) => None,
            Err(_) => Some(DatabaseError::new(
                crate::store::DatabaseProblem::Timeout,
                "start",
                format!("no answer within {FIRST_LOOK:?}"),
            )),
        };
        if let Some(why) = why {
            shared.close(Duration::from_millis(200)).await;
            return Err(why);
        }
    }
    Ok(shared)
}

impl Shared {
    async fn add<L>(self: &Arc<Self>, what: &'static str, live: fn(Arc<Self>, Stop) -> L)
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
            Arc::clone(&self.broker.services.timers),
            life,
        ));
        let spec = Arc::new(spec);
        // A supervisor that is gone was stopped.
        let _ = self.supervisor.send(AddChild { child, spec }).await;
    }

    /// Waits until it is known whether the tables are there.
    async fn known(&self) -> State {
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| !matches!(state, State::Unknown));
        // An error cannot be: the sender is here.
        known.await.map_or(State::Unknown, |known| known.clone())
    }

    pub(super) fn services(&self) -> &Services {
        &self.broker.services
    }

    /// A connection of a part's own, on which the tables are as they must be.
    pub(super) async fn open(&self) -> Result<Box<dyn StoreSession>, DatabaseError> {
        let opened = async {
            let mut session = self.link.store.open().await?;
            match self.settings.migrations {
                Migrations::Run => session.migrate().await?,
                Migrations::Assume => session.check().await?,
            }
            Ok::<_, DatabaseError>(session)
        };
        let session = opened.await?;
        self.state.send_replace(State::Ready);
        Ok(session)
    }

    /// Notes what the database did not do. Told once for as long as it lasts.
    pub(super) fn failed(&self, part: &'static str, error: &DatabaseError) {
        self.link
            .counts
            .database_errors
            .fetch_add(1, Ordering::Relaxed);
        let (is_first, was_well) = {
            let mut troubles = self.troubles.lock();
            let was_well = troubles.is_empty();
            let since = troubles.get(part).map(|(_, since)| *since);
            let entry = (error.clone(), since.unwrap_or_else(Instant::now));
            (troubles.insert(part, entry).is_none(), was_well)
        };
        if is_first {
            tracing::warn!(part, %error, "the store's database fails");
        }
        if was_well {
            let why = Some(error.to_string());
            self.services()
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
    pub(super) fn works(&self, part: &'static str) {
        let is_well_again = {
            let mut troubles = self.troubles.lock();
            troubles.remove(part).is_some() && troubles.is_empty()
        };
        if is_well_again {
            self.services()
                .tell(&self.name, LifecycleKind::Connected, None);
        }
    }

    /// Stops claiming, waits for what is on its way, marks it, and gives the lanes up.
    pub(crate) async fn close(&self, deadline: Duration) {
        let stop = self.supervisor.send(StopAll { deadline });
        // By real time, so that a manual clock can not hold up the end.
        let _ = tokio::time::timeout(deadline, stop).await;
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
                crate::store::DatabaseProblem::Unreachable,
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
        self.link.examine(found);
        if !*self.started.borrow() {
            found.push(Condition::new(&self.name, Problem::RelayNotStarted));
        }
    }
}
