use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{Actor, ArbiterHandle};

use super::admin::AmqpAdmin;
use super::config::{Amqp, BridgeError};
use super::dead_letters::AmqpDeadLetters;

use super::publisher::{Confirmed, Publication, PublishedBody};
use super::queue::AmqpQueue;
use super::shared::{Attached, Parts, STOP_TIMEOUT, Shared};
use super::topology::Names;
use super::wire;
use super::{FRAME_MAX, consumer, link, publisher, replies};
use crate::broker::{Bridge, Home};
use crate::delivery::{Restart, Strategy};
use crate::message::{AddressKind, Name, Pattern, Relation, SharedParcel};
use crate::ports::{
    BoxFuture, BridgeSnapshot, Bridged, ChildId, DeadLetter, DeadLetterStore, Refusal, WhenDown,
};
use crate::queue::{Backing, Foundation, QueueCore, Services};
use crate::supervisor::{
    AddChild, ChildSpec, Life, OnExceeded, PartChild, RemoveChild, StopAll, SupervisorActor,
    SupervisorSpec,
};

/// What no bridge carries: the bus's own events.
const OWN_TOPICS: &str = "postroom.";
/// The wait before a failed part lives again, and the longest; a quiet while begins anew.
const BACKOFF: (Duration, Duration, Duration) = (
    Duration::from_millis(100),
    Duration::from_secs(5),
    Duration::from_secs(30),
);

/// Starts the tree of a bridge: connections, publisher, replies. Consumers follow with their subscriptions.
pub(crate) async fn start(
    amqp: Amqp,
    service: &str,
    services: &Arc<Services>,
    thread: ArbiterHandle,
) -> Result<AmqpAdmin, BridgeError> {
    let config = amqp.checked()?;
    let names = Names::new(&amqp.prefix, service)?;
    let root = SupervisorActor::new(
        SupervisorSpec {
            name: format!("{service}.amqp").into(),
            strategy: Strategy::OneForOne,
            on_exceeded: OnExceeded::Suspend,
        },
        Arc::clone(&services.timers),
        Arc::clone(&services.lifecycle),
    );
    let supervisor = SupervisorActor::start_in_arbiter(&services.control, move |_| root);
    let when_down = amqp.when_down;
    let patience = amqp.connect_timeout * u32::try_from(config.urls.len()).unwrap_or(u32::MAX);
    let shared = Shared::new(Parts {
        service: service.to_owned(),
        amqp,
        config,
        names,
        services: Arc::clone(services),
        thread,
        supervisor,
    });
    for link in [&shared.publish_link, &shared.consume_link] {
        let name = Arc::clone(&link.name);
        let (link, shared_here) = (Arc::clone(link), Arc::clone(&shared));
        let life = move |stop| -> crate::ports::LocalBoxFuture<'static, Result<(), String>> {
            Box::pin(link::live(
                Arc::clone(&shared_here),
                Arc::clone(&link),
                stop,
            ))
        };
        shared.add(name, Arc::new(life)).await;
    }
    let here = Arc::clone(&shared);
    let life: Arc<Life> = Arc::new(move |stop| {
        let here = Arc::clone(&here);
        Box::pin(async move {
            let live = || publisher::live(Arc::clone(&here), stop.clone());
            here.publish_link.on_each(live).await
        })
    });
    shared.add(shared.part("publisher"), life).await;
    let here = Arc::clone(&shared);
    let life: Arc<Life> = Arc::new(move |stop| {
        let here = Arc::clone(&here);
        Box::pin(async move {
            let live = || replies::live(Arc::clone(&here), stop.clone());
            here.consume_link.on_each(live).await
        })
    });
    shared.add(shared.part("replies"), life).await;
    if when_down == WhenDown::Fail {
        let deadline = crate::ports::Deadline::new(Arc::clone(&services.timers), patience);
        if let Err(why) = connected(&shared, deadline).await {
            shared.close(Duration::from_millis(200)).await;
            return Err(BridgeError::Unreachable(why));
        }
    }
    Ok(AmqpAdmin::new(shared))
}

