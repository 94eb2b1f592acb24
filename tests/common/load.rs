//! Load for the fault tests: a bus that publishes, a bus that handles, and the oracle between them.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lapin::options::{BasicGetOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use postroom::{
    Amqp, Bridged, Bus, Event, Failure, Lifecycle, LifecycleKind, LocalBoxFuture, Refusal, Retry,
    Subscription, SubscriptionState,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::rabbit::Rabbit;
use super::{Log, Oracle, Verdict, check_books};

/// The longest that anything may take to heal.
pub(crate) const HEALING: Duration = Duration::from_secs(60);
/// How often a look is taken at what nobody tells.
const LOOK: Duration = Duration::from_millis(20);
/// The wait of a publishing task between two messages.
const PACE: Duration = Duration::from_millis(20);

/// The message of the load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Numbered {
    pub(crate) id: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) padding: String,
}

impl Event for Numbered {
    const TOPIC: &'static str = "load.numbered";
}

/// What the handler does with the number of a message and of its attempt, before the message counts as handled.
pub(crate) type Handler =
    Arc<dyn Fn(u64, u32) -> LocalBoxFuture<'static, Result<(), Failure>> + Send + Sync>;

/// A handler that only counts.
pub(crate) fn at_once() -> Handler {
    Arc::new(|_, _| Box::pin(async { Ok(()) }))
}

/// A handler that takes its time.
pub(crate) fn taking(time: Duration) -> Handler {
    Arc::new(move |_, _| {
        Box::pin(async move {
            tokio::time::sleep(time).await;
            Ok(())
        })
    })
}

/// Whether the long durations are asked for, by `scripts/soak`.
pub(crate) fn soaks() -> bool {
    std::env::var_os("POSTROOM_SOAK").is_some_and(|value| value == "1")
}

/// How the two buses are set up.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) publish_url: String,
    pub(crate) consume_url: String,
    /// Not through a proxy: for looking at the queue.
    pub(crate) look_url: String,
    pub(crate) amqp: fn(Amqp) -> Amqp,
    pub(crate) workers: usize,
    pub(crate) retry: Retry,
    pub(crate) handler: Handler,
}

impl Setup {
    pub(crate) fn at(rabbit: &Rabbit) -> Self {
        let url = rabbit.url().to_owned();
        Self {
            publish_url: url.clone(),
            consume_url: url.clone(),
            look_url: url,
            amqp: |amqp| amqp,
            workers: 4,
            retry: Retry::none(),
            handler: at_once(),
        }
    }

    fn bridge(&self, url: &str, prefix: &str) -> Amqp {
        let amqp = Amqp::new(url)
            .prefix(prefix)
            .heartbeat(Duration::from_secs(1))
            .connect_timeout(Duration::from_secs(2));
        (self.amqp)(amqp)
    }
}

/// Two buses, and what the oracle knows of what passes between them.
pub(crate) struct Load {
    pub(crate) cell: String,
    pub(crate) oracle: Oracle,
    pub(crate) setup: Setup,
    pub(crate) prefix: String,
    pub(crate) service: String,
    pub(crate) publishing: Bus,
    pub(crate) handling: Bus,
    pub(crate) subscription: Subscription,
    pub(crate) lifecycle: Log<Lifecycle>,
    next: AtomicU64,
    began: Instant,
}

/// How publishes ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcomes {
    pub(crate) accepted: u64,
    pub(crate) unreachable: u64,
    pub(crate) unconfirmed: u64,
    pub(crate) rejected: u64,
    pub(crate) closed: u64,
}

impl Outcomes {
    fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.unreachable += other.unreachable;
        self.unconfirmed += other.unconfirmed;
        self.rejected += other.rejected;
        self.closed += other.closed;
    }
}

impl Load {
    /// Starts both buses, and waits until the queue is consumed.
    pub(crate) async fn start(cell: &str, setup: Setup) -> Arc<Self> {
        let load = Self::start_unconsumed(cell, setup, &Rabbit::unique("sink")).await;
        load.until("the queue is consumed", async || {
            load.consumers().await == 1
        })
        .await;
        load
    }

