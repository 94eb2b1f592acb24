//! What goes wrong on purpose: handlers that fail, panic and hang, and events that come twice.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fastrand::Rng;
use parking_lot::Mutex;
use postroom::{
    Bus, Context, Failure, Inbound, Interceptor, Next, Outcome, SubscribeError, Subscription,
};
use serde::{Deserialize, Serialize};

use crate::books::OPERATOR;
use crate::messages::{OrderId, OrderPaid};
use crate::policy::{self, BACKOFF};

/// How every injected error and panic begins.
const INJECTED: &str = "injected";

/// The share of the faults that hits all attempts of a message.
const STICKY: f64 = 0.1;

/// Injects faults around handlers, before and after they did their work.
///
/// After is the nastier half: the service has changed its data, and the delivery fails all the same. What a
/// message meets depends on nothing but the seed, the message and the attempt.
#[derive(Clone)]
pub struct Faults(Arc<Inner>);

struct Inner {
    rate: f64,
    seed: u64,
    on: AtomicBool,
    failed: AtomicU64,
    panicked: AtomicU64,
    hung: AtomicU64,
    own: AtomicU64,
}

#[derive(Clone, Copy)]
enum Kind {
    Fail,
    Panic,
    Hang,
}

#[derive(Clone, Copy)]
struct Fault {
    kind: Kind,
    after: bool,
}

/// The failed attempts, by how they failed.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Injected {
    pub failed: u64,
    pub panicked: u64,
    pub hung: u64,
    /// Not injected: errors of the services themselves.
    pub own: u64,
}

impl Injected {
    pub fn all(self) -> u64 {
        self.failed + self.panicked + self.hung + self.own
    }

    #[cfg(feature = "amqp")]
    pub fn add(&mut self, other: Self) {
        self.failed += other.failed;
        self.panicked += other.panicked;
        self.hung += other.hung;
        self.own += other.own;
    }
}

impl Faults {
    /// `rate` is the probability that a delivery meets a fault.
    pub fn new(rate: f64, seed: u64) -> Self {
        Self(Arc::new(Inner {
            rate,
            seed,
            on: AtomicBool::new(rate > 0.0),
            failed: AtomicU64::new(0),
            panicked: AtomicU64::new(0),
            hung: AtomicU64::new(0),
            own: AtomicU64::new(0),
        }))
    }

    /// From now on nothing goes wrong any more.
    pub fn stop(&self) {
        self.0.on.store(false, Ordering::SeqCst);
    }

    pub fn counts(&self) -> Injected {
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        Injected {
            failed: count(&self.0.failed),
            panicked: count(&self.0.panicked),
            hung: count(&self.0.hung),
            own: count(&self.0.own),
        }
    }

    fn decide(&self, delivery: Inbound<'_>) -> Option<Fault> {
        if !self.0.on.load(Ordering::SeqCst) || delivery.queue() == OPERATOR {
            return None;
        }
        let envelope = delivery.message().envelope();
        // All messages about an order belong to its conversation, which is named after the order.
        let mut hash = DefaultHasher::new();
        (
            self.0.seed,
            delivery.queue(),
            envelope.address(),
            envelope.correlation_id(),
        )
            .hash(&mut hash);
        let sticky = Rng::with_seed(hash.finish()).f64() < self.0.rate * STICKY;
        delivery.attempt().hash(&mut hash);
        let mut rng = Rng::with_seed(hash.finish());
        if !sticky && rng.f64() >= self.0.rate {
            return None;
        }
        let kind = match rng.u32(0..10) {
            0..6 => Kind::Fail,
            6..9 => Kind::Panic,
            _ => Kind::Hang,
        };
        Some(Fault {
            kind,
            after: rng.bool(),
        })
    }

    async fn strike(&self, fault: Fault) -> Outcome {
        let counter = match fault.kind {
            Kind::Fail => &self.0.failed,
            Kind::Panic => &self.0.panicked,
            Kind::Hang => &self.0.hung,
        };
        counter.fetch_add(1, Ordering::SeqCst);
        let when = if fault.after {
            "after the work was done"
        } else {
            "before any work"
        };
        match fault.kind {
            Kind::Fail => Err(Failure::retry(format!("{INJECTED} error {when}"))),
            Kind::Panic => panic!("{INJECTED} panic {when}"),
            Kind::Hang => std::future::pending().await,
        }
    }
}

impl Interceptor for Faults {
    fn handle<'a>(
        &'a self,
        delivery: Inbound<'a>,
        next: Next<'a>,
    ) -> Pin<Box<dyn Future<Output = Outcome> + 'a>> {
        Box::pin(async move {
            let fault = self.decide(delivery);
            if let Some(fault) = fault.filter(|fault| !fault.after) {
                return self.strike(fault).await;
            }
            let outcome = next.run().await;
            if outcome.is_err() {
                self.0.own.fetch_add(1, Ordering::SeqCst);
                return outcome;
            }
            match fault {
                Some(fault) => self.strike(fault).await,
                None => outcome,
            }
        })
    }
}

/// Keeps the injected panics off the terminal; all others are shown as ever.
pub fn silence_injected_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic
            .payload_as_str()
            .is_some_and(|text| text.starts_with(INJECTED))
        {
            usual(panic);
        }
    }));
}

/// The orders whose `order-paid` was published twice.
#[derive(Clone, Default)]
pub struct Copies(Arc<Mutex<HashSet<OrderId>>>);

impl Copies {
    pub fn count(&self) -> usize {
        self.0.lock().len()
    }
}

/// The header of a copy: it is not copied again.
const COPY: &str = "eshop-copy";

/// Publishes every tenth `order-paid` a second time, as a new message with an id of its own.
pub async fn start_copier(bus: &Bus, copies: &Copies) -> Result<Subscription, SubscribeError> {
    let copies = copies.clone();
    bus.subscribe_fn::<OrderPaid, _>(
        "copier",
        async move |event: &OrderPaid, cx: &mut Context<'_>| {
            if event.order.is_multiple_of(10) && cx.envelope().header(COPY).is_none() {
                copies.0.lock().insert(event.order);
                cx.publish(event.clone()).header(COPY, "yes");
            }
            Ok(())
        },
    )
    .intensity(policy::RESTARTS, policy::PERIOD)
    .restart_backoff(BACKOFF)
    .start()
    .await
}
