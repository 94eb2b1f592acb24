use std::sync::Arc;
use std::time::Duration;

use super::threads::Threads;
use crate::broker::Limits;
use crate::delivery::Retry;
use crate::ports::Interceptor;
use crate::supervisor::ChildSpec;
use crate::time::Clock;

/// What a failure does that reaches the root of the supervision tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Escalation {
    /// The subscription or supervisor is suspended; the bus runs on.
    #[default]
    Suspend,
    /// The bus refuses publishes; [`Bus::failed`](crate::Bus::failed) and [`Bus::until_signal`](crate::Bus::until_signal)
    /// resolve, [`Bus::failure`](crate::Bus::failure) says why, and its owner shuts it down.
    StopBus,
}

/// The defaults of a bus; each can be changed for one subscriber.
#[derive(Clone, Debug)]
pub(super) struct Defaults {
    pub(super) mailbox: usize,
    pub(super) publish_timeout: Duration,
    pub(super) request_timeout: Duration,
    pub(super) handler_timeout: Option<Duration>,
    pub(super) release_timeout: Duration,
    pub(super) retry: Arc<Retry>,
    pub(super) child: Arc<ChildSpec>,
    /// Local queues are kept in the store.
    pub(super) durable: bool,
}

/// Makes a [`Bus`](crate::Bus). Made by [`Bus::builder`](crate::Bus::builder).
///
/// | setting | default | how to choose |
/// |---|---|---|
/// | `threads` | `Own(1)` | more when handlers burn CPU; one when they wait. One more thread is for control |
/// | `mailbox` | 1024 messages | what may be in memory per queue; larger hides a slow consumer for longer |
/// | `publish_timeout` | 30 s | longer than the longest burst takes to drain, shorter than your caller waits |
/// | `request_timeout` | 30 s | longer than the handler's retries take, shorter than your caller waits |
/// | `handler_timeout` | 30 s | longer than the slowest honest handling |
/// | `release_timeout` | 5 s | how long a worker waits to send what its handler recorded |
/// | `retry` | 5 attempts, 100 ms to 30 s | see [`Retry`] |
/// | `dead_letter_capacity` | 10,000 | how many failures you want to be able to replay; each keeps its message |
/// | `schedule_capacity` | 100,000 | how many delayed messages may be in memory |
/// | `body_limit` | none | only where a peer has one: it makes every body be encoded |
/// | `stuck_after` | 10 s | longer than any handler may honestly compute without awaiting |
/// | `on_escalation` | `Suspend` | `StopBus` where a process that cannot do its work should end |
///
/// `mailbox`, `handler_timeout` and `retry` can be set for one subscriber, the publish and request timeouts
/// for one message.
///
/// ```
/// use std::time::Duration;
/// use postroom::{Bus, Retry, Threads};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let bus = Bus::builder("shop")
///     .threads(Threads::Own(2))
///     .mailbox(256)
///     .handler_timeout(Duration::from_secs(5))
///     .retry(Retry::exponential(Duration::from_millis(50)..Duration::from_secs(10)).attempts(8))
///     .start()
///     .await?;
/// # bus.shutdown(Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
pub struct Builder {
    pub(super) service: String,
    pub(super) threads: Threads,
    pub(super) defaults: Defaults,
    pub(super) limits: Limits,
    pub(super) dead_letter_capacity: usize,
    pub(super) interceptors: Vec<Arc<dyn Interceptor>>,
    pub(super) clock: Clock,
    pub(super) escalation: Escalation,
    #[cfg(feature = "amqp")]
    pub(super) amqp: Option<crate::bridge::Amqp>,
    pub(super) stuck_after: Duration,
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) store: Option<Arc<dyn crate::store::Store>>,
    /// The first setting of a store that was made.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) needs_store: Option<&'static str>,
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) store_settings: crate::outbox::Settings,
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) durable: crate::durable::Durable,
}

