use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::consumer;
use super::dead_letters::AmqpDeadLetters;
use super::queue::AmqpQueue;
use super::shared::{Attached, STOP_TIMEOUT, Shared};
use crate::broker::{Bridge, Home};
use crate::message::{AddressKind, Name, NameError, Pattern, Relation, SharedParcel};
use crate::ports::{
    BoxFuture, BridgeSnapshot, Bridged, ChildId, DeadLetter, DeadLetterStore, Deadline, Refusal,
};
use crate::queue::{Backing, Foundation, QueueCore};
use crate::supervisor::{Life, RemoveChild, StopAll};

/// What no bridge carries: the bus's own events.
const OWN_TOPICS: &str = "postroom.";

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

    fn foundation(&self, group: &str) -> Result<Arc<Foundation>, NameError> {
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
        // One of its own for each subscription: the former one of the group may still be ending.
        let backing: Arc<dyn Backing> = AmqpQueue::new(names, self.this.clone());
        Ok(Arc::new(Foundation {
            dead_letters: Arc::new(letters),
            backing,
        }))
    }

    fn attach(&self, queue: &Arc<QueueCore>) -> BoxFuture<'static, ()> {
        let (this, core) = (self.this.upgrade(), Arc::clone(queue));
        Box::pin(async move {
            let Some(this) = this else { return };
            let Some(amqp) = AmqpQueue::of(&core) else {
                return;
            };
            let attached = || Attached {
                group: Arc::clone(&core.name),
                amqp: Arc::clone(&amqp),
                spec: Arc::clone(&core.spec),
                consumer: None,
            };
            this.queues.lock().entry(core.id).or_insert_with(attached);
            this.start_consumer(&core, &amqp).await;
        })
    }

    fn declared(&self, queue: &Arc<QueueCore>) -> BoxFuture<'static, ()> {
        let (this, amqp) = (self.this.upgrade(), AmqpQueue::of(queue));
        Box::pin(async move {
            if let (Some(this), Some(amqp)) = (this, amqp) {
                this.until_declared(&amqp).await;
            }
        })
    }

    fn detach(&self, queue: &Arc<QueueCore>) -> BoxFuture<'static, ()> {
        let amqp = AmqpQueue::of(queue);
        Box::pin(async move {
            if let Some(amqp) = amqp {
                Self::detach_queue(amqp).await;
            }
        })
    }

    fn remove(&self, queue: &Arc<QueueCore>) -> BoxFuture<'static, ()> {
        let (attached, is_subscribed_again) = {
            let mut queues = self.queues.lock();
            let attached = queues.remove(&queue.id);
            let mut others = queues.values();
            (attached, others.any(|other| other.group == queue.name))
        };
        if !is_subscribed_again {
            self.topology_errors.lock().remove(&queue.name);
        }
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

impl Shared {
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
        match self.queues.lock().get_mut(&core.id) {
            Some(attached) if attached.consumer.is_none() => {
                attached.consumer = Some(ChildId(u64::MAX));
            }
            _ => return,
        }
        let child = self
            .add(self.part(&format!("consumer.{}", core.name)), life)
            .await;
        if let Some(attached) = self.queues.lock().get_mut(&core.id) {
            attached.consumer = child;
        }
    }

    async fn until_declared(&self, amqp: &AmqpQueue) {
        let timers = Arc::clone(&self.services.timers);
        let mut deadline = Deadline::new(timers, self.amqp.connect_timeout);
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
