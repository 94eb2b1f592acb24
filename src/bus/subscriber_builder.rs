use std::marker::PhantomData;
use std::mem::discriminant;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::{Bus, Supervisor};
use crate::delivery::{Breaker, Order, Overflow, Restart, Retry};
use crate::message::{Command, Event, Name, NameError, Pattern};
use crate::subscriber::{
    Chain, CommandHandler, Dispatch, Empty, Factory, OnCommand, OnEvent, OnPattern, RawSubscriber,
    Subscriber,
};
use crate::supervisor::ChildSpec;

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
    pub(super) factory: F,
    pub(super) dispatch: D,
    pub(super) patterns: Vec<Result<Pattern, NameError>>,
    pub(super) commands: Vec<Name>,
    pub(super) order: Order,
    pub(super) has_order: bool,
    pub(super) has_two_orders: bool,
    pub(super) retry: Arc<Retry>,
    pub(super) depth: usize,
    pub(super) overflow: Overflow,
    pub(super) timeout: Option<Duration>,
    pub(super) breaker: Option<Breaker>,
    pub(super) child: Arc<ChildSpec>,
    pub(super) supervisor: Option<Supervisor>,
    pub(super) own_thread: bool,
    pub(super) shares: bool,
    pub(super) durable: bool,
    pub(super) handler: PhantomData<fn() -> H>,
}

impl<H: 'static, F: Factory<H>> SubscriberBuilder<H, F, Empty> {
    pub(super) fn new(bus: &Bus, name: String, factory: F) -> Self {
        let defaults = &bus.0.defaults;
        Self {
            name,
            factory,
            dispatch: Empty,
            patterns: Vec::new(),
            commands: Vec::new(),
            order: Order::Fifo,
            has_order: false,
            has_two_orders: false,
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
            has_order: self.has_order,
            has_two_orders: self.has_two_orders,
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
        let matcher = self.add_pattern(pattern);
        self.with(OnPattern(matcher))
    }

    /// An invalid one is kept as the error that `start` returns.
    pub(super) fn add_pattern(&mut self, pattern: &str) -> Pattern {
        let parsed = Pattern::new(pattern);
        let matcher = parsed.clone().unwrap_or_else(|_| Pattern::nothing());
        self.patterns.push(parsed);
        matcher
    }

    /// How failed deliveries are redelivered. Default: the bus's policy.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = Arc::new(retry);
        self
    }

    /// In which order messages are handled. Default: [`Order::Fifo`]. For [`Order::Keyed`] the retries of one
    /// message may wait for at most 5 minutes together. A subscriber has one: that `workers` and `keyed` are both said is an
    /// error at the start.
    pub fn order(mut self, order: Order) -> Self {
        let is_other = discriminant(&order) != discriminant(&self.order);
        self.has_two_orders |= self.has_order && is_other;
        self.has_order = true;
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
    /// A message may be handled again after a crash, and is not lost by one, where the database keeps what it has
    /// committed; `DropNewest` drops what it says. The bus is unready, and delayed messages stay, until
    /// [`Outbox::start_relay`](crate::Outbox::start_relay) was called.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// The default is shared until something is changed.
    fn child(&mut self) -> &mut ChildSpec {
        Arc::make_mut(&mut self.child)
    }
}

impl<H, F, D> std::fmt::Debug for SubscriberBuilder<H, F, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SubscriberBuilder")
            .field("name", &self.name)
            .field("order", &self.order)
            .finish_non_exhaustive()
    }
}
