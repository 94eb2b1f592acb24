use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use actix::{Addr, ArbiterHandle};
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use parking_lot::Mutex;

use super::config::{Amqp, Checked};
use super::dead_letters::AmqpDeadLetters;
use super::delay;
use super::explained;
use super::link::Link;
use super::publisher::Publisher;
use super::queue::AmqpQueue;
use super::replies::Replies;
use super::topology::{self, GroupNames, Names, Plan, SubscriptionShape, TopologyError};
use super::wire::{Exchanges, WireFormat};
use crate::ports::{ChildId, Refusal};
use crate::queue::{QueueSpec, Services};
use crate::supervisor::SupervisorActor;

/// What the parts of one bridge share, and what outlives each of their lives.
pub(super) struct Shared {
    pub(super) this: Weak<Self>,
    pub(super) service: String,
    /// Tells the replicas of a service apart.
    pub(super) instance: String,
    pub(super) amqp: Amqp,
    pub(super) config: Checked,
    pub(super) names: Names,
    pub(super) services: Arc<Services>,
    pub(super) thread: ArbiterHandle,
    pub(super) supervisor: Addr<SupervisorActor>,
    pub(super) publish_link: Arc<Link>,
    pub(super) consume_link: Arc<Link>,
    pub(super) publisher: Publisher,
    pub(super) replies: Replies,
    pub(super) format: Arc<dyn WireFormat>,
    pub(super) exchange_names: ExchangeNames,
    /// By the id of the queue: a group that is subscribed again while its former subscription ends has two.
    pub(super) queues: Mutex<HashMap<u64, Attached>>,
    /// The dead letters that are known of, also of groups whose subscription has ended.
    pub(super) letters: Mutex<BTreeMap<Arc<str>, AmqpDeadLetters>>,
    /// Up to which level the delay ladder is declared, on which connection.
    ladder: tokio::sync::Mutex<Option<(u64, u8)>>,
    pub(super) topology_errors: Mutex<HashMap<Arc<str>, String>>,
    /// Headers of received messages that their handlers were not shown.
    pub(super) hidden_headers: AtomicU64,
    pub(super) late_replies: AtomicU64,
    /// Settlements lost by queues whose subscription has ended.
    pub(super) lost_settlements: AtomicU64,
}

pub(super) struct ExchangeNames {
    pub(super) events: String,
    pub(super) commands: String,
    pub(super) due: String,
    pub(super) ladder: String,
}

/// A queue of this process that stands on RabbitMQ.
pub(super) struct Attached {
    pub(super) group: Arc<str>,
    pub(super) amqp: Arc<AmqpQueue>,
    /// What it is subscribed to.
    pub(super) spec: Arc<QueueSpec>,
    pub(super) consumer: Option<ChildId>,
}

