use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Backing, Features, Isolated, Time};
use crate::bridge::{Amqp, QueueType, Sweep};
use crate::bus::Bus;
use crate::message::MessageId;
use crate::ports::BoxFuture;
use crate::ports::WhenDown;

/// Queues on a RabbitMQ, in real time: everything that a scenario subscribes to is imported.
///
/// Each scenario has exchanges and queues of its own, whose names begin with `conformance-`; they are deleted
/// some seconds after it has ended, also when it failed, panicked or hung. A broker that others use is not disturbed. What
/// cannot be deleted, because RabbitMQ is away at the end of the run, is logged by name as a warning; what a process that is
/// killed leaves there is deleted by hand.
///
/// ```no_run
/// use postroom::testing::conformance::{RabbitMq, run_blocking};
///
/// let url = "amqp://guest:guest@localhost:5672/%2f";
/// run_blocking(RabbitMq::new(url)).assert_passed();
/// run_blocking(RabbitMq::new(url).classic()).assert_passed();
/// ```
#[derive(Clone)]
pub struct RabbitMq {
    url: String,
    queue_type: QueueType,
    ended: Arc<Ended>,
}

impl RabbitMq {
    /// The broker at `url`, with quorum queues.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        let url = url.into();
        Self {
            ended: Arc::new(Ended {
                url: url.clone(),
                sweeps: Mutex::default(),
            }),
            url,
            queue_type: QueueType::Quorum,
        }
    }

    /// With quorum queues.
    #[must_use]
    pub fn quorum(mut self) -> Self {
        self.queue_type = QueueType::Quorum;
        self
    }

    /// With classic queues.
    #[must_use]
    pub fn classic(mut self) -> Self {
        self.queue_type = QueueType::Classic;
        self
    }

    fn place(&self) -> Result<Isolated, String> {
        let name = format!("conformance-{}", MessageId::new());
        let sweep = Sweep::new(&name, &name).map_err(|error| error.to_string())?;
        let swept = Swept {
            ended: Arc::clone(&self.ended),
            sweep: Arc::clone(&sweep),
        };
        let amqp = Amqp::new(&self.url)
            .prefix(&name)
            .import("#")
            .import_commands("#")
            .queue_type(self.queue_type)
            .when_down(WhenDown::Fail)
            .swept_by(&sweep);
        let builder = move || Bus::builder(&name).bridge(amqp.clone());
        Ok(Isolated::new(Time::Real, builder).guarded_by(swept))
    }
}

impl Backing for RabbitMq {
    fn name(&self) -> String {
        match self.queue_type {
            QueueType::Classic => "RabbitMQ, classic queues".to_owned(),
            _ => "RabbitMQ, quorum queues".to_owned(),
        }
    }

    fn features(&self) -> Features {
        Features {
            // The ladder of delays is never early, and late by less than 100 ms and what the broker takes.
            exact_time: false,
            // The broker's queue holds what the mailbox has no place for: no publisher waits for it, and no
            // message is dropped for it.
            local_acceptance: false,
            local_receipts: false,
            drop_policies: false,
            // What was handed over can be given back only to the head of the broker's queue, from where it comes
            // again at once: what is parked may take the whole prefetch.
            parked_half: false,
            // They are kept in a queue of the broker until somebody takes them out.
            dead_letter_bound: false,
            // They wait in this process's memory.
            schedules_survive: false,
            ..Features::all()
        }
    }

    fn isolate(&self) -> BoxFuture<'_, Result<Isolated, String>> {
        Box::pin(std::future::ready(self.place()))
    }
}

/// Without the URL: it may hold a password.
impl fmt::Debug for RabbitMq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitMq")
            .field("queue_type", &self.queue_type)
            .finish_non_exhaustive()
    }
}

/// How old a queue is at least when it is deleted.
///
/// RabbitMQ starts a process for each quorum queue that dead-letters at least once. Deleted while that starts, it is
/// started a hundred times over and takes its supervisor with it, and with that every such queue of the node
/// (rabbitmq-server issue 16652; seen on 4.0.5).
const AGE: Duration = Duration::from_secs(3);

/// The places of scenarios that have ended, and when. What is left at the end of the run is waited for.
struct Ended {
    url: String,
    sweeps: Mutex<VecDeque<(Instant, Arc<Sweep>)>>,
}

/// The longest that is tried to clear several one after another, when RabbitMQ is slow or away.
const CLEARING: Duration = Duration::from_secs(20);

/// What could not be cleared, and why.
type Left = (Arc<Sweep>, String);

impl Ended {
    /// Tries all of them, whatever becomes of one; answers with those that are left.
    fn clear(&self, old: Vec<Arc<Sweep>>) -> Vec<Left> {
        if old.is_empty() {
            return Vec::new();
        }
        let (url, all) = (self.url.clone(), old.clone());
        // Whoever drops it may stand in a runtime, which must not be blocked on by another.
        let clearing = std::thread::spawn(move || -> std::io::Result<Vec<Left>> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let begun = Instant::now();
            let clear = |sweep: Arc<Sweep>| {
                let cleared = match begun.elapsed() < CLEARING {
                    true => runtime.block_on(sweep.clear(&url)),
                    false => Err("there was no time for it".to_owned()),
                };
                cleared.err().map(|why| (sweep, why))
            };
            Ok(old.into_iter().filter_map(clear).collect())
        });
        let why = match clearing.join() {
            Ok(Ok(left)) => return left,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".to_owned(),
        };
        all.into_iter().map(|sweep| (sweep, why.clone())).collect()
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let sweeps = std::mem::take(self.sweeps.get_mut());
        if let Some((youngest, _)) = sweeps.back() {
            std::thread::sleep(AGE.saturating_sub(youngest.elapsed()));
        }
        let left = self.clear(sweeps.into_iter().map(|(_, sweep)| sweep).collect());
        for (sweep, why) in left {
            let prefix = sweep.prefix();
            tracing::warn!(prefix, %why, "what a scenario declared stays on RabbitMQ");
        }
    }
}

/// Hands on the place of one scenario when it is dropped, and clears those that ended some time ago.
struct Swept {
    ended: Arc<Ended>,
    sweep: Arc<Sweep>,
}

impl Drop for Swept {
    fn drop(&mut self) {
        let old = {
            let mut sweeps = self.ended.sweeps.lock();
            sweeps.push_back((Instant::now(), Arc::clone(&self.sweep)));
            let young = sweeps.partition_point(|(at, _)| at.elapsed() >= AGE);
            sweeps.drain(..young).map(|(_, sweep)| sweep).collect()
        };
        let left = self.ended.clear(old);
        // They are tried again, as if they had ended now: at the end of the run at the latest.
        let again = left.into_iter().map(|(sweep, _)| (Instant::now(), sweep));
        self.ended.sweeps.lock().extend(again);
    }
}
