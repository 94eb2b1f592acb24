use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{Actor, Addr, Handler};

use super::subscription::{Home, abandon};
use super::{Bus, Subscription, Supervisor, threads};
use crate::broker::{Gate, SubscribeRefusal};
use crate::delivery::{
    Breaker, BreakerError, Failure, Order, Outcome, Overflow, Restart, Retry, RetryError,
};
use crate::message::{Command, Event, Name, NameError, Pattern, validate_queue};
use crate::queue::{Foundation, QueueSpec};
use crate::subscriber::{
    ActorSubscriber, Chain, CommandFn, CommandHandler, Context, Delivery, Dispatch, Empty, EventFn,
    Factory, Fallible, Infallible, Member, MemberChild, OnCommand, OnEvent, OnPattern,
    RawSubscriber, Subscriber, WorkerThread,
};
use crate::supervisor::{AddChild, ChildSpec};

/// The longest that a lane of a keyed queue may wait over all retries of one message (contract, rule 7).
const LONGEST_HOLD: Duration = Duration::from_secs(300);

/// Why a subscriber could not be started.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The name, a topic or a queue is not a valid name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The retry policy cannot be followed.
    #[error(transparent)]
    Retry(#[from] RetryError),
    /// The breaker cannot work.
    #[error(transparent)]
    Breaker(#[from] BreakerError),
    /// It subscribes to nothing.
    #[error("the subscriber `{0}` handles nothing: add `.on`, `.command` or `.pattern`")]
    HandlesNothing(String),
    /// A mailbox, or a number of workers or lanes, of zero.
    #[error("the {what} of `{name}` must be at least 1")]
    Zero {
        /// The subscriber.
        name: String,
        /// What is zero.
        what: &'static str,
    },
    /// In keyed order a message that is retried holds up its key: for no longer than 5 minutes.
    #[error("the retries of `{name}` may hold a key for {hold:?}, the most is {most:?}")]
    HoldsTooLong {
        /// The subscriber.
        name: String,
        /// The longest hold of its policy.
        hold: Duration,
        /// The longest that is allowed.
        most: Duration,
    },
    /// A group of this name runs with other settings.
    #[error("the group `{name}` runs with another {what}")]
    GroupMismatch {
        /// The group.
        name: String,
        /// The first setting that differs.
        what: &'static str,
    },
    /// A command has one queue, and another subscriber has it.
    #[error("the command queue `{queue}` belongs to `{owner}`")]
    CommandTaken {
        /// The command's queue.
        queue: String,
        /// The subscriber that has it.
        owner: String,
    },
    /// Of what it wants one part is imported by the bridge and another is not: messages would come by two ways,
    /// in no order. Import all of it, or make two subscribers.
    #[error("`{name}` wants `{imported}`, which is imported, and `{local}`, which is not")]
    MixedBacking {
        /// The subscriber.
        name: String,
        /// A pattern or queue that is imported.
        imported: String,
        /// One that is not, or not wholly.
        local: String,
    },
    /// A handler is transactional, and the bus was built without a store.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    #[error("`{0}` is transactional, and the bus has no store: build it with `Builder::store`")]
    NoStore(String),
    /// A handler is transactional over another database than the bus's store.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    #[error("the bus's store is {store}, and `{name}` is transactional over another")]
    OtherDatabase {
        /// The subscriber.
        name: String,
        /// The database of the store.
        store: &'static str,
    },
    /// It is to be kept in the store, and cannot be.
    #[error("the queue of `{name}` cannot be durable: {why}")]
    NotDurable {
        /// The subscriber.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// No thread could be had for `own_thread`.
    #[error("no thread for `{name}`: {why}")]
    Thread {
        /// The subscriber.
        name: String,
        /// What the operating system said.
        why: String,
    },
    /// The bus is shut down, or the supervisor is stopped.
    #[error("the bus is shut down, or the supervisor is stopped")]
    Closed,
}

/// A subscriber about to be started. Made by [`Bus::subscriber`] and its siblings.
///
/// | setting | default | how to choose |
/// |---|---|---|
/// | `order` | [`Order::Fifo`] | `keyed` where only what concerns one thing must be in order; `workers` where nothing |
/// | `mailbox` | the bus's, 1024 messages | how much of a burst to keep, times the size of a message |
/// | `overflow` | [`Overflow::Wait`] | drop only what a later message makes worthless |
/// | `retry` | the bus's | see [`Retry`] |
/// | `timeout` | the bus's, 30 s | above the slowest honest handling; what runs into it runs again |
/// | `breaker` | none | where the handler calls something that can be down for long |
/// | `restart` | [`Restart::Permanent`] | `Transient` for a job that ends by `Context::stop` |
/// | `intensity` | 10 in 30 s | so many different messages may break the handler before someone should look |
/// | `restart_backoff` | 10 ms to 5 s | as long as what the factory connects to takes to recover |
/// | `stop_timeout` | 5 s | the slowest handling that is worth finishing |
///
/// ```
/// # use postroom::{Bus, Context, Event, Outcome, Retry, Subscriber};
/// # use serde::{Deserialize, Serialize};
/// # use std::time::Duration;
/// # #[derive(Serialize, Deserialize)] struct OrderPaid { order: u64 }
/// # impl Event for OrderPaid { const TOPIC: &'static str = "ordering.order-paid"; }
/// # struct Mailer;
/// # impl Subscriber<OrderPaid> for Mailer {
/// #     async fn handle(&mut self, _: &OrderPaid, _: &mut Context<'_>) -> Outcome { Ok(()) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let bus = Bus::builder("shop").start().await?;
/// let mailer = bus
///     .subscriber("mailer", || Mailer)
///     .on::<OrderPaid>()
///     .keyed(8)
///     .retry(Retry::exponential(Duration::from_millis(100)..Duration::from_secs(10)).attempts(5))
///     .timeout(Duration::from_secs(2))
///     .start()
///     .await?;
/// mailer.stop(Duration::from_secs(5)).await;
/// # bus.shutdown(Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
#[must_use = "nothing is subscribed until it is started"]
pub struct SubscriberBuilder<H, F, D> {
    pub(super) bus: Bus,
    pub(super) name: String,
    factory: F,
    pub(super) dispatch: D,
    pub(super) patterns: Vec<Result<Pattern, NameError>>,
    pub(super) commands: Vec<Name>,
    order: Order,
    retry: Arc<Retry>,
    depth: usize,
    overflow: Overflow,
    timeout: Option<Duration>,
    breaker: Option<Breaker>,
    child: Arc<ChildSpec>,
    supervisor: Option<Supervisor>,
    own_thread: bool,
    shares: bool,
    durable: bool,
    handler: PhantomData<fn() -> H>,
}

#[expect(
    clippy::type_complexity,
    reason = "the factory of a function has no name of its own"
)]
impl Bus {
    /// A subscriber whose handler values are made by `factory`: one for each worker, and a fresh one after
    /// every panic and timeout. What must outlive those (a connection pool, a map of orders) is made outside
    /// and cloned in.
    ///
    /// The name is the group's and the queue's. Another subscriber of the same name, here or in another task,
    /// competes for the same messages; every other name gets a copy of its own.
    pub fn subscriber<H: 'static, F>(
        &self,
        name: impl Into<String>,
        factory: F,
    ) -> SubscriberBuilder<H, Infallible<F>, Empty>
    where
        F: Fn() -> H + Send + Sync + 'static,
    {
        SubscriberBuilder::new(self, name.into(), Infallible(factory))
    }

    /// Like [`subscriber`](Self::subscriber), with a factory that may wait and may fail: to connect, to read
    /// what the handler works on. A failure counts as a restart: it is tried again with backoff, and more
    /// than the intensity allows suspend the subscription. No timeout of ours ends a factory that waits.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use postroom::{Context, Event, Outcome, Subscriber};
    /// # #[derive(Serialize, Deserialize)] struct OrderPaid { order: u64 }
    /// # impl Event for OrderPaid { const TOPIC: &'static str = "ordering.order-paid"; }
    /// # struct Connection;
    /// # async fn connect() -> Result<Connection, std::io::Error> { Ok(Connection) }
    /// struct Mailer { connection: Connection }
    /// # impl Subscriber<OrderPaid> for Mailer {
    /// #     async fn handle(&mut self, _: &OrderPaid, _: &mut Context<'_>) -> Outcome { Ok(()) }
    /// # }
    /// # async fn subscribe(bus: &postroom::Bus) -> Result<(), postroom::SubscribeError> {
    /// bus.try_subscriber("mailer", async || connect().await.map(|connection| Mailer { connection }))
    ///     .on::<OrderPaid>()
    ///     .start()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn try_subscriber<H: 'static, E, F>(
        &self,
        name: impl Into<String>,
        factory: F,
    ) -> SubscriberBuilder<H, Fallible<F>, Empty>
    where
        E: std::fmt::Display,
        F: AsyncFn() -> Result<H, E> + Send + Sync + 'static,
    {
        SubscriberBuilder::new(self, name.into(), Fallible(factory))
    }

    /// A function as a subscriber. One value serves all workers, so its captures are shared, not `&mut`.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)] struct OrderPaid { order: u64 }
    /// # impl postroom::Event for OrderPaid { const TOPIC: &'static str = "ordering.order-paid"; }
    /// # async fn subscribe(bus: &postroom::Bus) -> Result<(), postroom::SubscribeError> {
    /// bus.subscribe_fn::<OrderPaid, _>("audit", async |paid, cx| {
    ///     println!("order {} is paid, attempt {}", paid.order, cx.attempt());
    ///     Ok(())
    /// })
    /// .start()
    /// .await?;
    /// # Ok(()) }
    /// ```
    pub fn subscribe_fn<E: Event, F>(
        &self,
        name: &str,
        function: F,
    ) -> SubscriberBuilder<
        EventFn<F, E>,
        Infallible<impl Fn() -> EventFn<F, E> + Send + Sync + 'static + use<E, F>>,
        Chain<OnEvent<E>, Empty>,
    >
    where
        F: AsyncFn(&E, &mut Context<'_>) -> Outcome + Send + Sync + 'static,
    {
        let function = Arc::new(function);
        self.subscriber(name, move || EventFn(Arc::clone(&function), PhantomData))
            .on::<E>()
    }

    /// A function as a command handler: `bus.handle_fn::<C, _>("name", async |command, cx| { … })`. It returns
    /// the reply.
    pub fn handle_fn<C: Command, F>(
        &self,
        name: &str,
        function: F,
    ) -> SubscriberBuilder<
        CommandFn<F, C>,
        Infallible<impl Fn() -> CommandFn<F, C> + Send + Sync + 'static + use<C, F>>,
        Chain<OnCommand<C>, Empty>,
    >
    where
        F: AsyncFn(&C, &mut Context<'_>) -> Result<C::Reply, Failure> + Send + Sync + 'static,
    {
        let function = Arc::new(function);
        self.subscriber(name, move || CommandFn(Arc::clone(&function), PhantomData))
            .command::<C>()
    }

    /// An actix actor as a subscriber, by a factory of its address; what it answers acknowledges. The factory
    /// runs on a thread of the bus that has an actix system, so it may start the actor there. It is asked
    /// again when the actor was found closed.
    ///
    /// A timeout fails the attempt, but cannot stop the actor: it may still be at work on the message when the
    /// next attempt arrives.
    pub fn subscribe_actor<E, A, M>(
        &self,
        name: &str,
        make: M,
    ) -> SubscriberBuilder<
        ActorSubscriber<A, E, M>,
        Infallible<impl Fn() -> ActorSubscriber<A, E, M> + Send + Sync + 'static + use<E, A, M>>,
        Chain<OnEvent<E>, Empty>,
    >
    where
        E: Event,
        A: Actor<Context = actix::Context<A>> + Handler<Delivery<E>>,
        M: Fn() -> Addr<A> + Clone + Send + Sync + 'static,
    {
        let make = move || ActorSubscriber {
            make: make.clone(),
            address: make(),
            event: PhantomData,
        };
        let mut builder = self.subscriber(name, make).on::<E>();
        builder.shares = true;
        builder
    }
}

impl<H: 'static, F: Factory<H>> SubscriberBuilder<H, F, Empty> {
    fn new(bus: &Bus, name: String, factory: F) -> Self {
        let defaults = &bus.0.defaults;
        Self {
            name,
            factory,
            dispatch: Empty,
            patterns: Vec::new(),
            commands: Vec::new(),
            order: Order::Fifo,
            retry: Arc::clone(&defaults.retry),
            depth: defaults.mailbox,
            overflow: Overflow::Wait,
            timeout: defaults.handler_timeout,
            breaker: None,
            child: Arc::clone(&defaults.child),
            supervisor: None,
            own_thread: false,
            shares: false,
            durable: false,
            bus: bus.clone(),
            handler: PhantomData,
        }
    }
}