/// Waits for both connections.
async fn connected(shared: &Shared, mut deadline: crate::ports::Deadline) -> Result<(), String> {
    let both = async {
        shared.publish_link.connected().await;
        shared.consume_link.connected().await;
    };
    if deadline.bound(both).await.is_some() {
        return Ok(());
    }
    let trouble = shared
        .publish_link
        .trouble()
        .or_else(|| shared.consume_link.trouble());
    Err(trouble.map_or_else(String::new, |why| why.to_string()))
}

impl Shared {
    pub(super) fn part(&self, what: &str) -> Arc<str> {
        format!("{}.amqp.{what}", self.service).into()
    }

    /// Adds a part behind the others, and starts it. A part is never given up: it heals when RabbitMQ does.
    async fn add(&self, name: Arc<str>, life: Arc<Life>) -> Option<ChildId> {
        let (backoff_initial, backoff_cap, period) = BACKOFF;
        let spec = ChildSpec {
            restart: Restart::Permanent,
            intensity: u32::MAX,
            period,
            backoff_initial,
            backoff_cap,
            stop_timeout: STOP_TIMEOUT,
        };
        let child = Box::new(PartChild::new(
            name,
            &self.thread,
            Arc::clone(&self.services.timers),
            life,
        ));
        let spec = Arc::new(spec);
        // A supervisor that is gone was stopped.
        self.supervisor.send(AddChild { child, spec }).await.ok()?
    }

    async fn publish_parcel(
        &self,
        parcel: SharedParcel,
        patience: Duration,
    ) -> Result<Bridged, Refusal> {
        let envelope = parcel.envelope();
        let metadata = envelope.metadata.as_ref();
        let Some(port) = metadata.and_then(|metadata| metadata.reply.as_ref()) else {
            return self.publish_to(&parcel, None, patience).await;
        };
        let timers = &self.services.timers;
        let begun = timers.now();
        let mut deadline = crate::ports::Deadline::new(Arc::clone(timers), patience);
        let id = envelope.id().to_string();
        let Some(reply_to) = deadline.bound(self.replies.expect(&id, port)).await else {
            let trouble = self.consume_link.trouble();
            let why = trouble.map_or_else(
                || "replies can not be received".to_owned(),
                |why| why.to_string(),
            );
            return Err(Refusal::Unreachable { why });
        };
        let left = patience.saturating_sub(timers.now().saturating_duration_since(begun));
        let sent = self.publish_to(&parcel, Some(&reply_to), left).await;
        if sent.is_err() {
            self.replies.forget(&id);
        }
        sent
    }

    async fn publish_to(
        &self,
        parcel: &SharedParcel,
        reply_to: Option<&str>,
        patience: Duration,
    ) -> Result<Bridged, Refusal> {
        let envelope = parcel.envelope();
        let (properties, body) =
            wire::outgoing(&*self.format, parcel, &self.service, reply_to, FRAME_MAX)?;
        let limit = self.amqp.body_limit;
        if body.len() > limit {
            let size = body.len();
            return Err(Refusal::TooLarge { size, limit });
        }
        let body = match body {
            std::borrow::Cow::Borrowed(_) => PublishedBody::Parcel(Arc::clone(parcel)),
            std::borrow::Cow::Owned(bytes) => PublishedBody::Bytes(bytes),
        };
        let names = &self.exchange_names;
        let exchange = match envelope.kind() {
            AddressKind::Topic => &names.events,
            AddressKind::Queue => &names.commands,
        };
        let publication = Publication {
            exchange: exchange.as_str().into(),
            routing_key: envelope.address().into(),
            properties,
            body,
        };
        match (
            self.publisher.publish(publication, patience).await?,
            envelope.kind(),
        ) {
            (Confirmed::Routed, _) => Ok(Bridged::Routed),
            (Confirmed::Returned, AddressKind::Topic) => Ok(Bridged::Unrouted),
            (Confirmed::Returned, AddressKind::Queue) => Err(Refusal::NoQueue {
                queue: envelope.address().to_owned(),
            }),
            (Confirmed::Nacked, _) => Err(Refusal::Rejected {
                why: "a queue is full and rejects, or failed".to_owned(),
            }),
        }
    }