impl Builder {
    pub(super) fn new(service: String) -> Self {
        Self {
            service,
            threads: Threads::Own(1),
            defaults: Defaults {
                mailbox: 1024,
                publish_timeout: Duration::from_secs(30),
                request_timeout: Duration::from_secs(30),
                handler_timeout: Some(Duration::from_secs(30)),
                release_timeout: Duration::from_secs(5),
                retry: Arc::default(),
                child: Arc::default(),
                durable: false,
            },
            limits: Limits {
                schedule_capacity: 100_000,
                body_limit: None,
                encode_always: false,
            },
            dead_letter_capacity: 10_000,
            interceptors: Vec::new(),
            clock: Clock::system(),
            escalation: Escalation::Suspend,
            #[cfg(feature = "amqp")]
            amqp: None,
            stuck_after: Duration::from_secs(10),
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            store: None,
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            needs_store: None,
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            store_settings: crate::outbox::Settings::default(),
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            durable: crate::durable::Durable::default(),
        }
    }

    /// Where workers run. Default: on one thread of the bus's own.
    #[must_use]
    pub fn threads(mut self, threads: Threads) -> Self {
        self.threads = threads;
        self
    }

    /// The default bound of each queue, in messages: queued, in flight and waiting for a retry together.
    /// At least 1.
    #[must_use]
    pub fn mailbox(mut self, messages: usize) -> Self {
        self.defaults.mailbox = messages;
        self
    }

    /// The longest that a publish waits: for full mailboxes, the confirm of RabbitMQ and the commit of the store,
    /// together.
    #[must_use]
    pub fn publish_timeout(mut self, timeout: Duration) -> Self {
        self.defaults.publish_timeout = timeout;
        self
    }

