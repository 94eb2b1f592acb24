//! What the benches share: a small message, a count of what was handled, a bus and a publisher's thread.
#![allow(dead_code, reason = "each bench uses a part of it")]

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use criterion::Criterion;
use postroom::{Builder, Bus, Context, Event, Outcome, Subscriber, Threads};
use serde::{Deserialize, Serialize};

/// A small struct, as most events are.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Small {
    pub(crate) id: u64,
    pub(crate) amount: u64,
}

impl Event for Small {
    const TOPIC: &'static str = "bench.small";
}

pub(crate) fn small(id: u64) -> Small {
    Small { id, amount: 3 }
}

/// Bounded in time: a few seconds for each function.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args()
}

/// How many messages were handled. As a subscriber it handles them by counting.
#[derive(Clone, Default)]
pub(crate) struct Handled(Arc<AtomicU64>);

impl Handled {
    #[inline]
    pub(crate) fn count(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn so_far(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Works for a publisher on the workers' thread, too.
    pub(crate) async fn reaches(&self, handled: u64) {
        while self.so_far() < handled {
            tokio::task::yield_now().await;
        }
    }
}

impl Subscriber<Small> for Handled {
    async fn handle(&mut self, _: &Small, _: &mut Context<'_>) -> Outcome {
        self.count();
        Ok(())
    }
}

/// A bus, and the thread of whoever uses it.
pub(crate) struct Rig {
    pub(crate) bus: Bus,
    publisher: Publisher,
}

enum Publisher {
    /// The workers have a thread of their own.
    Apart(tokio::runtime::Runtime),
    /// They run on the publisher's.
    Same(actix::SystemRunner),
}

impl Publisher {
    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        match self {
            Self::Apart(runtime) => runtime.block_on(future),
            Self::Same(system) => system.block_on(future),
        }
    }
}

impl Rig {
    pub(crate) fn new(threads: Threads, configure: impl FnOnce(Builder) -> Builder) -> Self {
        let publisher = match threads {
            Threads::Current => Publisher::Same(actix::System::new()),
            _ => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                Publisher::Apart(runtime.expect("a runtime for the publisher"))
            }
        };
        let builder = configure(Bus::builder("bench").threads(threads));
        let bus = publisher.block_on(builder.start()).expect("a bus");
        Self { bus, publisher }
    }

    /// With the workers on a thread of their own, and the defaults of a bus.
    pub(crate) fn apart() -> Self {
        Self::new(Threads::Own(1), |builder| builder)
    }

    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.publisher.block_on(future)
    }

    /// Ends the bus; what was not handled by then is nobody's loss.
    pub(crate) fn end(self) {
        self.run(self.bus.shutdown(Duration::from_millis(100)));
    }
}
