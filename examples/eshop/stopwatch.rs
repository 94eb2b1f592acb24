//! Measures how long messages are under way, around every publish and every handler.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use hdrhistogram::iterators::IterationValue;
use parking_lot::Mutex;
use postroom::{Command, Inbound, Interceptor, Next, Outbound, Outcome, Refused};

use crate::messages::{ShipOrder, StartValidation};

/// The header with the moment of the publish: an envelope's own time is in whole milliseconds.
const SENT: &str = "eshop-sent-us";

/// Microseconds of the Unix epoch.
pub fn now_us() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// Microseconds, and how often it took so long.
pub type Times = Vec<(u64, u64)>;

/// An empty histogram: any microseconds, to three digits.
pub fn histogram() -> Histogram<u64> {
    // Up to an hour, in microseconds: what is longer counts as that.
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("these bounds are allowed")
}

/// From publish to handled, by whether the first attempt succeeded.
#[derive(Clone)]
pub struct Stopwatch(Arc<Inner>);

struct Inner {
    running: AtomicBool,
    first: Mutex<Histogram<u64>>,
    retried: Mutex<Histogram<u64>>,
}

impl Stopwatch {
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            running: AtomicBool::new(true),
            first: Mutex::new(histogram()),
            retried: Mutex::new(histogram()),
        }))
    }

    /// What follows is not measured: a replayed dead letter was published long ago.
    pub fn stop(&self) {
        self.0.running.store(false, Ordering::Relaxed);
    }

    /// Handled at the first attempt, and after retries.
    pub fn times(&self) -> (Times, Times) {
        let times = |histogram: &Mutex<Histogram<u64>>| {
            let histogram = histogram.lock();
            let steps = histogram.iter_recorded();
            let step =
                |step: IterationValue<u64>| (step.value_iterated_to(), step.count_at_value());
            steps.map(step).collect()
        };
        (times(&self.0.first), times(&self.0.retried))
    }

    fn record(&self, delivery: Inbound<'_>) {
        let envelope = delivery.message().envelope();
        // These are meant to wait.
        let delayed = [StartValidation::QUEUE, ShipOrder::QUEUE].contains(&envelope.address());
        if delayed || !self.0.running.load(Ordering::Relaxed) {
            return;
        }
        if let Some(sent) = envelope.header(SENT).and_then(|sent| sent.parse().ok()) {
            let times = if delivery.attempt() == 1 {
                &self.0.first
            } else {
                &self.0.retried
            };
            times
                .lock()
                .saturating_record(now_us().saturating_sub(sent));
        }
    }
}

impl Interceptor for Stopwatch {
    fn publish(&self, message: &mut Outbound<'_>) -> Result<(), Refused> {
        message.header(SENT, &now_us().to_string());
        Ok(())
    }

    fn handle<'a>(
        &'a self,
        delivery: Inbound<'a>,
        next: Next<'a>,
    ) -> Pin<Box<dyn Future<Output = Outcome> + 'a>> {
        Box::pin(async move {
            let outcome = next.run().await;
            if outcome.is_ok() {
                self.record(delivery);
            }
            outcome
        })
    }
}
