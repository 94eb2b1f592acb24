use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::subscriber_builder::SubscriberBuilder;
use super::subscription::{Home, Unclaimed, abandon};
use super::{SubscribeError, Subscription, Supervisor, threads};
use crate::broker::{Gate, SubscribeRefusal};
use crate::delivery::Overflow;
use crate::message::{Pattern, validate_queue};
use crate::queue::{Foundation, QueueSpec};
use crate::subscriber::{Dispatch, Factory, Member, MemberChild, WorkerThread};
use crate::supervisor::AddChild;

/// The longest that a lane of a keyed queue may wait over all retries of one message (contract, rule 7).
const LONGEST_HOLD: Duration = Duration::from_secs(300);

impl<H: 'static, F: Factory<H>, D: Dispatch<H>> SubscriberBuilder<H, F, D> {
    fn spec(&mut self) -> Result<QueueSpec, SubscribeError> {
        validate_queue(&self.name)?;
        self.retry.validate()?;
        if let Some(breaker) = &self.breaker {
            breaker.validate()?;
        }
        let patterns: Box<[Pattern]> = self.patterns.drain(..).collect::<Result<_, _>>()?;
        for command in &self.commands {
            validate_queue(command.as_str())?;
        }
        if patterns.is_empty() && self.commands.is_empty() {
            return Err(SubscribeError::HandlesNothing(self.name.clone()));
        }
        let zeros = [
            (self.depth, "mailbox"),
            (self.order.workers(), "number of workers"),
        ];
        if let Some((_, what)) = zeros.into_iter().find(|(number, _)| *number == 0) {
            return Err(SubscribeError::Zero {
                name: self.name.clone(),
                what,
            });
        }
        if self.has_two_orders {
            return Err(SubscribeError::TwoOrders(self.name.clone()));
        }
        let hold = self.retry.longest_hold();
        if self.order.is_keyed() && hold > LONGEST_HOLD {
            let name = self.name.clone();
            return Err(SubscribeError::HoldsTooLong {
                name,
                hold,
                most: LONGEST_HOLD,
            });
        }
        Ok(QueueSpec {
            patterns,
            commands: std::mem::take(&mut self.commands).into(),
            order: self.order,
            retry: Arc::clone(&self.retry),
            depth: self.depth,
            overflow: self.overflow,
            timeout: self.timeout,
            release_timeout: self.bus.0.defaults.release_timeout,
            breaker: self.breaker.clone().map(Box::new),
            shares: self.shares,
            transactional: D::TRANSACTIONAL,
            durable: false,
        })
    }

    /// What the queue will stand on: RabbitMQ where all of it is imported, this process's memory or the store where none
    /// is.
    fn foundation(&self, spec: &QueueSpec) -> Result<Arc<Foundation>, SubscribeError> {
        let broker = &self.bus.0.broker;
        let Some(bridge) = &broker.bridge else {
            return self.local_foundation(spec);
        };
        match bridge.home(&spec.patterns, &spec.commands) {
            crate::broker::Home::Local => self.local_foundation(spec),
            crate::broker::Home::Bridged if self.durable => {
                Err(self.not_durable("what it wants is imported, so that RabbitMQ keeps it"))
            }
            crate::broker::Home::Bridged => Ok(bridge.foundation(&self.name)?),
            crate::broker::Home::Mixed { imported, local } => Err(SubscribeError::MixedBacking {
                name: self.name.clone(),
                imported,
                local,
            }),
        }
    }

    fn not_durable(&self, why: &'static str) -> SubscribeError {
        SubscribeError::NotDurable {
            name: self.name.clone(),
            why,
        }
    }

    fn local_foundation(&self, spec: &QueueSpec) -> Result<Arc<Foundation>, SubscribeError> {
        let broker = &self.bus.0.broker;
        let is_wanted = self.durable || self.bus.0.defaults.durable;
        let mut patterns = spec.patterns.iter();
        let only_in_memory = if patterns.any(|own| own.as_str().starts_with("postroom.")) {
            Some("events of the bus itself are only in memory")
        } else if self.overflow == Overflow::DropOldest {
            Some("a queue that drops its oldest message is only in memory")
        } else {
            None
        };
        match (&broker.stored, only_in_memory) {
            (_, Some(why)) if self.durable => Err(self.not_durable(why)),
            (None, None) if is_wanted => {
                Err(self.not_durable("the bus has no store: build it with `Builder::store`"))
            }
            (Some(stored), None) if is_wanted => Ok(stored.foundation(&self.name)),
            (Some(stored), None) => Ok(stored.memory_foundation()),
            _ => Ok(Arc::clone(&broker.services.memory)),
        }
    }

    /// Subscribes: from here on the queue accepts. The workers begin to start, and are kept running; that the
    /// factory fails is not seen here but in the [lifecycle](crate::Lifecycle).
    ///
    /// # Errors
    /// When a setting makes no sense, the group runs with others, or the bus or the supervisor is stopped.
    ///
    /// # Cancel safety
    /// Dropped before its end, the subscriber is stopped again behind it, as by [`Subscription::stop`] with 5 seconds: what a new
    /// group in memory was given until then is handled within these, or abandoned.
    pub async fn start(mut self) -> Result<Subscription, SubscribeError> {
        #[cfg(any(feature = "sqlite", feature = "postgres"))]
        self.check_store()?;
        let mut spec = self.spec()?;
        let bus = self.bus.clone();
        let inner = &bus.0;
        if !inner.broker.admits(Gate::Open) {
            return Err(SubscribeError::Closed);
        }
        let mut thread = None;
        let placement = if self.own_thread {
            let own = threads::spawn(self.name.clone()).await.map_err(|error| {
                SubscribeError::Thread {
                    name: self.name.clone(),
                    why: error.to_string(),
                }
            })?;
            let own = own.keep();
            thread = Some(own.clone());
            let mut threads = inner.subscriber_threads.lock();
            threads.retain(|thread| thread.spawn_fn(|| {}));
            threads.push(own.clone());
            drop(threads);
            let own = WorkerThread::new(self.name.clone(), own);
            inner.watchdog.watch(&own);
            vec![own]
        } else {
            let mut placement = inner.workers.clone();
            let first = inner
                .next_worker
                .fetch_add(spec.order.workers(), Ordering::Relaxed);
            placement.rotate_left(first % inner.workers.len());
            placement
        };
        let services = &inner.broker.services;
        let joined = self.foundation(&spec).and_then(|foundation| {
            spec.durable = foundation.backing.is_stored();
            let table = &inner.broker.table;
            let joined = table.join(&self.name, spec, services, foundation);
            joined.map_err(|refusal| {
                let name = self.name.clone();
                match refusal {
                    SubscribeRefusal::Mismatch { what } => {
                        SubscribeError::GroupMismatch { name, what }
                    }
                    SubscribeRefusal::CommandTaken { queue, by } => {
                        SubscribeError::CommandTaken { queue, owner: by }
                    }
                }
            })
        });
        let queue = joined.inspect_err(|_| {
            if let Some(thread) = &thread {
                threads::end(thread);
            }
        })?;
        let member = Arc::new(Member {
            queue: Arc::clone(&queue),
            factory: self.factory,
            dispatch: self.dispatch,
            handler: PhantomData,
        });
        let supervisor = self
            .supervisor
            .as_ref()
            .map_or_else(|| Arc::clone(&inner.root), Supervisor::address);
        let add = AddChild {
            child: Box::new(MemberChild::new(member, &placement)),
            spec: self.child,
        };
        // There it goes on to its end, also when who asked for it goes away.
        let begun = {
            let (bus, queue, thread) = (bus.clone(), Arc::clone(&queue), thread.clone());
            async move {
                let Ok(Some(child)) = supervisor.send(add).await else {
                    if bus.0.broker.table.leave(&queue) {
                        // It may have accepted something since it joined.
                        abandon(&queue).await;
                    }
                    if let Some(thread) = &thread {
                        threads::end(thread);
                    }
                    return None;
                };
                let broker = &bus.0.broker;
                if let Some(bridge) = &broker.bridge
                    && queue.backing().is_bridged()
                {
                    bridge.attach(&queue).await;
                }
                if let Some(stored) = &broker.stored
                    && queue.backing().is_stored()
                {
                    stored.attach(&queue).await;
                }
                let home = Home {
                    supervisor,
                    child,
                    thread,
                };
                Some(Unclaimed::new(Subscription::new(
                    bus.clone(),
                    Arc::clone(&queue),
                    home,
                )))
            }
        };
        let Some(begun) = bus.on_control(begun).await else {
            // The bus has ended under it.
            if inner.broker.table.leave(&queue) {
                queue.close();
            }
            if let Some(thread) = &thread {
                threads::end(thread);
            }
            return Err(SubscribeError::Closed);
        };
        let begun = begun.ok_or(SubscribeError::Closed)?;
        if let Some(bridge) = &inner.broker.bridge
            && queue.backing().is_bridged()
        {
            bridge.declared(&queue).await;
        }
        begun.claim().ok_or(SubscribeError::Closed)
    }
}