    /// Starts both buses.
    pub(crate) async fn start_unconsumed(cell: &str, setup: Setup, service: &str) -> Arc<Self> {
        trace();
        let prefix = Rabbit::unique("load");
        let publishing = Bus::builder(Rabbit::unique("source"))
            .bridge(setup.bridge(&setup.publish_url, &prefix).export("load.#"))
            .start()
            .await
            .unwrap();
        let oracle = Oracle::default();
        let lifecycle = listened(&publishing, Log::new()).await;
        let (handling, subscription) = consumer(&setup, &prefix, service, &oracle).await;
        let lifecycle = listened(&handling, lifecycle).await;
        Arc::new(Self {
            cell: cell.to_owned(),
            oracle,
            setup,
            prefix,
            service: service.to_owned(),
            publishing,
            handling,
            subscription,
            lifecycle,
            next: AtomicU64::new(0),
            began: Instant::now(),
        })
    }

    /// The name of the queue on the broker.
    pub(crate) fn queue(&self) -> String {
        format!("{}.work", self.service)
    }

    /// A second bus of the same service, after the first was shut down: it handles what was left.
    pub(crate) async fn successor(&self, handler: Handler) -> (Bus, Subscription) {
        let setup = Setup {
            handler,
            ..self.setup.clone()
        };
        consumer(&setup, &self.prefix, &self.service, &self.oracle).await
    }

