//! Keyed order over two replicas of a service: the next one goes on where the former one left off.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::eventually;
use crate::common::proxy::Proxy;
use crate::common::rabbit::Rabbit;
use postroom::{Amqp, Bus, DeleteOnly, Event, Failure, QueueType, Subscription};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

const KEYS: u64 = 8;
const EACH: u64 = 200;
const ALL: usize = (KEYS * EACH) as usize;
/// Longer than a replica that hands nothing out keeps its queue.
const HANDED_OVER: Duration = Duration::from_secs(90);

/// When one is tried again that failed before a long pause, and during it.
const RETRIED: Duration = Duration::from_secs(35);

#[derive(Serialize, Deserialize)]
struct Step {
    key: u64,
    number: u64,
}
impl Event for Step {
    const TOPIC: &'static str = "replicas.step";
}

/// The number of a step, and which replica handled it.
type Handled = (u64, &'static str);

/// What was handled of each key.
#[derive(Clone, Default)]
struct Story(Arc<Mutex<HashMap<u64, Vec<Handled>>>>);

impl Story {
    fn note(&self, step: &Step, replica: &'static str) {
        let mut story = self.0.lock().unwrap();
        let of_key = story.entry(step.key).or_default();
        of_key.push((step.number, replica));
    }

    fn handled(&self) -> usize {
        self.0.lock().unwrap().values().map(Vec::len).sum()
    }

    fn handled_by(&self, replica: &str) -> usize {
        let story = self.0.lock().unwrap();
        let all = story.values().flatten();
        all.filter(|(_, by)| *by == replica).count()
    }

    /// Each step of a key follows the one before it, if these may have come twice.
    fn check_first_times(&self) {
        for steps in self.0.lock().unwrap().values_mut() {
            let mut last = None;
            steps.retain(|(number, _)| {
                let is_first = last < Some(*number);
                last = last.max(Some(*number));
                is_first
            });
        }
        self.check();
    }

    fn check(&self) {
        let story = self.0.lock().unwrap().clone();
        for (key, steps) in story {
            let numbers: Vec<_> = steps.iter().map(|(number, _)| *number).collect();
            let wanted: Vec<_> = (0..EACH).collect();
            let at = numbers
                .iter()
                .zip(&wanted)
                .position(|(is, wanted)| is != wanted);
            let around = at.map(|at| &steps[at.saturating_sub(2)..(at + 6).min(steps.len())]);
            assert_eq!(around, None, "key {key}, from {at:?} on");
            assert_eq!(numbers, wanted, "key {key}");
        }
    }
}

struct Replicas {
    /// Whether handlers may go on.
    gate: watch::Sender<bool>,
    /// Of the exchanges, and of the service whose replicas they are.
    name: String,
    queue_type: QueueType,
    url: String,
    story: Story,
}

impl Replicas {
    fn new(queue_type: QueueType) -> Self {
        Self::at(Rabbit::shared().url(), queue_type)
    }

    fn at(url: &str, queue_type: QueueType) -> Self {
        Self {
            gate: watch::Sender::new(false),
            name: Rabbit::unique("replicas"),
            queue_type,
            url: url.to_owned(),
            story: Story::default(),
        }
    }

    fn amqp(&self) -> Amqp {
        let amqp = Amqp::new(&*self.url).prefix(&self.name);
        amqp.queue_type(self.queue_type)
    }

    async fn start(&self, replica: &'static str) -> (Bus, Subscription) {
        let bus = Bus::builder(&self.name).bridge(self.amqp().import("replicas.#"));
        let bus = bus.start().await.unwrap();
        let (story, gate) = (self.story.clone(), self.gate.subscribe());
        let steps = bus
            .subscribe_fn::<Step, _>("steps", async move |step, _| {
                gate.clone().wait_for(|is_open| *is_open).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
                story.note(step, replica);
                Ok(())
            })
            .keyed(4)
            .mailbox(200)
            .no_timeout()
            .start()
            .await
            .unwrap();
        (bus, steps)
    }

    /// A subscription of which one key's first step fails once, for longer than a replica hands nothing out, and another
    /// key's waits at the gate.
    async fn start_failing(&self) -> (Bus, Subscription) {
        let bus = Bus::builder(&self.name).bridge(self.amqp().import("replicas.#"));
        let bus = bus.start().await.unwrap();
        let (story, gate) = (self.story.clone(), self.gate.subscribe());
        let steps = bus.subscribe_fn::<Step, _>("steps", async move |step, cx| {
            match (step.key, step.number, cx.attempt()) {
                (0, 0, 1) => return Err(Failure::retry_after(RETRIED, "not yet")),
                (1, 0, _) => drop(gate.clone().wait_for(|is_open| *is_open).await),
                _ => {}
            }
            story.note(step, "it");
            Ok(())
        });
        let steps = steps.keyed(2).mailbox(200).no_timeout();
        (bus, steps.start().await.unwrap())
    }

    async fn publish_all(&self) {
        let bus = Bus::builder("publisher").bridge(self.amqp().export("replicas.#"));
        let bus = bus.start().await.unwrap();
        for number in 0..EACH {
            for key in 0..KEYS {
                bus.publish(Step { key, number }).key(key).await.unwrap();
            }
        }
        bus.shutdown(Duration::from_secs(5)).await;
    }

    async fn end(&self, bus: &Bus) {
        let admin = bus.amqp().unwrap();
        admin.delete("steps", DeleteOnly::Always).await.unwrap();
        admin
            .delete_dead_letters("steps", DeleteOnly::Always)
            .await
            .unwrap();
        bus.shutdown(Duration::from_secs(5)).await;
    }
}

async fn stopped(queue_type: QueueType) {
    let replicas = Replicas::new(queue_type);
    let story = replicas.story.clone();
    let (first, _) = replicas.start("first").await;
    let (second, _) = replicas.start("second").await;
    replicas.publish_all().await;
    replicas.gate.send_replace(true);
    eventually("the first is in the middle of it", || story.handled() >= 50).await;
    let report = first.shutdown(Duration::from_secs(10)).await;
    assert!(report.timed_out.is_empty(), "{report:?}");
    eventually("all is handled", || story.handled() >= ALL).await;
    story.check();
    assert!(story.handled_by("first") >= 50 && story.handled_by("second") > 0);
    replicas.end(&second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyed_order_is_kept_when_the_active_replica_stops() {
    stopped(QueueType::Quorum).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyed_order_is_kept_on_a_classic_queue_too() {
    stopped(QueueType::Classic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyed_order_is_kept_when_the_active_replica_is_paused_and_another_takes_over() {
    let replicas = Replicas::new(QueueType::Quorum);
    let story = replicas.story.clone();
    let (first, steps) = replicas.start("first").await;
    let (second, _) = replicas.start("second").await;
    replicas.publish_all().await;
    replicas.gate.send_replace(true);
    eventually("the first is in the middle of it", || story.handled() >= 50).await;
    steps.pause();
    let handed_over = async {
        while story.handled() < ALL {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(HANDED_OVER, handed_over).await;
    assert!(in_time.is_ok(), "{} are handled", story.handled());
    story.check();
    assert!(story.handled_by("second") > 0);
    // It may go on: there is nothing left for it.
    steps.resume().await;
    first.shutdown(Duration::from_secs(5)).await;
    replicas.end(&second).await;
}

/// A handler outlasts the hand-over, so that its replica keeps the queue; then it goes on with what it held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyed_order_is_kept_when_a_replica_goes_on_after_a_long_pause() {
    let replicas = Replicas::new(QueueType::Quorum);
    let (bus, steps) = replicas.start("it").await;
    replicas.publish_all().await;
    eventually("some are in hand, others queued", || {
        let queue = steps.snapshot();
        queue.in_flight > 0 && queue.queued > 100
    })
    .await;
    steps.pause();
    let held = async {
        while steps.snapshot().queued > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(HANDED_OVER, held).await;
    assert!(in_time.is_ok(), "{:?}", steps.snapshot());
    steps.resume().await;
    replicas.gate.send_replace(true);
    let story = &replicas.story;
    eventually("all is handled", || story.handled() >= ALL).await;
    story.check();
    replicas.end(&bus).await;
}

/// What a replica holds is lost with its channel, and comes again from RabbitMQ; only what was in hand is handled twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyed_order_is_kept_when_the_connection_is_lost_in_a_long_pause() {
    let rabbit = Rabbit::shared();
    let proxy = Proxy::start(rabbit.authority());
    let replicas = Replicas::at(&rabbit.url_through(proxy.address()), QueueType::Quorum);
    let (bus, steps) = replicas.start("it").await;
    replicas.publish_all().await;
    eventually("some are in hand, others queued", || {
        let queue = steps.snapshot();
        queue.in_flight > 0 && queue.queued > 100
    })
    .await;
    let in_hand = steps.snapshot().in_flight;
    steps.pause();
    let held = async {
        while steps.snapshot().queued > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(HANDED_OVER, held).await;
    assert!(in_time.is_ok(), "{:?}", steps.snapshot());
    let opened = proxy.opened();
    proxy.cut();
    eventually("it has connected again", || proxy.opened() >= opened + 2).await;
    eventually("it is ready again", || bus.health().is_ready()).await;
    steps.resume().await;
    replicas.gate.send_replace(true);
    let story = &replicas.story;
    eventually("all is handled", || {
        story.handled() >= ALL + in_hand as usize
    })
    .await;
    story.check_first_times();
    replicas.end(&bus).await;
}

/// The replica cannot hand its queue over, since a handler is at work: what is tried again meanwhile still comes before
/// what was parked behind it. And what it holds can be purged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyed_order_is_kept_when_a_retry_falls_due_in_a_long_pause() {
    for is_purged in [false, true] {
        let replicas = Replicas::new(QueueType::Quorum);
        let (bus, steps) = replicas.start_failing().await;
        replicas.publish_all().await;
        eventually("one waits, and another is in hand", || {
            let queue = steps.snapshot();
            queue.waiting == 1 && queue.in_flight > 0
        })
        .await;
        steps.pause();
        let held = async {
            while steps.snapshot().waiting + steps.snapshot().queued > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let in_time = tokio::time::timeout(HANDED_OVER, held).await;
        assert!(in_time.is_ok(), "{:?}", steps.snapshot());
        let handled = replicas.story.handled();
        let purged = if is_purged { steps.purge() } else { 0 };
        steps.resume().await;
        replicas.gate.send_replace(true);
        let story = &replicas.story;
        eventually("all is handled", || story.handled() + purged >= ALL).await;
        if is_purged {
            assert!(purged > 100, "{purged}, after {handled}");
        } else {
            story.check();
        }
        replicas.end(&bus).await;
    }
}
