use std::fmt;
use std::sync::Arc;

use super::{Backing, Features, Isolated, Time};
use crate::bridge::{Amqp, QueueType, Sweep};
use crate::bus::Bus;
use crate::message::MessageId;
use crate::ports::BoxFuture;
use crate::ports::WhenDown;

/// Queues on a RabbitMQ, in real time: everything that a scenario subscribes to is imported.
///
/// Each scenario has exchanges and queues of its own, whose names begin with `conformance-`; they are deleted
/// when it has ended, also when it failed. A broker that others use is not disturbed.
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
}

impl RabbitMq {
    /// The broker at `url`, with quorum queues.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
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
            url: self.url.clone(),
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

/// Clears the place of one scenario when it is dropped.
struct Swept {
    url: String,
    sweep: Arc<Sweep>,
}

impl Drop for Swept {
    fn drop(&mut self) {
        let (url, sweep) = (self.url.clone(), Arc::clone(&self.sweep));
        // Whoever drops it may stand in a runtime, which must not be blocked on by another.
        let clearing = std::thread::spawn(move || -> Result<(), String> {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| error.to_string())?
                .block_on(sweep.clear(&url))
        });
        if let Ok(Err(why)) = clearing.join() {
            tracing::warn!(%why, "what a scenario declared stays on RabbitMQ");
        }
    }
}
