use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::delivery::{Failure, Outcome};
use crate::message::{Command, Event};
use crate::ports::{Inbound, Interceptor, LocalBoxFuture, Next};

/// Makes handlers fail, panic and hang, where and when a test wants it.
///
/// Add it with [`Builder::intercept`](crate::Builder::intercept) and keep a clone: all clones are the same. A
/// delivery meets the first [`Fault`] that is meant for it, in the order in which they were added.
///
/// ```
/// use postroom::testing::{Fault, Faults};
///
/// let faults = Faults::new();
/// faults.add(Fault::fail("the mail server is down").queue("mailer").attempts(1..=3));
/// faults.add(Fault::hang().every(100));
/// let builder = postroom::Bus::builder("shop").intercept(faults.clone());
/// # drop(builder);
/// assert_eq!(faults.injected().all(), 0);
/// ```
#[derive(Clone, Default)]
pub struct Faults(Arc<Inner>);

#[derive(Default)]
struct Inner {
    faults: Mutex<Vec<Arc<Fault>>>,
    failed: AtomicU64,
    panicked: AtomicU64,
    hung: AtomicU64,
}

/// What goes wrong, and with which deliveries: all of them, unless it is narrowed down.
pub struct Fault {
    kind: Kind,
    queue: Option<String>,
    address: Option<String>,
    attempts: Option<RangeInclusive<u32>>,
    every: u64,
    when: Option<Box<Condition>>,
    after: bool,
    met: AtomicU64,
}

type Condition = dyn Fn(Inbound<'_>) -> bool + Send + Sync;

enum Kind {
    Fail(Box<dyn Fn() -> Failure + Send + Sync>),
    Panic(String),
    Hang,
}

/// How many faults were injected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// Errors.
    pub failed: u64,
    /// Panics.
    pub panicked: u64,
    /// Handlers that did not return.
    pub hung: u64,
}

impl Injected {
    /// Over all kinds.
    #[must_use]
    pub fn all(self) -> u64 {
        self.failed + self.panicked + self.hung
    }
}

impl Fault {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            queue: None,
            address: None,
            attempts: None,
            every: 1,
            when: None,
            after: false,
            met: AtomicU64::new(0),
        }
    }

    /// An error, which is retried by the policy.
    #[must_use]
    pub fn fail(error: impl Into<String>) -> Self {
        let error = error.into();
        Self::fail_with(move || Failure::from(std::io::Error::other(error.clone())))
    }

    /// A failure of the test's own making, for the verdicts.
    #[must_use]
    pub fn fail_with(failure: impl Fn() -> Failure + Send + Sync + 'static) -> Self {
        Self::new(Kind::Fail(Box::new(failure)))
    }

    /// A panic.
    #[must_use]
    pub fn panic(text: impl Into<String>) -> Self {
        Self::new(Kind::Panic(text.into()))
    }

    /// A handler that never returns; its timeout, by the bus's clock, ends it.
    #[must_use]
    pub fn hang() -> Self {
        Self::new(Kind::Hang)
    }

    /// Only deliveries from this queue.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// Only messages to this topic or command queue.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Only events of this type.
    #[must_use]
    pub fn on<E: Event>(self) -> Self {
        self.address(E::TOPIC)
    }

    /// Only commands of this type.
    #[must_use]
    pub fn command<C: Command>(self) -> Self {
        self.address(C::QUEUE)
    }

    /// Only this attempt of each message, from 1.
    #[must_use]
    pub fn attempt(self, attempt: u32) -> Self {
        self.attempts(attempt..=attempt)
    }

    /// Only these attempts of each message, from 1.
    #[must_use]
    pub fn attempts(mut self, attempts: RangeInclusive<u32>) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// Only every `n`th of the deliveries that it is meant for; 0 counts as 1, which is every one.
    #[must_use]
    pub fn every(mut self, n: u64) -> Self {
        self.every = n.max(1);
        self
    }

    /// Only deliveries of which this is true. A panic in it is a fault too: the delivery fails.
    #[must_use]
    pub fn when(mut self, condition: impl Fn(Inbound<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.when = Some(Box::new(condition));
        self
    }

    /// After the handler succeeded, instead of in its place: its work is done, and the attempt fails all the
    /// same. The nastier half of what happens in life.
    #[must_use]
    pub fn after_handling(mut self) -> Self {
        self.after = true;
        self
    }

    fn is_for(&self, delivery: Inbound<'_>) -> bool {
        let address = delivery.message().address();
        let is_meant = self
            .queue
            .as_deref()
            .is_none_or(|queue| queue == delivery.queue())
            && self.address.as_deref().is_none_or(|known| known == address)
            && self
                .attempts
                .as_ref()
                .is_none_or(|attempts| attempts.contains(&delivery.attempt()))
            && self.when.as_ref().is_none_or(|when| when(delivery));
        is_meant && (self.met.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(self.every)
    }
}

impl Faults {
    /// Nothing goes wrong yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on this goes wrong too.
    pub fn add(&self, fault: Fault) {
        self.0.faults.lock().push(Arc::new(fault));
    }

    /// From now on nothing goes wrong any more. What was injected stays counted.
    pub fn clear(&self) {
        self.0.faults.lock().clear();
    }

    /// What went wrong so far.
    #[must_use]
    pub fn injected(&self) -> Injected {
        Injected {
            failed: self.0.failed.load(Ordering::SeqCst),
            panicked: self.0.panicked.load(Ordering::SeqCst),
            hung: self.0.hung.load(Ordering::SeqCst),
        }
    }

    fn find(&self, delivery: Inbound<'_>) -> Option<Arc<Fault>> {
        // The conditions are the user's code, which may add a fault: run without the lock.
        let faults = self.0.faults.lock().clone();
        faults.into_iter().find(|fault| fault.is_for(delivery))
    }

    async fn strike(&self, fault: &Fault) -> Outcome {
        match &fault.kind {
            Kind::Fail(make) => {
                self.0.failed.fetch_add(1, Ordering::SeqCst);
                Err(make())
            }
            Kind::Panic(text) => {
                self.0.panicked.fetch_add(1, Ordering::SeqCst);
                panic!("{text}")
            }
            Kind::Hang => {
                self.0.hung.fetch_add(1, Ordering::SeqCst);
                std::future::pending().await
            }
        }
    }
}

impl Interceptor for Faults {
    fn handle<'a>(&'a self, delivery: Inbound<'a>, next: Next<'a>) -> LocalBoxFuture<'a, Outcome> {
        let Some(fault) = self.find(delivery) else {
            return next.run();
        };
        Box::pin(async move {
            if fault.after {
                next.run().await?;
            }
            self.strike(&fault).await
        })
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Fail(_) => "fail",
            Kind::Panic(_) => "panic",
            Kind::Hang => "hang",
        };
        f.debug_struct("Fault")
            .field("kind", &kind)
            .field("queue", &self.queue)
            .field("address", &self.address)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Faults").field(&self.injected()).finish()
    }
}