    /// The longest that a request waits for its reply.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.defaults.request_timeout = timeout;
        self
    }

    /// The longest that one attempt may take. It acts where the handler awaits; the attempt then has failed,
    /// and the handler value is replaced.
    #[must_use]
    pub fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.defaults.handler_timeout = Some(timeout);
        self
    }

    /// The longest that a worker tries to send what its handler recorded; then the attempt fails. It holds the
    /// worker, so keep it short.
    #[must_use]
    pub fn release_timeout(mut self, timeout: Duration) -> Self {
        self.defaults.release_timeout = timeout;
        self
    }

    /// The default retry policy.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.defaults.retry = Arc::new(retry);
        self
    }

    /// How many dead letters are kept in memory; when full the oldest is evicted, and counted. At least 1. With a store they
    /// are kept there, see [`DeadLetters`](crate::DeadLetters).
    #[must_use]
    pub fn dead_letter_capacity(mut self, letters: usize) -> Self {
        self.dead_letter_capacity = letters;
        self
    }

    /// How many delayed messages are kept in memory; more are refused with
    /// [`Refusal::ScheduleFull`](crate::Refusal::ScheduleFull). With a store they are kept there, without a bound.
    #[must_use]
    pub fn schedule_capacity(mut self, messages: usize) -> Self {
        self.limits.schedule_capacity = messages;
        self
    }

    /// The largest body, in bytes of JSON. Unlimited by default: a limit makes every body be encoded.
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.limits.body_limit = Some(bytes);
        self
    }

    /// Hands every message over as over AMQP, for tests: encoded when it is published, and decoded anew for each
    /// handler. No handler gets the sender's value, and replies are encoded too.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn encode_always(mut self) -> Self {
        self.limits.encode_always = true;
        self.limits.body_limit.get_or_insert(usize::MAX);
        self
    }

    /// Adds code around every publish and handling; the first added is the outermost.
    #[must_use]
    pub fn intercept(mut self, interceptor: impl Interceptor) -> Self {
        self.interceptors.push(Arc::new(interceptor));
        self
    }

    /// Bridges the bus to RabbitMQ: what crosses, and how, is said by [`Amqp`](crate::Amqp). Handlers do not
    /// change by it.
    #[cfg(feature = "amqp")]
    #[must_use]
    pub fn bridge(mut self, amqp: crate::bridge::Amqp) -> Self {
        self.amqp = Some(amqp);
        self
    }

    /// Keeps messages in a database, so that they can be written in the application's own transactions
    /// ([`Publish::in_transaction`](crate::Publish::in_transaction)). See [`Outbox`](crate::Outbox).
    ///
    /// Opens three connections of its own, and three more with the first durable queue, delayed message or dead letter;
    /// `docs/outbox.md` counts them all. The first makes the tables, unless [`migrations`](Self::migrations) says
    /// otherwise.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    #[must_use]
    pub fn store(mut self, store: impl crate::store::Store) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// How the outbox is relayed. Without a [`store`](Self::store) the start fails, as by the other settings of one.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    #[must_use]
    pub fn relay(mut self, relay: crate::outbox::Relay) -> Self {
        self.store_settings.relay = relay;
        self.needs_store.get_or_insert("relay");
        self
    }

    /// How durable queues are kept. It makes none: that do [`durable_queues`](Self::durable_queues), for all, and
    /// [`SubscriberBuilder::durable`](crate::SubscriberBuilder::durable).
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    #[must_use]
    pub fn durable_settings(mut self, durable: crate::durable::Durable) -> Self {
        self.durable = durable;
        self.needs_store.get_or_insert("durable_settings");
        self
    }

    /// Keeps the queue of every local subscription in the store, but for those that want our own events (topics of
    /// `postroom.`) and those that drop their oldest message: see
    /// [`SubscriberBuilder::durable`](crate::SubscriberBuilder::durable). Without a store every subscription fails.
    ///
    /// Of several processes on one database one consumes a queue. A request is answered only there: one that another
    /// process makes ends by its timeout.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    #[must_use]
    pub fn durable_queues(mut self) -> Self {
        self.defaults.durable = true;
        self
    }

    /// Who makes the tables of the store. Default: the store.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    #[must_use]
    pub fn migrations(mut self, migrations: crate::store::Migrations) -> Self {
        self.store_settings.migrations = migrations;
        self.needs_store.get_or_insert("migrations");
        self
    }

    /// What a bus does that is started while the database of its store is not there. Default: it starts, is unready,
    /// and keeps trying.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    #[must_use]
    pub fn store_when_down(mut self, when_down: crate::ports::WhenDown) -> Self {
        self.store_settings.when_down = when_down;
        self.needs_store.get_or_insert("store_when_down");
        self
    }

    /// What the bus reads the time from. Default: the machine. For tests that must not wait see
    /// [`ManualClock`](crate::ManualClock).
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// What a failure does that reaches the root of the supervision tree. Default: [`Escalation::Suspend`].
    #[must_use]
    pub fn on_escalation(mut self, escalation: Escalation) -> Self {
        self.escalation = escalation;
        self
    }

    /// How long a handler may keep its thread without awaiting, before it counts as stuck. Default: 10 s.
    ///
    /// A stuck handler cannot be ended from outside, and nothing else on its thread goes on. It is told as
    /// [`LifecycleKind::Stuck`](crate::LifecycleKind::Stuck), counted in
    /// [`QueueSnapshot::stuck`](crate::QueueSnapshot::stuck), and makes the bus unready
    /// ([`Bus::health`](crate::Bus::health)) until it lets go; within `stuck_after` and a quarter of it, or a second where that is
    /// shorter. Choose it longer than the longest computation of an honest handler and shorter than you want
    /// to stay unaware. A factory that blocks is noticed too. An actix actor is not: it runs beside its
    /// subscriber, which sees the handler timeout instead when its thread is another one.
    ///
    /// By real time also with a manual clock, which does not move by itself while a handler blocks.
    #[must_use]
    pub fn stuck_after(mut self, time: Duration) -> Self {
        self.stuck_after = time;
        self
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("service", &self.service)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}
