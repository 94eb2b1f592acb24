use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use actix::{Addr, ArbiterHandle};
use parking_lot::Mutex;
use tokio::sync::SetOnce;

use super::builder::{Builder, Defaults};
use super::health::Whole;
use super::publish::Publish;
use super::request::Request;
use super::shutdown::Shutdown;
use super::{DeadLetters, PublishAllError, PublishError, Receipt};
use crate::broker::Broker;
use crate::message::{AddressKind, Command, Event, RawBody};
use crate::observe::{Snapshot, Watchdog};
use crate::ports::HealthSource;
use crate::subscriber::WorkerThread;
use crate::supervisor::SupervisorActor;
use crate::time::TimerService;

/// The handle of a bus: cheap to clone, usable from any thread and any runtime, or none.
///
/// Make one with [`Bus::builder`]; a process may have several, which know nothing of each other. What may be
/// relied on is said in [the contract](crate::contract).
///
/// End it with [`shutdown`](Self::shutdown). Dropping the last handle ends its threads without one: what is
/// in memory then is gone, and nobody is told.
///
/// ```
/// use postroom::{Bus, Event};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct OrderPaid { order: u64 }
/// impl Event for OrderPaid { const TOPIC: &'static str = "ordering.order-paid"; }
///
/// // From a plain `main`; in an async one `.start().await` and `.shutdown(…).await`.
/// let bus = Bus::builder("shop").start_blocking()?;
/// let receipt = bus.try_publish(OrderPaid { order: 7 })?;
/// assert_eq!(receipt.local.accepted, 0, "nobody has subscribed");
/// assert!(bus.shutdown_blocking(std::time::Duration::from_secs(5)).clean);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Bus(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) service: String,
    pub(super) broker: Arc<Broker>,
    pub(super) defaults: Defaults,
    /// Shared, since each address is some allocations of its own.
    pub(super) root: Arc<Addr<SupervisorActor>>,
    pub(super) workers: Vec<WorkerThread>,
    pub(super) next_worker: AtomicUsize,
    pub(super) own_threads: Vec<ArbiterHandle>,
    pub(super) timers: Arc<TimerService>,
    pub(super) failure: Arc<SetOnce<String>>,
    pub(super) watchdog: Arc<Watchdog>,
    /// Asked by every probe.
    pub(super) health: Vec<Arc<dyn HealthSource>>,
    /// Threads of single subscribers; those that have ended are taken out when another one is added.
    pub(super) subscriber_threads: Mutex<Vec<ArbiterHandle>>,
    pub(super) shutdown: Shutdown,
    #[cfg(feature = "amqp")]
    amqp: Option<crate::bridge::AmqpAdmin>,
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) outbox: Option<crate::outbox::Outbox>,
}

impl Inner {
    #[expect(
        clippy::too_many_arguments,
        reason = "one caller, which has just made them"
    )]
    pub(super) fn new(
        service: String,
        broker: Arc<Broker>,
        defaults: Defaults,
        root: Arc<Addr<SupervisorActor>>,
        workers: Vec<WorkerThread>,
        own_threads: Vec<ArbiterHandle>,
        timers: Arc<TimerService>,
        failure: Arc<SetOnce<String>>,
        watchdog: Arc<Watchdog>,
    ) -> Self {
        let next_worker = AtomicUsize::new(0);
        let whole = Whole {
            service: service.clone(),
            broker: Arc::clone(&broker),
            failure: Arc::clone(&failure),
        };
        let health: Vec<Arc<dyn HealthSource>> = vec![
            Arc::new(whole),
            Arc::clone(&watchdog) as Arc<dyn HealthSource>,
            Arc::clone(&broker) as Arc<dyn HealthSource>,
        ];
        Self {
            service,
            broker,
            defaults,
            root,
            workers,
            next_worker,
            own_threads,
            timers,
            failure,
            watchdog,
            health,
            subscriber_threads: Mutex::default(),
            shutdown: Shutdown::default(),
            #[cfg(feature = "amqp")]
            amqp: None,
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            outbox: None,
        }
    }

    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) fn with_outbox(mut self, shared: Option<Arc<crate::outbox::Shared>>) -> Self {
        if let Some(shared) = shared {
            self.health
                .push(Arc::clone(&shared) as Arc<dyn HealthSource>);
            self.outbox = Some(crate::outbox::Outbox(shared));
        }
        self
    }

    #[cfg(feature = "amqp")]
    pub(super) fn with_amqp(mut self, amqp: Option<crate::bridge::AmqpAdmin>) -> Self {
        self.amqp = amqp;
        self
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.timers.close();
        let subscriber_threads = self.subscriber_threads.get_mut();
        for thread in self.own_threads.iter().chain(&*subscriber_threads) {
            super::threads::end(thread);
        }
        crate::broker::clear_left_behind();
    }
}