    /// Starts the consumer of a queue, unless another member of its group has.
    async fn start_consumer(self: &Arc<Self>, core: &Arc<QueueCore>, amqp: &Arc<AmqpQueue>) {
        let (weak, here, amqp) = (Arc::downgrade(core), Arc::clone(self), Arc::clone(amqp));
        let life: Arc<Life> = Arc::new(move |stop| {
            let (here, amqp, weak) = (Arc::clone(&here), Arc::clone(&amqp), weak.clone());
            Box::pin(async move {
                let live = || {
                    let (here, amqp) = (Arc::clone(&here), Arc::clone(&amqp));
                    consumer::live(here, amqp, weak.clone(), stop.clone())
                };
                here.consume_link.on_each(live).await
            })
        });
        match self.queues.lock().get_mut(&core.name) {
            Some(attached) if attached.consumer.is_none() => {
                attached.consumer = Some(ChildId(u64::MAX));
            }
            _ => return,
        }
        let child = self
            .add(self.part(&format!("consumer.{}", core.name)), life)
            .await;
        if let Some(attached) = self.queues.lock().get_mut(&core.name) {
            attached.consumer = child;
        }
    }

    /// Waits until a queue is declared and bound, so that what is published from then on finds it. Not while
    /// RabbitMQ cannot be reached, and no longer than a connection may take.
    async fn declared(&self, amqp: &AmqpQueue) {
        let timers = Arc::clone(&self.services.timers);
        let mut deadline = crate::ports::Deadline::new(timers, self.amqp.connect_timeout);
        let known = async {
            tokio::select! {
                () = amqp.declared() => {}
                () = self.consume_link.is_down() => {}
            }
        };
        // Its health says what it still waits for.
        let _ = deadline.bound(known).await;
    }

    async fn detach_queue(amqp: Arc<AmqpQueue>) {
        let at_rest = amqp.at_rest.notified();
        amqp.detach();
        if amqp.has_channel() {
            at_rest.await;
        }
    }
}

impl Bridge for Shared {
    fn exports(&self, kind: AddressKind, address: &str) -> bool {
        let patterns = match kind {
            AddressKind::Topic => &self.config.exports,
            AddressKind::Queue => &self.config.command_exports,
        };
        !address.starts_with(OWN_TOPICS) && patterns.iter().any(|pattern| pattern.matches(address))
    }

    fn publish(
        &self,
        parcel: SharedParcel,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Bridged, Refusal>> {
        let this = self.this.upgrade();
        Box::pin(async move {
            match this {
                Some(this) => this.publish_parcel(parcel, patience).await,
                None => Err(Refusal::Closed),
            }
        })
    }

    fn home(&self, patterns: &[Pattern], commands: &[Name]) -> Home {
        let (mut imported, mut local) = (None, None);
        let mut count = |name: &str, relations: Vec<Relation>| {
            let is_wholly = relations.contains(&Relation::Covers);
            if is_wholly || relations.contains(&Relation::Overlaps) {
                imported.get_or_insert_with(|| name.to_owned());
            }
            if !is_wholly {
                local.get_or_insert_with(|| name.to_owned());
            }
        };
        for pattern in patterns {
            let is_own = pattern.as_str().starts_with(OWN_TOPICS);
            let imports = self.config.imports.iter().filter(|_| !is_own);
            let relations = imports.map(|import| import.relation_to(pattern));
            count(pattern.as_str(), relations.collect());
        }
        for command in commands {
            let imports = self.config.command_imports.iter();
            let relations = imports.map(|import| match import.matches(command.as_str()) {
                true => Relation::Covers,
                false => Relation::Disjoint,
            });
            count(command.as_str(), relations.collect());
        }
        match (imported, local) {
            (Some(imported), Some(local)) => Home::Mixed { imported, local },
            (Some(_), None) => Home::Bridged,
            (None, _) => Home::Local,
        }
    }

    fn foundation(&self, group: &str) -> Result<Arc<Foundation>, crate::message::NameError> {
        let names = self.names.group(group)?;
        #[cfg(feature = "testing")]
        if let Some(sweep) = &self.amqp.sweep {
            sweep.note(group);
        }
        let letters = {
            let mut letters = self.letters.lock();
            let group: Arc<str> = group.into();
            let known = letters
                .entry(Arc::clone(&group))
                .or_insert_with(|| AmqpDeadLetters::new(group, names.clone(), self.this.clone()));
            known.clone()
        };
        let mut queues = self.queues.lock();
        let attached = queues.entry(group.into()).or_insert_with(|| Attached {
            amqp: Arc::new(AmqpQueue::new(names, self.this.clone())),
            spec: None,
            consumer: None,
        });
        let backing: Arc<AmqpQueue> = Arc::clone(&attached.amqp);
        Ok(Arc::new(Foundation {
            dead_letters: Arc::new(letters),
            backing: backing as Arc<dyn Backing>,
        }))
    }

    fn attach(&self, queue: &Arc<QueueCore>) -> BoxFuture<'static, ()> {
        let (this, core) = (self.this.upgrade(), Arc::clone(queue));
        Box::pin(async move {
            let Some(this) = this else { return };
            let Some(amqp) = this.queue(&core.name) else {
                return;
            };
            amqp.attach();
            if let Some(attached) = this.queues.lock().get_mut(&core.name) {
                attached.spec = Some(Arc::clone(&core.spec));
            }
            this.start_consumer(&core, &amqp).await;
            this.declared(&amqp).await;
        })
    }