impl<H: 'static, F: Factory<H>, D: Dispatch<H>> SubscriberBuilder<H, F, D> {
    pub(super) fn with<First>(self, first: First) -> SubscriberBuilder<H, F, Chain<First, D>> {
        SubscriberBuilder {
            dispatch: Chain {
                first,
                rest: self.dispatch,
            },
            bus: self.bus,
            name: self.name,
            factory: self.factory,
            patterns: self.patterns,
            commands: self.commands,
            order: self.order,
            retry: self.retry,
            depth: self.depth,
            overflow: self.overflow,
            timeout: self.timeout,
            breaker: self.breaker,
            child: self.child,
            supervisor: self.supervisor,
            own_thread: self.own_thread,
            shares: self.shares,
            durable: self.durable,
            handler: PhantomData,
        }
    }

    /// Also handles events of type `E`. An event published on the same topic by another type, or as JSON, is
    /// decoded into `E`.
    pub fn on<E: Event>(mut self) -> SubscriberBuilder<H, F, Chain<OnEvent<E>, D>>
    where
        H: Subscriber<E>,
    {
        let topic = crate::message::validate_topic(E::TOPIC).and_then(|()| Pattern::new(E::TOPIC));
        self.patterns.push(topic);
        self.with(OnEvent(PhantomData))
    }

    /// Also handles commands of type `C`; the queue has this one home.
    pub fn command<C: Command>(mut self) -> SubscriberBuilder<H, F, Chain<OnCommand<C>, D>>
    where
        H: CommandHandler<C>,
    {
        self.commands.push(Name::Static(C::QUEUE));
        self.with(OnCommand(PhantomData))
    }

    /// Also sees every event whose topic matches, whatever its type. A message that another handler of this
    /// subscriber takes by its exact type goes only there.
    pub fn pattern(mut self, pattern: &str) -> SubscriberBuilder<H, F, Chain<OnPattern, D>>
    where
        H: RawSubscriber,
    {
        let parsed = Pattern::new(pattern);
        // An invalid one is kept as the error that `start` returns.
        let matcher = parsed.clone().unwrap_or_else(|_| Pattern::nothing());
        self.patterns.push(parsed);
        self.with(OnPattern(matcher))
    }

    /// How failed deliveries are redelivered. Default: the bus's policy.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = Arc::new(retry);
        self
    }

    /// In which order messages are handled. Default: [`Order::Fifo`]. For [`Order::Keyed`] the retries of one
    /// message may wait for at most 5 minutes together.
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Handles up to `workers` messages at a time, in no order.
    pub fn workers(self, workers: usize) -> Self {
        self.order(Order::Unordered { workers })
    }

    /// Handles up to `lanes` keys at a time, each key in order, over retries too. Messages without a key are
    /// in no order.
    pub fn keyed(self, lanes: usize) -> Self {
        self.order(Order::Keyed { lanes })
    }

    /// The queue's bound, in messages: queued, in flight and waiting together. Default: the bus's.
    pub fn mailbox(mut self, messages: usize) -> Self {
        self.depth = messages;
        self
    }

    /// What happens to a message for a full mailbox. Default: the publisher waits. No matter for a subscription
    /// over RabbitMQ, whose queue there keeps what the mailbox has no place for.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// The longest that one attempt may take. It acts where the handler awaits.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Attempts may take for ever. A handler that never ends then holds its worker, and with it a stop, up to
    /// its deadline.
    pub fn no_timeout(mut self) -> Self {
        self.timeout = None;
        self
    }

    /// Pauses hand-over while too many attempts fail. Default: none.
    pub fn breaker(mut self, breaker: Breaker) -> Self {
        self.breaker = Some(breaker);
        self
    }

    /// Whether a worker that ended is started again. Default: always.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.child().restart = restart;
        self
    }

    /// More than this many restarts in `period` suspend the subscription. Default: 10 in 30 s. Failures on
    /// one message count once.
    pub fn intensity(mut self, restarts: u32, period: Duration) -> Self {
        let child = self.child();
        child.intensity = restarts;
        child.period = period;
        self
    }

    /// The waits between restarts, after a first one at once. Default: 10 ms, doubling up to 5 s.
    pub fn restart_backoff(mut self, waits: Range<Duration>) -> Self {
        let child = self.child();
        child.backoff_initial = waits.start;
        child.backoff_cap = waits.end;
        self
    }

    /// How long a worker may take to finish the message in hand when a sibling's failure or a shutdown stops
    /// it; then it is cut off, and the attempt does not count. When siblings are started again, in order, it is
    /// also how long the next one waits for this one's handlers to be made. Default: 5 s.
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.child().stop_timeout = timeout;
        self
    }

    /// Which supervisor keeps it running. Default: the bus's root, one for one.
    pub fn under(mut self, supervisor: &Supervisor) -> Self {
        self.supervisor = Some(supervisor.clone());
        self
    }

    /// Runs its workers on one thread of their own: for a handler that blocks or burns CPU. Costs a thread.
    pub fn own_thread(mut self) -> Self {
        self.own_thread = true;
        self
    }

    /// Keeps the queue in the store of the bus: what was accepted, its attempts, waiting retries and dead letters outlive
    /// the process, `kill -9` included. A publish to it waits for a commit, which many publishers share.
    ///
    /// The queue is a table there, bounded by [`Durable::rows`](crate::Durable::rows); the mailbox bounds what is in
    /// memory. Of several processes one at a time consumes it, and another takes over when that has ended. See
    /// `docs/durable-queues.md`.
    ///
    /// A message may be handled again after a crash; never lost.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// The default is shared until something is changed.
    fn child(&mut self) -> &mut ChildSpec {
        Arc::make_mut(&mut self.child)
    }

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
        let hold = self.retry.longest_hold();
        if matches!(self.order, Order::Keyed { .. }) && hold > LONGEST_HOLD {
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
    /// Not safe: dropped while it waits, the queue may exist and accept without a worker.
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
        let foundation = self.foundation(&spec)?;
        spec.durable = foundation.backing.is_stored();
        let queue = inner
            .broker
            .table
            .join(&self.name, spec, services, foundation)
            .map_err(|refusal| {
                let name = self.name.clone();
                match refusal {
                    SubscribeRefusal::Mismatch { what } => {
                        SubscribeError::GroupMismatch { name, what }
                    }
                    SubscribeRefusal::CommandTaken { queue, by } => {
                        SubscribeError::CommandTaken { queue, owner: by }
                    }
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
        match supervisor.send(add).await {
            Ok(Some(child)) => {
                if let Some(bridge) = &inner.broker.bridge
                    && queue.backing().is_bridged()
                {
                    bridge.attach(&queue).await;
                }
                if let Some(stored) = &inner.broker.stored
                    && queue.backing().is_stored()
                {
                    stored.attach(&queue).await;
                }
                Ok(Subscription::new(
                    bus,
                    queue,
                    Home {
                        supervisor,
                        child,
                        thread,
                    },
                ))
            }
            Ok(None) | Err(_) => {
                if inner.broker.table.leave(&queue) {
                    // It may have accepted something since it joined.
                    abandon(&queue).await;
                }
                if let Some(thread) = &thread {
                    threads::end(thread);
                }
                Err(SubscribeError::Closed)
            }
        }
    }
}
