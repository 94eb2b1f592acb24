use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::config::Relay;
use super::flights::Flights;
use super::landing::Landed;
use super::lanes::Lanes;
use super::memory::Memory;
use super::{keeper, lease, listener, relay};
use crate::broker::Broker;
use crate::database::{STOP_TIMEOUT, State, Tree, Wiring};
use crate::ports::{Condition, HealthSource, Problem, WhenDown};
use crate::store::{DatabaseError, DatabaseProblem, Migrations, Told};

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
    pub(super) tree: Arc<Tree>,
    pub(super) settings: Settings,
    pub(super) broker: Arc<Broker>,
    pub(super) lanes: Mutex<Lanes>,
    /// Rung when lanes were won, or rows landed that a leaving lane waits for.
    pub(super) lanes_changed: tokio::sync::Notify,
    pub(super) memory: Mutex<Memory>,
    pub(super) flights: Arc<Flights>,
    /// What lands, also between two lives of the relay.
    pub(super) landed: mpsc::UnboundedSender<Landed>,
    pub(super) landing: tokio::sync::Mutex<mpsc::UnboundedReceiver<Landed>>,
    /// Whether the relay was started.
    pub(super) started: watch::Sender<bool>,
}

/// Starts the tree of a store: it makes the tables, and waits a moment to know whether it could.
pub(crate) async fn start(
    wiring: Wiring,
    settings: Settings,
    broker: &Arc<Broker>,
) -> Result<Arc<Shared>, DatabaseError> {
    let (landed, landing) = mpsc::unbounded_channel();
    let starts_with_bus = settings.relay.starts_with_bus;
    let when_down = settings.when_down;
    let shared = Arc::new(Shared {
        tree: Tree::new(wiring, "store"),
        settings,
        broker: Arc::clone(broker),
        lanes: Mutex::default(),
        lanes_changed: tokio::sync::Notify::new(),
        memory: Mutex::default(),
        flights: Arc::default(),
        landed,
        landing: tokio::sync::Mutex::new(landing),
        started: watch::Sender::new(starts_with_bus),
    });
    // Stopped in reverse: the lanes are given up when the relay has marked what it published.
    let tree = &shared.tree;
    tree.add(&shared, "lease", lease::live).await;
    tree.add(&shared, "relay", relay::live).await;
    tree.add(&shared, "keeper", keeper::live).await;
    if tree.is_told(Told::Outbox) {
        tree.add(&shared, "listener", listener::live).await;
    }
    let known = tokio::time::timeout(FIRST_LOOK, tree.known()).await;
    if when_down == WhenDown::Fail {
        let why = match known {
            Ok(State::Down(error)) => Some(error),
            Ok(_) => None,
            Err(_) => Some(DatabaseError::new(
                DatabaseProblem::Timeout,
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
    /// Sends nothing more, waits for what is on its way, marks it, and gives the lanes up. While it waits the relay marks
    /// what lands, and the lanes are renewed.
    pub(crate) async fn close(&self, deadline: Duration) {
        let begun = Instant::now();
        self.memory.lock().close(&mut self.lanes.lock());
        // The parts, the lease among them, and what else is to be stopped need some of the time too.
        let rest = (STOP_TIMEOUT * 2).max(deadline / 4);
        let landed = self.flights.all_landed();
        let _ = tokio::time::timeout(deadline.saturating_sub(rest), landed).await;
        let left = deadline.saturating_sub(begun.elapsed());
        self.tree.stop(left).await;
    }
}

impl HealthSource for Shared {
    fn examine(&self, found: &mut Vec<Condition>) {
        self.tree.examine(found);
        self.tree.link.examine(found);
        if !*self.started.borrow() {
            found.push(Condition::new(&self.tree.name, Problem::RelayNotStarted));
        }
    }
}
