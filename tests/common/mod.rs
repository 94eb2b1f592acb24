//! What the tests of the data path share: waiting on conditions, a door for handlers, the oracle,
//! a private RabbitMQ and a proxy that breaks connections.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

#[cfg(feature = "testing")]
pub(crate) mod conformance;
#[cfg(feature = "testing")]
pub(crate) mod staff;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use postroom::{Bus, DeadLetter, Filter, ManualClock, QueueSnapshot};

#[cfg(feature = "amqp")]
pub(crate) mod foreign;
#[cfg(all(feature = "sqlite", feature = "postgres"))]
pub(crate) mod inbox;
#[cfg(feature = "amqp")]
pub(crate) mod load;
mod oracle;
pub(crate) mod process;
#[cfg(any(feature = "amqp", all(feature = "sqlite", feature = "postgres")))]
pub(crate) mod proxy;
#[cfg(feature = "amqp")]
pub(crate) mod rabbit;
#[cfg(all(feature = "sqlite", feature = "postgres"))]
pub(crate) mod store;

#[allow(unused_imports, reason = "each test binary uses a part of it")]
pub(crate) use oracle::{Ledger, Oracle, Verdict};

/// The longest that a test waits for what must happen; reached only when it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A bus on the machine's clock.
pub(crate) async fn bus() -> Bus {
    Bus::builder("test").start().await.unwrap()
}

/// A bus on a clock that a test moves.
pub(crate) async fn bus_at_rest() -> (Bus, ManualClock) {
    let clock = ManualClock::new();
    let bus = Bus::builder("test").clock(clock.clock());
    (bus.start().await.unwrap(), clock)
}

/// Ends a bus that has nothing left to do, and checks its books.
pub(crate) async fn end(bus: &Bus) {
    let report = bus.shutdown(PATIENCE).await;
    assert!(report.clean, "{report:?}");
    check_books(bus);
}

pub(crate) fn check_books(bus: &Bus) {
    let snapshot = bus.snapshot();
    assert!(snapshot.books_balance(), "{snapshot:#?}");
    let letters = snapshot.dead_letters;
    let gone = letters.replayed + letters.discarded + letters.evicted;
    assert_eq!(letters.made, gone + letters.kept, "{letters:?}");
}

pub(crate) fn queue(bus: &Bus, name: &str) -> QueueSnapshot {
    bus.snapshot().queue(name).unwrap().clone()
}

/// All dead letters that are kept, oldest first.
pub(crate) async fn dead_letters(bus: &Bus) -> Vec<DeadLetter> {
    bus.dead_letters().list(&Filter::all()).await.unwrap()
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "it never came true: {what}");
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

/// Waits for a future that must end.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("it never ended: {what}"),
    }
}

/// Moves the clock in steps until `condition` holds. For waits that begin only when a handler is polled.
pub(crate) async fn advance_until(
    clock: &ManualClock,
    step: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) {
    eventually(what, || {
        let done = condition();
        if !done {
            clock.advance(step);
        }
        done
    })
    .await;
}

/// Polls a future once, without a wake.
pub(crate) fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Waits for a future on a thread without any runtime.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}

/// What handlers saw, in order.
pub(crate) struct Log<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Clone> Log<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn push(&self, entry: T) {
        self.0.lock().unwrap().push(entry);
    }

    pub(crate) fn all(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

/// A door at which handlers wait until the test lets them through, one by one or all.
#[derive(Clone)]
pub(crate) struct Door(Arc<tokio::sync::Semaphore>);

impl Door {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(tokio::sync::Semaphore::new(0)))
    }

    pub(crate) async fn pass(&self) {
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }

    pub(crate) fn let_through(&self, handlers: usize) {
        self.0.add_permits(handlers);
    }

    /// From now on nobody waits.
    pub(crate) fn open(&self) {
        self.0.close();
    }
}
