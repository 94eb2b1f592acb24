use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock, Weak};

use actix::Actor;
use tokio::sync::SetOnce;

use super::builder::{Builder, Escalation};
use super::handle::{Bus, Inner};
use super::system_events::SystemEvents;
use super::threads::{self, OwnThread, Threads};
use crate::broker::Broker;
use crate::delivery::{RetryError, Strategy};
use crate::message::{NameError, validate_queue};
use crate::observe::Watchdog;
use crate::ports::{DeadLetterSink, LifecycleSink, Outgoing, Timers};
use crate::queue::{Foundation, Memory, Services};
use crate::store::MemoryDeadLetters;
use crate::subscriber::WorkerThread;
use crate::supervisor::{OnExceeded, SupervisorActor, SupervisorSpec};
use crate::time::TimerService;

/// Why a bus could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The service's name cannot be one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The default retry policy cannot be followed.
    #[error("the default retry policy: {0}")]
    Retry(#[from] RetryError),
    /// A limit of zero.
    #[error("`{0}` must be at least 1")]
    Zero(&'static str),
    /// The operating system gave no thread.
    #[error("no thread: {0}")]
    Thread(#[from] std::io::Error),
    /// `Threads::Current` outside of an actix system.
    #[error("`Threads::Current` needs a running actix system on this thread")]
    NoArbiter,
    /// The bridge to RabbitMQ could not be set up, or, where that was asked for, not be connected.
    #[cfg(feature = "amqp")]
    #[error(transparent)]
    Bridge(crate::bridge::BridgeError),
    /// A setting of a store, and no store.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    #[error("`{0}` was set, and the bus has no store: add one by `Builder::store`")]
    NoStore(&'static str),
    /// The database of the store did not do what was needed, and
    /// [`store_when_down`](Builder::store_when_down) says that this fails the start.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    #[error(transparent)]
    Store(crate::store::DatabaseError),
}

impl Builder {
    /// Starts the bus: its threads, its root supervisor. Waits until the threads run; with a store also until its
    /// database was looked at, at most 5 s; with a bridge that is to fail when RabbitMQ is down, until it is connected or
    /// the connect timeout of each URL is over.
    ///
    /// # Errors
    /// When a setting makes no sense, a thread can not be had, the bridge's settings are wrong, or, where that was asked
    /// for ([`WhenDown::Fail`](crate::WhenDown::Fail)), RabbitMQ or the database is not there.
    ///
    /// # Cancel safety
    /// Dropped before its end, nothing is left of it: the threads that it had started end, as they do when it fails.
    pub async fn start(self) -> Result<Bus, StartError> {
        validate_queue(&self.service)?;
        self.defaults.retry.validate()?;
        let zeros = [
            (self.defaults.mailbox == 0, "mailbox"),
            (self.dead_letter_capacity == 0, "dead_letter_capacity"),
            (self.threads == Threads::Own(0), "threads"),
            (self.stuck_after.is_zero(), "stuck_after"),
        ];
        if let Some((_, what)) = zeros.iter().find(|(zero, _)| *zero) {
            return Err(StartError::Zero(what));
        }
        #[cfg(any(feature = "sqlite", feature = "postgres"))]
        if let Some(what) = self.store_settings.relay.zero().or(self.durable.zero()) {
            return Err(StartError::Zero(what));
        }
        #[cfg(any(feature = "sqlite", feature = "postgres"))]
        if let Some(what) = self.needs_store.filter(|_| self.store.is_none()) {
            return Err(StartError::NoStore(what));
        }
        let own = threads::spawn(format!("{}-control", self.service)).await?;
        let control = own.handle();
        let mut own_threads = vec![own];
        let workers = match self.threads {
            Threads::Current => {
                let current = actix::Arbiter::try_current().ok_or(StartError::NoArbiter)?;
                let thread = std::thread::current();
                let name = thread.name().unwrap_or("of the caller");
                vec![WorkerThread::new(name, current)]
            }
            Threads::Own(count) => {
                let mut workers = Vec::new();
                for index in 0..count {
                    let name = format!("{}-{index}", self.service);
                    let thread = threads::spawn(name.clone()).await?;
                    workers.push(WorkerThread::new(name, thread.handle()));
                    own_threads.push(thread);
                }
                workers
            }
        };
        let timers = TimerService::new(self.clock.clone());
        control.spawn(Arc::clone(&timers).drive());
        let events = Arc::new(SystemEvents::default());
        #[cfg(feature = "amqp")]
        let amqp = match self.amqp {
            Some(amqp) => {
                let own = threads::spawn(format!("{}-amqp", self.service)).await?;
                let thread = own.handle();
                own_threads.push(own);
                Some((amqp, thread))
            }
            None => None,
        };
        #[cfg(any(feature = "sqlite", feature = "postgres"))]
        let store = match self.store {
            Some(store) => {
                let own = threads::spawn(format!("{}-store", self.service)).await?;
                let thread = own.handle();
                own_threads.push(own);
                Some((Arc::new(crate::store::StoreLink::new(store)), thread))
            }
            None => None,
        };
        let dead_letters = Arc::new(MemoryDeadLetters::new(self.dead_letter_capacity));
        let services = Arc::new(Services {
            clock: self.clock,
            timers: Arc::clone(&timers) as Arc<dyn Timers>,
            control: control.clone(),
            memory: Arc::new(Foundation {
                backing: Arc::new(Memory),
                dead_letters: Arc::clone(&dead_letters) as Arc<dyn DeadLetterSink>,
            }),
            lifecycle: Arc::clone(&events) as Arc<dyn LifecycleSink>,
            interceptors: self.interceptors.into(),
            outgoing: OnceLock::new(),
            late_replies: AtomicU64::new(0),
            request_timeout: self.defaults.request_timeout,
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            store: store.as_ref().map(|(link, _)| Arc::clone(link)),
        });
        #[cfg(feature = "amqp")]
        let amqp = match amqp {
            Some((amqp, thread)) => {
                let admin = crate::bridge::start(amqp, &self.service, &services, thread).await;
                Some(admin.map_err(StartError::Bridge)?)
            }
            None => None,
        };
        #[cfg(feature = "amqp")]
        let bridge = amqp.as_ref().map(|admin| admin.bridge());
        #[cfg(not(feature = "amqp"))]
        let bridge = None;
        #[cfg(any(feature = "sqlite", feature = "postgres"))]
        let database = store.map(|(link, thread)| crate::database::Wiring {
            service: self.service.clone(),
            migrations: self.store_settings.migrations,
            services: Arc::clone(&services),
            link,
            thread,
        });
        #[cfg(any(feature = "sqlite", feature = "postgres"))]
        let stored = database.clone().map(|wiring| {
            let durable = crate::durable::Shared::new(wiring, self.durable);
            durable as Arc<dyn crate::broker::Stored>
        });
        #[cfg(not(any(feature = "sqlite", feature = "postgres")))]
        let stored = None;
        let broker = Broker::new(
            Arc::clone(&services),
            self.limits,
            bridge,
            stored,
            dead_letters,
        );
        let outgoing: Weak<dyn Outgoing> =
            Arc::downgrade(&(Arc::clone(&broker) as Arc<dyn Outgoing>));
        let wired = services.outgoing.set(outgoing).is_ok() && events.set(&broker);
        debug_assert!(wired, "a new bus is wired once");
        #[cfg(any(feature = "sqlite", feature = "postgres"))]
        let outbox = match database {
            Some(wiring) => {
                let started = crate::outbox::start(wiring, self.store_settings, &broker).await;
                Some(started.map_err(StartError::Store)?)
            }
            None => None,
        };
        let watchdog = Watchdog::new(self.service.clone(), self.stuck_after, &broker);
        for thread in &workers {
            watchdog.watch(thread);
        }
        control.spawn(Arc::clone(&watchdog).go_round());
        let failure = Arc::new(SetOnce::new());
        let on_exceeded = match self.escalation {
            Escalation::Suspend => OnExceeded::Suspend,
            Escalation::StopBus => {
                let failure = Arc::clone(&failure);
                let broker = Arc::downgrade(&broker);
                OnExceeded::StopBus(Arc::new(move |why| {
                    // The first failure is the one that is told.
                    let _ = failure.set(why);
                    if let Some(broker) = broker.upgrade() {
                        broker.narrow_gate(crate::broker::Gate::Draining);
                    }
                }))
            }
        };
        let root = SupervisorActor::new(
            SupervisorSpec {
                name: self.service.clone().into(),
                strategy: Strategy::OneForOne,
                on_exceeded,
            },
            Arc::clone(&services.timers),
            Arc::clone(&services.lifecycle),
        );
        let root = SupervisorActor::start_in_arbiter(&control, move |_| root);
        let inner = Inner::new(
            self.service,
            broker,
            self.defaults,
            Arc::new(root),
            workers,
            own_threads.into_iter().map(OwnThread::keep).collect(),
            timers,
            failure,
            watchdog,
        );
        #[cfg(feature = "amqp")]
        let inner = inner.with_amqp(amqp);
        #[cfg(any(feature = "sqlite", feature = "postgres"))]
        let inner = inner.with_outbox(outbox);
        Ok(Bus(Arc::new(inner)))
    }

    /// Like [`start`](Self::start), for a program without an async runtime.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_blocking(self) -> Result<Bus, StartError> {
        super::handle::block_on(self.start())
    }
}