/// What a bridge is made of.
pub(super) struct Parts {
    pub(super) service: String,
    pub(super) amqp: Amqp,
    pub(super) config: Checked,
    pub(super) names: Names,
    pub(super) services: Arc<Services>,
    pub(super) thread: ArbiterHandle,
    pub(super) supervisor: Addr<SupervisorActor>,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            service,
            amqp,
            config,
            names,
            services,
            thread,
            supervisor,
        } = parts;
        let link = |what| Arc::new(Link::new(format!("{service}.amqp.{what}")));
        let (publish_link, consume_link) = (link("publish"), link("consume"));
        let timers = Arc::clone(&services.timers);
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            instance: services.clock.new_id().to_string(),
            publisher: Publisher::new(amqp.window, timers, Arc::clone(&publish_link)),
            exchange_names: ExchangeNames {
                events: names.events(),
                commands: names.commands(),
                due: names.due(),
                ladder: names.ladder(),
            },
            format: Arc::clone(&amqp.format),
            service,
            amqp,
            config,
            names,
            services,
            thread,
            supervisor,
            publish_link,
            consume_link,
            replies: Replies::default(),
            queues: Mutex::default(),
            letters: Mutex::default(),
            ladder: tokio::sync::Mutex::default(),
            topology_errors: Mutex::default(),
            hidden_headers: AtomicU64::new(0),
            late_replies: AtomicU64::new(0),
            lost_settlements: AtomicU64::new(0),
        })
    }

    pub(super) fn exchanges(&self) -> Exchanges<'_> {
        Exchanges {
            events: &self.exchange_names.events,
            commands: &self.exchange_names.commands,
            due: &self.exchange_names.due,
            ladder: &self.exchange_names.ladder,
        }
    }

    pub(super) fn tls(&self) -> OwnedTLSConfig {
        let identity = self.amqp.identity.clone();
        OwnedTLSConfig {
            identity: identity.map(|(der, password)| OwnedIdentity::PKCS12 { der, password }),
            cert_chain: self.amqp.authority.clone(),
        }
    }

    /// The most bytes that the headers of a message may have, as agreed on with the broker.
    pub(super) fn frame_max(&self) -> usize {
        self.publish_link.frame_max()
    }

    pub(super) fn prefetch(&self, spec: &QueueSpec) -> u16 {
        let depth = u16::try_from(spec.depth).unwrap_or(u16::MAX);
        depth.min(self.amqp.prefetch)
    }

    pub(super) fn base_plan(&self) -> Plan {
        topology::base_plan(&self.names)
    }

    /// The queue of a group, its dead letters, its bindings, and its way back from the delay ladder.
    pub(super) fn subscription_plan(&self, group: &GroupNames, spec: &QueueSpec) -> Plan {
        let commands: Vec<_> = spec.commands.iter().map(|name| name.as_str()).collect();
        let shape = SubscriptionShape {
            queue_type: self.amqp.queue_type,
            single_active_consumer: spec.order.is_keyed(),
            delivery_limit: self.amqp.delivery_limit,
        };
        let plan =
            topology::subscription_plan(&self.names, group, &spec.patterns, &commands, shape);
        plan.and(delay::destination_plan(&self.names, group))
    }

    /// Keeps what is wrong with what a part stands on, to be shown until it is mended. Told in the log once, and
    /// not at each try.
    pub(super) fn note_topology(&self, subject: &Arc<str>, error: Option<&TopologyError>) {
        let mut errors = self.topology_errors.lock();
        match error {
            // The link tells of that.
            Some(TopologyError::Connection(_)) => {}
            Some(error) => {
                let text = error.to_string();
                if errors.get(subject) != Some(&text) {
                    tracing::error!(subject = %subject, %error, "RabbitMQ has not what is needed, as it must be");
                    errors.insert(Arc::clone(subject), text);
                }
            }
            None => {
                errors.remove(subject);
            }
        }
    }

    /// Declares the rungs of the delay ladder that a wait needs, once for each connection.
    pub(super) async fn prepare_delay(&self, level: u8) -> Result<(), Refusal> {
        let unreachable = |why: String| Refusal::Unreachable { why };
        let mut ladder = self.ladder.lock().await;
        let connected = self.publish_link.connects.load(Ordering::Relaxed);
        if ladder.is_some_and(|(on, up_to)| on == connected && up_to >= level) {
            return Ok(());
        }
        let down = self.publish_link.trouble();
        if let Some(why) = down {
            return Err(unreachable(why.to_string()));
        }
        let connecting = self.publish_link.connected();
        let connection = match tokio::time::timeout(self.amqp.connect_timeout, connecting).await {
            Ok(Some(connection)) => connection,
            Ok(None) => return Err(Refusal::Closed),
            Err(_) => return Err(unreachable("the connection was lost".to_owned())),
        };
        let plan = delay::ladder_plan(&self.names, level);
        let declared = topology::apply(&connection, &plan, self.amqp.topology);
        match tokio::time::timeout(self.amqp.connect_timeout, declared).await {
            Ok(Ok(())) => {
                *ladder = Some((connected, level));
                Ok(())
            }
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable("no answer to a declaration".to_owned())),
        }
    }

    /// The next wait declares its rungs again.
    pub(super) async fn forget_ladder(&self) {
        *self.ladder.lock().await = None;
    }

    /// Waits for what has to be opened on a connection, up to the connect timeout.
    pub(super) async fn opened<T, E: std::fmt::Display>(
        &self,
        opening: impl Future<Output = Result<T, E>>,
    ) -> Result<T, String> {
        match tokio::time::timeout(self.amqp.connect_timeout, opening).await {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(error)) => Err(explained(error)),
            Err(_) => Err("no answer within the connect timeout".to_owned()),
        }
    }

    pub(super) fn count_late_reply(&self) {
        self.late_replies.fetch_add(1, Ordering::Relaxed);
        self.services.late_replies.fetch_add(1, Ordering::Relaxed);
    }
}

/// The longest that a part may take to stop.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(2);