impl Bus {
    /// Begins a bus for the service of this name: at most 255 bytes, no control characters. Its threads are
    /// named after it.
    #[must_use]
    pub fn builder(service: impl Into<String>) -> Builder {
        Builder::new(service.into())
    }

    /// The service's name.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.0.service
    }

    /// Publishes an event to every queue that its topic matches: to all of them or to none.
    ///
    /// Options are chained before it is awaited, see [`Publish`]. `Ok` means that every matching queue took
    /// the event or applied its drop policy; no matching queue is `Ok` too, with a receipt of zero.
    ///
    /// **When it waits.** While a matching mailbox with [`Overflow::Wait`](crate::Overflow::Wait) is full, and, where it
    /// leaves the process or goes to a durable queue, until RabbitMQ has confirmed it or the database has committed it;
    /// all together for no longer than the publish timeout. Inside a handler prefer
    /// [`Context::publish`](crate::Context::publish), which is undone when the handler fails.
    ///
    /// # Errors
    /// Gives the event back with the reason, a [`Refusal`](crate::Refusal).
    ///
    /// # Cancel safety
    /// Dropped before it is accepted, nothing was published. Once it is on its way to RabbitMQ, or its commit into a
    /// durable queue has begun, the outcome is not known.
    pub fn publish<E: Event>(&self, event: E) -> Publish<'_, E> {
        let key = event.key().map(Arc::from);
        Publish::new(self, AddressKind::Topic, E::TOPIC, event).keyed(key)
    }

    /// Publishes an event now or not at all; never waits.
    ///
    /// # Errors
    /// Gives the event back with the reason: [`Refusal::Full`](crate::Refusal::Full) where
    /// [`publish`](Self::publish) would wait for room, [`Refusal::MustWait`](crate::Refusal::MustWait) where it would
    /// wait for a confirm or a commit.
    pub fn try_publish<E: Event>(&self, event: E) -> Result<Receipt, PublishError<E>> {
        self.publish(event).try_now()
    }

    /// Publishes events in order, each as by [`publish`](Self::publish).
    ///
    /// # Errors
    /// At the first that is refused: the receipts before it, and the events from it on.
    ///
    /// # Cancel safety
    /// Dropped, the events accepted so far stay published; the one that waits and those after it are gone with
    /// the future.
    ///
    /// ```
    /// # use postroom::{Bus, Event, PublishAllError};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Paid(u64);
    /// # impl Event for Paid { const TOPIC: &'static str = "ordering.order-paid"; }
    /// # async fn all(bus: &Bus, orders: Vec<u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// if let Err(error) = bus.publish_all(orders.into_iter().map(Paid)).await {
    ///     eprintln!("{error}");
    ///     // Once more, and no further.
    ///     let PublishAllError { rest, .. } = error;
    ///     bus.publish_all(rest).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish_all<E: Event>(
        &self,
        events: impl IntoIterator<Item = E>,
    ) -> Result<Vec<Receipt>, PublishAllError<E>> {
        let mut receipts = Vec::new();
        let mut events = events.into_iter();
        while let Some(event) = events.next() {
            match self.publish(event).await {
                Ok(receipt) => receipts.push(receipt),
                Err(error) => {
                    let (why, refused) = error.into_parts();
                    let rest = refused.into_iter().chain(events).collect();
                    return Err(PublishAllError {
                        receipts,
                        why,
                        rest,
                    });
                }
            }
        }
        Ok(receipts)
    }

    /// Begins a batch of messages to be written into a transaction together, see [`Batch`](crate::Batch).
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub fn batch(&self) -> super::Batch<'_> {
        super::Batch::new(self)
    }

    /// Publishes JSON under a topic made at run time.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and when the topic is not a valid name.
    pub fn publish_raw(
        &self,
        topic: impl Into<String>,
        body: serde_json::Value,
    ) -> Publish<'_, RawBody> {
        Publish::raw(self, AddressKind::Topic, topic.into(), RawBody(body))
    }

    /// Sends a command to its one queue. A reply, if its handler makes one, is dropped; see
    /// [`request`](Self::request).
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and [`Refusal::NoQueue`](crate::Refusal::NoQueue) when there is no such
    /// queue. A queue whose workers are down is one: the command waits there.
    ///
    /// # Cancel safety
    /// As [`publish`](Self::publish).
    pub fn send<C: Command>(&self, command: C) -> Publish<'_, C> {
        let key = command.key().map(Arc::from);
        Publish::new(self, AddressKind::Queue, C::QUEUE, command).keyed(key)
    }

    /// Sends a command now or not at all; never waits.
    ///
    /// # Errors
    /// Gives the command back with the reason, as [`try_publish`](Self::try_publish).
    pub fn try_send<C: Command>(&self, command: C) -> Result<Receipt, PublishError<C>> {
        self.send(command).try_now()
    }

    /// Sends a command and waits for its reply: for room and for the reply together no longer than the request
    /// timeout. In a handler use [`Context::request`](crate::Context::request), which sees deadlocks.
    ///
    /// # Errors
    /// See [`RequestError`](crate::RequestError).
    ///
    /// # Cancel safety
    /// Dropped after the command was accepted, the command is handled and its reply counted as late.
    pub fn request<C: Command>(&self, command: C) -> Request<'_, C> {
        Request::new(self, command)
    }

    /// The messages given up.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters(self.clone())
    }

    /// The messages that wait for their time.
    #[must_use]
    pub fn schedules(&self) -> super::Schedules {
        super::Schedules(self.clone())
    }

    /// The messages written in transactions, and the relay that publishes them; none: the bus has no store.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    #[must_use]
    pub fn outbox(&self) -> Option<crate::outbox::Outbox> {
        self.0.outbox.clone()
    }

    /// What an operator does with the bridge to RabbitMQ; none: there is no bridge.
    #[cfg(feature = "amqp")]
    #[must_use]
    pub fn amqp(&self) -> Option<crate::bridge::AmqpAdmin> {
        self.0.amqp.clone()
    }

    /// Counts and depths of every queue, exact for each queue at one instant. Takes each queue's lock once:
    /// fit for a metrics endpoint, not for every message.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::take(&self.0.broker)
    }

    /// Why the root of the supervision tree gave up, if it did; see [`Escalation`](crate::Escalation).
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.0.failure.get().map(String::as_str)
    }

    /// Resolves when the root of the supervision tree has given up, with the reason; see
    /// [`Escalation::StopBus`](crate::Escalation::StopBus). Not before, and never where escalations suspend.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn failed(&self) -> &str {
        self.0.failure.wait().await
    }

    /// Runs something on the control thread, which no handler can block.
    pub(super) async fn on_control<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (done, wait) = tokio::sync::oneshot::channel();
        self.0.broker.services.control.spawn(async move {
            // Who asked may have gone.
            let _ = done.send(work.await);
        });
        wait.await.ok()
    }
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus")
            .field("service", &self.0.service)
            .finish_non_exhaustive()
    }
}

/// Waits on this thread for a future that needs no runtime.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut cx = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        std::thread::park();
    }
}