    fn detach(&self, queue: &Arc<QueueCore>) -> BoxFuture<'static, ()> {
        let amqp = self.queue(&queue.name);
        Box::pin(async move {
            if let Some(amqp) = amqp {
                Self::detach_queue(amqp).await;
            }
        })
    }

    fn remove(&self, queue: &Arc<QueueCore>) -> BoxFuture<'static, ()> {
        let attached = self.queues.lock().remove(&queue.name);
        self.topology_errors.lock().remove(&queue.name);
        if let Some(attached) = &attached {
            let lost = attached.amqp.lost.load(Ordering::Relaxed);
            self.lost_settlements.fetch_add(lost, Ordering::Relaxed);
        }
        let supervisor = self.supervisor.clone();
        Box::pin(async move {
            let Some(id) = attached.and_then(|attached| attached.consumer) else {
                return;
            };
            let timeout = STOP_TIMEOUT;
            // A supervisor that is gone has stopped its parts.
            let _ = supervisor.send(RemoveChild { id, timeout }).await;
        })
    }

    fn detach_all(&self) -> BoxFuture<'static, ()> {
        let queues: Vec<_> = {
            let queues = self.queues.lock();
            queues
                .values()
                .map(|attached| Arc::clone(&attached.amqp))
                .collect()
        };
        Box::pin(async move {
            for amqp in &queues {
                amqp.detach();
            }
            for amqp in queues {
                Self::detach_queue(amqp).await;
            }
        })
    }

    fn dead_letters(&self, group: Option<&str>) -> Vec<Arc<dyn DeadLetterStore>> {
        let stores: Vec<_> = match group {
            Some(group) => self.letters_of(&group.into()).into_iter().collect(),
            None => self.letters.lock().values().cloned().collect(),
        };
        let stores = stores.into_iter();
        stores
            .map(|store| Arc::new(store) as Arc<dyn DeadLetterStore>)
            .collect()
    }

    fn hand_back(
        &self,
        letter: &DeadLetter,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), Refusal>> {
        let this = self.this.upgrade();
        let (queue, parcel) = (Arc::clone(&letter.queue), Arc::clone(&letter.parcel));
        Box::pin(async move {
            match this {
                Some(this) => this.publish_back(&queue, &parcel, patience).await,
                None => Err(Refusal::Closed),
            }
        })
    }

    fn snapshot(&self) -> BridgeSnapshot {
        self.counts()
    }

    fn close(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        let this = self.this.upgrade();
        Box::pin(async move {
            let Some(this) = this else { return };
            let stop = this.supervisor.send(StopAll { deadline });
            // By real time, so that a manual clock can not hold up the end.
            let _ = tokio::time::timeout(deadline, stop).await;
            this.publisher.close();
            this.queues.lock().clear();
        })
    }
}
