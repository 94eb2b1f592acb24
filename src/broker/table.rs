use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use parking_lot::Mutex;

use super::trie::TopicTrie;
use super::{Bridge, Route};
use crate::message::{AddressKind, validate_topic};
use crate::queue::{Foundation, QueueCore, QueueSpec, Services};

/// The most addresses whose route is kept; topics made at run time may be without end.
const KEPT: usize = 10_000;

/// Which queues there are and what they are bound to. Read on every publish through kept routes; written
/// only when a subscription starts or stops.
#[derive(Default)]
pub(crate) struct RoutingTable {
    bridge: Option<Arc<dyn Bridge>>,
    generation: AtomicU64,
    routes: DashMap<(AddressKind, Box<str>), Arc<Route>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    topics: TopicTrie,
    queues: HashMap<u64, Group>,
    by_name: HashMap<Arc<str>, u64>,
    commands: HashMap<Box<str>, u64>,
    next: u64,
}

struct Group {
    queue: Arc<QueueCore>,
    members: usize,
}

/// Why a member can not join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SubscribeRefusal {
    Mismatch { what: &'static str },
    CommandTaken { queue: String, by: String },
}

impl RoutingTable {
    pub(crate) fn new(bridge: Option<Arc<dyn Bridge>>) -> Self {
        Self {
            bridge,
            ..Self::default()
        }
    }

    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn route(&self, kind: AddressKind, address: &str) -> Arc<Route> {
        let generation = self.generation();
        let key = (kind, Box::from(address));
        if let Some(route) = self.routes.get(&key)
            && route.generation == generation
        {
            return Arc::clone(&route);
        }
        super::clear_left_behind();
        let route = {
            let state = self.state.lock();
            // Under the lock the generation can not change.
            let generation = self.generation();
            let queue = |id: &u64| state.queues.get(id).map(|group| Arc::clone(&group.queue));
            let found: Vec<_> = match kind {
                // Nobody, whatever its patterns: the publisher is told when it finds no queue.
                AddressKind::Topic if validate_topic(address).is_err() => Vec::new(),
                AddressKind::Topic => state
                    .topics
                    .matches(address)
                    .iter()
                    .filter_map(queue)
                    .collect(),
                AddressKind::Queue => state
                    .commands
                    .get(address)
                    .and_then(queue)
                    .into_iter()
                    .collect(),
            };
            // What a bridged queue wants goes out, and comes back by RabbitMQ: one way, so that nothing comes twice.
            let (bridged, targets): (Vec<_>, Vec<_>) = found
                .into_iter()
                .partition(|queue| queue.backing().is_bridged());
            let exports = || {
                self.bridge
                    .as_ref()
                    .is_some_and(|bridge| bridge.exports(kind, address))
            };
            let exported = !bridged.is_empty() || exports();
            Arc::new(Route::new(targets, exported, generation))
        };
        if self.routes.len() >= KEPT {
            self.routes.clear();
        }
        self.routes.insert(key, Arc::clone(&route));
        route
    }

    /// Adds a member to its group, which is made if this is the first.
    pub(crate) fn join(
        &self,
        name: &str,
        spec: QueueSpec,
        services: &Arc<Services>,
        foundation: Arc<Foundation>,
    ) -> Result<Arc<QueueCore>, SubscribeRefusal> {
        let mut state = self.state.lock();
        if let Some(id) = state.by_name.get(name).copied()
            && let Some(group) = state.queues.get_mut(&id)
        {
            if let Some(what) = group.queue.spec.mismatch(&spec) {
                return Err(SubscribeRefusal::Mismatch { what });
            }
            group.members += 1;
            return Ok(Arc::clone(&group.queue));
        }
        for command in &spec.commands {
            if let Some(owner) = state.commands.get(command.as_str()) {
                let by = state
                    .queues
                    .get(owner)
                    .map(|group| group.queue.name.to_string());
                return Err(SubscribeRefusal::CommandTaken {
                    queue: command.as_str().to_owned(),
                    by: by.unwrap_or_default(),
                });
            }
        }
        state.next += 1;
        let id = state.next;
        let name: Arc<str> = name.into();
        let queue = QueueCore::new(
            id,
            Arc::clone(&name),
            Arc::new(spec),
            Arc::clone(services),
            foundation,
        );
        for pattern in &queue.spec.patterns {
            state.topics.insert(pattern, id);
        }
        for command in &queue.spec.commands {
            state.commands.insert(command.as_str().into(), id);
        }
        state.by_name.insert(name, id);
        state.queues.insert(
            id,
            Group {
                queue: Arc::clone(&queue),
                members: 1,
            },
        );
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(queue)
    }

    /// Takes the group out of all routes, if its last member leaves. True: it was the last.
    pub(crate) fn leave(&self, queue: &QueueCore) -> bool {
        let mut state = self.state.lock();
        let Some(group) = state.queues.get_mut(&queue.id) else {
            return false;
        };
        group.members -= 1;
        if group.members > 0 {
            return false;
        }
        for pattern in &queue.spec.patterns {
            state.topics.remove(pattern, queue.id);
        }
        for command in &queue.spec.commands {
            state.commands.remove(command.as_str());
        }
        state.by_name.remove(&queue.name);
        state.queues.remove(&queue.id);
        self.generation.fetch_add(1, Ordering::AcqRel);
        true
    }

    pub(crate) fn queues(&self) -> Vec<Arc<QueueCore>> {
        let state = self.state.lock();
        let mut queues: Vec<_> = state
            .queues
            .values()
            .map(|group| Arc::clone(&group.queue))
            .collect();
        queues.sort_by_key(|queue| queue.id);
        queues
    }

    pub(crate) fn queue(&self, id: u64) -> Option<Arc<QueueCore>> {
        self.state
            .lock()
            .queues
            .get(&id)
            .map(|group| Arc::clone(&group.queue))
    }

    pub(crate) fn queue_named(&self, name: &str) -> Option<Arc<QueueCore>> {
        let state = self.state.lock();
        let id = state.by_name.get(name)?;
        state.queues.get(id).map(|group| Arc::clone(&group.queue))
    }

    pub(crate) fn members(&self, id: u64) -> usize {
        self.state
            .lock()
            .queues
            .get(&id)
            .map_or(0, |group| group.members)
    }
}
