//! The local broker: which queues a message goes to, all-or-nothing acceptance, schedules.

mod accept;
mod bridge;
mod checks;
mod dead_letters;
mod health;
mod outgoing;
mod route;
mod schedule;
mod schedules;
mod stored;
mod table;
mod trie;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use tokio::sync::Notify;

pub(crate) use accept::{Accepted, Stop, accept_everywhere};
pub(crate) use bridge::{Bridge, Home};
pub(crate) use dead_letters::DeadLetterSource;
pub(crate) use route::{Route, clear_left_behind, forget_routes};
pub use schedule::Schedule;
pub use schedules::ScheduleLedger;
pub(crate) use stored::Stored;
pub(crate) use table::{RoutingTable, SubscribeRefusal};

use crate::message::{Address, AddressKind, Envelope, Event, Name, parcel};
use crate::ports::DeadLetterStore;
use crate::queue::{QueueCore, Services};
use schedules::Schedules;

/// Limits of one bus.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) schedule_capacity: usize,
    pub(crate) body_limit: Option<usize>,
    /// Every message is handed over as its JSON, as over AMQP. Set together with a body limit, which makes
    /// every publish encode its body before it is accepted.
    pub(crate) encode_always: bool,
}

/// Who may still publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Gate {
    Open,
    /// Handlers' releases only.
    Draining,
    Closed,
}

pub(crate) struct Broker {
    pub(crate) id: u64,
    pub(crate) services: Arc<Services>,
    pub(crate) table: RoutingTable,
    pub(crate) bridge: Option<Arc<dyn Bridge>>,
    pub(crate) stored: Option<Arc<dyn Stored>>,
    /// Those in memory.
    dead_letters: Arc<dyn DeadLetterStore>,
    pub(crate) limits: Limits,
    pub(crate) schedules: Schedules,
    /// System events that a full subscriber missed.
    pub(crate) missed_events: AtomicU64,
    gate: AtomicU8,
    /// Whoever waits for room in the store looks whether it is still admitted.
    narrowed: Notify,
    this: std::sync::Weak<Self>,
}

impl Broker {
    pub(crate) fn new(
        services: Arc<Services>,
        limits: Limits,
        bridge: Option<Arc<dyn Bridge>>,
        stored: Option<Arc<dyn Stored>>,
        dead_letters: Arc<dyn DeadLetterStore>,
    ) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            services,
            table: RoutingTable::new(bridge.clone()),
            bridge,
            stored,
            dead_letters,
            schedules: Schedules::default(),
            limits,
            missed_events: AtomicU64::new(0),
            gate: AtomicU8::new(Gate::Open as u8),
            narrowed: Notify::new(),
        })
    }

    pub(crate) fn shared(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }

    /// Never wider than it is: a second shutdown finds it closed.
    pub(crate) fn narrow_gate(&self, gate: Gate) {
        self.gate.fetch_max(gate as u8, Ordering::AcqRel);
        self.narrowed.notify_waiters();
    }

    pub(crate) fn gate(&self) -> Gate {
        match self.gate.load(Ordering::Acquire) {
            0 => Gate::Open,
            1 => Gate::Draining,
            _ => Gate::Closed,
        }
    }

    /// Whether a publish through a gate this wide is still accepted.
    #[inline]
    pub(crate) fn admits(&self, from: Gate) -> bool {
        self.gate.load(Ordering::Acquire) <= from as u8
    }

    /// Whether nothing looks at messages on their way in.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.services.interceptors.is_empty() && self.limits.body_limit.is_none()
    }

    /// Publishes an event of ours, without waiting. Only to those who ask for it by name: what a `#` hears may
    /// make it fail, and its failure make another event. Who is full misses it, and the others do not.
    pub(crate) fn emit<E: Event + Clone>(&self, event: &E) {
        let all = self.table.route(AddressKind::Topic, E::TOPIC);
        let asked = |queue: &&Arc<QueueCore>| {
            let mut patterns = queue.spec.patterns.iter();
            patterns.any(|pattern| {
                pattern.as_str().starts_with("postroom.") && pattern.matches(E::TOPIC)
            })
        };
        let mut targets: Vec<_> = all.targets.iter().filter(asked).cloned().collect();
        let id = self.services.clock.new_id();
        while !targets.is_empty() {
            let route = Route::new(targets.clone(), false, all.generation);
            let made = || {
                let address = Address {
                    kind: AddressKind::Topic,
                    name: Name::Static(E::TOPIC),
                };
                let envelope = Envelope {
                    id,
                    address,
                    metadata: None,
                };
                self.encoded(parcel(envelope, event.clone()))
            };
            let missing = match self.accept(&route, None, None, None, made) {
                Ok(_) => return,
                Err(Stop::Wait(place) | Stop::Refused(Some(place), _)) => Some(place),
                Err(Stop::Stale | Stop::Refused(None, _)) => None,
            };
            if let Some(place) = missing {
                targets.remove(place);
                self.missed_events.fetch_add(1, Ordering::Relaxed);
            } else {
                targets.retain(|queue| !queue.mailbox.is_closed());
                if targets.len() == route.targets.len() {
                    return;
                }
            }
        }
    }
}