    /// Publishes one message, and tells the oracle how that ended.
    pub(crate) async fn publish(&self, timeout: Duration) -> Outcomes {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let padding = String::new();
        self.publish_message(Numbered { id, padding }, timeout)
            .await
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The next number of a kind; those before it are left out.
    pub(crate) fn next_id_where(&self, is_one: impl Fn(u64) -> bool) -> u64 {
        std::iter::repeat_with(|| self.next_id())
            .find(|id| is_one(*id))
            .unwrap()
    }

    pub(crate) async fn publish_message(&self, message: Numbered, timeout: Duration) -> Outcomes {
        let id = message.id;
        let mut outcomes = Outcomes::default();
        self.oracle.attempt(id);
        match self.publishing.publish(message).timeout(timeout).await {
            Ok(receipt) => {
                assert_eq!(receipt.bridged, Bridged::Routed, "the queue is bound");
                self.oracle.accept(id);
                outcomes.accepted += 1;
            }
            Err(error) => match error.kind() {
                Refusal::Unconfirmed { .. } => {
                    self.oracle.unknown(id);
                    outcomes.unconfirmed += 1;
                }
                Refusal::Unreachable { .. } => outcomes.unreachable += 1,
                Refusal::Rejected { .. } | Refusal::Nacked { .. } => outcomes.rejected += 1,
                Refusal::Closed => outcomes.closed += 1,
                other => panic!("{other:?}"),
            },
        }
        outcomes
    }

    /// Publishes so many messages by so many tasks, each with this deadline.
    pub(crate) fn burst(
        self: &Arc<Self>,
        messages: u64,
        tasks: u64,
        timeout: Duration,
    ) -> Publishing {
        let mut set = JoinSet::new();
        for task in 0..tasks {
            let load = Arc::clone(self);
            let share = messages / tasks + u64::from(task < messages % tasks);
            set.spawn(async move {
                let mut outcomes = Outcomes::default();
                let mut pace = pace();
                for _ in 0..share {
                    outcomes.add(load.publish(timeout).await);
                    pace.tick().await;
                }
                outcomes
            });
        }
        let ended = Arc::new(AtomicBool::new(false));
        Publishing { set, ended }
    }

    /// Publishes by so many tasks until it is ended, each message with this deadline.
    pub(crate) fn flow(self: &Arc<Self>, tasks: u64, timeout: Duration) -> Publishing {
        let mut set = JoinSet::new();
        let ended = Arc::new(AtomicBool::new(false));
        for _ in 0..tasks {
            let (load, ended) = (Arc::clone(self), Arc::clone(&ended));
            set.spawn(async move {
                let mut outcomes = Outcomes::default();
                let mut pace = pace();
                while !ended.load(Ordering::Relaxed) {
                    outcomes.add(load.publish(timeout).await);
                    pace.tick().await;
                }
                outcomes
            });
        }
        Publishing { set, ended }
    }

    /// Waits until so many more messages were accepted, or handled: the load flows.
    pub(crate) async fn flows(&self, more: usize) {
        let queue = self.queue();
        let handled = || self.oracle.verdict(&[&queue]).handled;
        let goal = handled() + more;
        self.until("messages flow", async || handled() >= goal)
            .await;
    }

    /// Waits until `condition` holds.
    pub(crate) async fn until(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let end = Instant::now() + HEALING;
        while !condition().await {
            assert!(
                Instant::now() < end,
                "{}: it never came true: {what}; {:?}; {:?}; {:?}",
                self.cell,
                self.subscription.snapshot(),
                self.handling.health(),
                self.lifecycle.all()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The consumers of the queue on the broker, now; 0 where there is no queue, or no broker.
    pub(crate) async fn consumers(&self) -> u32 {
        look(&self.setup.look_url, &self.queue())
            .await
            .map_or(0, |(_, consumers)| consumers)
    }

    /// The messages of a queue that are ready to be delivered.
    pub(crate) async fn ready(&self, queue: &str) -> u32 {
        look(&self.setup.look_url, queue)
            .await
            .map_or(0, |(ready, _)| ready)
    }

    /// The consumer is there on the broker, and a new message flows.
    pub(crate) async fn healed(&self) {
        self.until("its consumer is there", async || {
            self.consumers().await == 1
        })
        .await;
        let id = self.next.load(Ordering::Relaxed);
        let outcomes = self.publish(HEALING).await;
        assert_eq!(outcomes.accepted, 1, "{}: {outcomes:?}", self.cell);
        let queue = self.queue();
        self.until("a new message flows", async || {
            self.oracle.was_handled(&queue, id)
        })
        .await;
        assert_eq!(self.subscription.state(), SubscriptionState::Running);
    }

    /// Waits until everything accepted is handled and settled, and records the line of the cell.
    pub(crate) async fn check(&self) -> Verdict {
        let queue = self.queue();
        self.until("everything accepted is handled", async || {
            self.oracle.complete(&[&queue])
        })
        .await;
        self.until("everything is settled", async || {
            let books = self.subscription.snapshot();
            books.queued + books.in_flight + books.waiting == 0 && self.ready(&queue).await == 0
        })
        .await;
        check_books(&self.handling);
        check_books(&self.publishing);
        self.record(&self.cell)
    }

    /// Checks the oracle, and records the line of a cell.
    pub(crate) fn record(&self, cell: &str) -> Verdict {
        let verdict = self.oracle.check_at_least_once(cell, &[&self.queue()]);
        record(cell, &verdict, self.began.elapsed());
        verdict
    }

    /// Shuts both buses down while a fault lasts, under load; then the fault is mended, and a successor handles
    /// what went back.
    pub(crate) async fn shutdown_during(
        self: &Arc<Self>,
        fault: impl AsyncFnOnce(),
        mend: impl AsyncFnOnce(),
    ) {
        let cell = format!("{}: shutdown during it", self.cell);
        let flow = self.flow(20, Duration::from_secs(1));
        self.flows(200).await;
        fault().await;
        let deadline = Duration::from_secs(2);
        tokio::join!(
            end_in_time(&cell, &self.publishing, deadline),
            end_in_time(&cell, &self.handling, deadline)
        );
        flow.end().await;
        mend().await;
        let handler = Arc::clone(&self.setup.handler);
        let (successor, subscription) = self.successor(handler).await;
        let queue = self.queue();
        self.until("the successor handles the rest", async || {
            self.oracle.complete(&[&queue]) && subscription.snapshot().in_flight == 0
        })
        .await;
        end_in_time(&cell, &successor, Duration::from_secs(5)).await;
        self.record(&cell);
    }

    /// Shuts both buses down, in time and with balanced books.
    pub(crate) async fn end(&self) {
        for bus in [&self.publishing, &self.handling] {
            end_in_time(&self.cell, bus, Duration::from_secs(5)).await;
        }
    }

    /// Waits for a lifecycle event.
    pub(crate) async fn told(&self, kind: LifecycleKind) {
        self.until("lifecycle tells", async || {
            self.lifecycle.all().iter().any(|event| event.kind == kind)
        })
        .await;
    }
}

fn pace() -> tokio::time::Interval {
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    pace
}

/// Publishing tasks at work.
pub(crate) struct Publishing {
    set: JoinSet<Outcomes>,
    ended: Arc<AtomicBool>,
}

impl Publishing {
    /// Waits for the tasks, or tells them to end after the message in hand and waits for that.
    pub(crate) async fn end(mut self) -> Outcomes {
        self.ended.store(true, Ordering::Relaxed);
        let mut all = Outcomes::default();
        while let Some(one) = self.set.join_next().await {
            match one {
                Ok(one) => all.add(one),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        all
    }

    /// The same; all that was published was accepted.
    pub(crate) async fn end_none_refused(self) {
        let all = self.end().await;
        assert_eq!(
            all.rejected + all.unreachable + all.unconfirmed,
            0,
            "{all:?}"
        );
    }
}

/// Shows what the bridge logs, where `RUST_LOG` asks for it.
fn trace() {
    if std::env::var_os("RUST_LOG").is_some() {
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr);
        // Another cell of this process may have done it.
        let _ = subscriber.try_init();
    }
}

/// What the lifecycle events of a bus tell.
async fn listened(bus: &Bus, log: Log<Lifecycle>) -> Log<Lifecycle> {
    let told = log.clone();
    bus.subscribe_fn::<Lifecycle, _>("lifecycle", async move |event: &Lifecycle, _| {
        told.push(event.clone());
        Ok(())
    })
    .start()
    .await
    .unwrap();
    log
}

/// A bus that handles, and its subscription.
async fn consumer(
    setup: &Setup,
    prefix: &str,
    service: &str,
    oracle: &Oracle,
) -> (Bus, Subscription) {
    let bus = Bus::builder(service)
        .bridge(setup.bridge(&setup.consume_url, prefix).import("load.#"))
        .start()
        .await
        .unwrap();
    let (known, handler) = (oracle.clone(), Arc::clone(&setup.handler));
    let queue = format!("{service}.work");
    let subscription = bus
        .subscribe_fn::<Numbered, _>("work", async move |message: &Numbered, cx| {
            handler(message.id, cx.attempt()).await?;
            known.handle(&queue, message.id);
            Ok(())
        })
        .retry(setup.retry.clone())
        .workers(setup.workers)
        .start()
        .await
        .unwrap();
    (bus, subscription)
}

/// Shuts a bus down: within its deadline and one second, and its books balance.
pub(crate) async fn end_in_time(cell: &str, bus: &Bus, deadline: Duration) {
    let report = bus.shutdown(deadline).await;
    let most = deadline + Duration::from_secs(1);
    assert!(report.elapsed <= most, "{cell}: {report:?}");
    check_books(bus);
}

/// The bodies of what is in a queue now, taken out of it.
pub(crate) async fn drained<T: DeserializeOwned>(url: &str, queue: &str) -> Vec<T> {
    let connection = Connection::connect(url, ConnectionProperties::default());
    let connection = connection.await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut bodies = Vec::new();
    let options = BasicGetOptions { no_ack: true };
    while let Some(message) = channel.basic_get(queue.into(), options).await.unwrap() {
        bodies.push(serde_json::from_slice(&message.data).unwrap());
    }
    connection.close(200, "done".into()).await.unwrap();
    bodies
}

/// Declares a classic queue, as the bridge does not by default.
pub(crate) async fn declare_classic(url: &str, queue: &str) {
    let connection = Connection::connect(url, ConnectionProperties::default());
    let connection = connection.await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let durable = QueueDeclareOptions::durable();
    let declaring = channel.queue_declare(queue.into(), durable, FieldTable::default());
    declaring.await.unwrap();
    connection.close(200, "done".into()).await.unwrap();
}

/// Deletes a queue, whatever it holds.
pub(crate) async fn delete_queue(url: &str, queue: &str) {
    let connection = Connection::connect(url, ConnectionProperties::default());
    let connection = connection.await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let deleting = channel.queue_delete(queue.into(), QueueDeleteOptions::default());
    deleting.await.unwrap();
    connection.close(200, "done".into()).await.unwrap();
}

/// The ready messages and the consumers of a queue, as the broker knows them now.
pub(crate) async fn look(url: &str, queue: &str) -> Option<(u32, u32)> {
    let looking = async {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let queue = channel.queue_declare(queue.into(), passive, FieldTable::default());
        let queue = queue.await?;
        let seen = (queue.message_count(), queue.consumer_count());
        connection.close(200, "done".into()).await?;
        lapin::Result::Ok(seen)
    };
    let looked = tokio::time::timeout(Duration::from_secs(5), looking).await;
    looked.ok()?.ok()
}

/// Appends the line of a cell to the file that `POSTROOM_MATRIX` names, for `scripts/fault-matrix`.
pub(crate) fn record(cell: &str, verdict: &Verdict, took: Duration) {
    let Some(path) = std::env::var_os("POSTROOM_MATRIX") else {
        return;
    };
    let line = format!(
        "| {cell} | {} | {} | {} | {} | {} | {} | {} | {:.1} s |\n",
        verdict.attempted,
        verdict.accepted,
        verdict.unknown,
        verdict.handled,
        verdict.lost.len(),
        verdict.unexpected.len(),
        verdict.duplicated.len(),
        took.as_secs_f64()
    );
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    file.write_all(line.as_bytes()).unwrap();
}
