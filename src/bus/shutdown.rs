use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Bus, subscription};
use crate::broker::Gate;
use crate::mailbox::halt;
use crate::message::MessageId;
use crate::queue::QueueCore;
use crate::supervisor::StopAll;

/// A message that was in memory when its queue ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abandoned {
    /// The queue that held it; `schedule` for a delayed message.
    pub queue: String,
    /// The message.
    pub id: MessageId,
}

/// How a shutdown went.
#[derive(Clone, Debug, Default)]
pub struct ShutdownReport {
    /// Messages that were not handled: counted in the books as abandoned.
    pub abandoned: Vec<Abandoned>,
    /// Subscribers whose handlers had to be cut off, or block their thread.
    pub timed_out: Vec<String>,
    /// Nothing was abandoned and nothing cut off.
    pub clean: bool,
    /// How long it took.
    pub elapsed: Duration,
}

/// How often a drain looks.
const LOOK: Duration = Duration::from_millis(1);
/// The least that handlers in hand get to end by themselves after the drain.
const LAST_GRACE: Duration = Duration::from_millis(200);

impl Bus {
    /// Ends the bus: refuses publishes, lets queues drain until `deadline`, and stops the subscribers in
    /// reverse order of starting. Handlers' releases are accepted while it drains (contract, rule 10).
    ///
    /// Returns within `deadline` plus one second even when a handler is stuck: its thread is left behind.
    /// Calling it again returns an empty report.
    ///
    /// # Cancel safety
    /// Dropped, the shutdown goes on behind it.
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        let bus = self.clone();
        self.on_control(async move { bus.shut_down(deadline).await })
            .await
            .unwrap_or_default()
    }

    /// Like [`shutdown`](Self::shutdown), for a program without an async runtime.
    #[must_use]
    pub fn shutdown_blocking(&self, deadline: Duration) -> ShutdownReport {
        super::handle::block_on(self.shutdown(deadline))
    }

    async fn shut_down(&self, deadline: Duration) -> ShutdownReport {
        let started = Instant::now();
        let end = started + deadline;
        let broker = &self.0.broker;
        broker.set_gate(Gate::Draining);
        let queues = broker.table.queues();
        drain(&queues, end).await;
        broker.set_gate(Gate::Closed);
        let left = end
            .saturating_duration_since(Instant::now())
            .max(LAST_GRACE);
        // By real time, so that a manual clock can not hold up the end.
        let stop = self.0.root.send(StopAll { deadline: left });
        let late = match tokio::time::timeout(left + LAST_GRACE, stop).await {
            Ok(late) => late.unwrap_or_default(),
            Err(_) => {
                // The supervisors wait by a manual clock that stands still: cut off what has not ended.
                let deadline = Duration::ZERO;
                let stop = self.0.root.send(StopAll { deadline });
                let late = tokio::time::timeout(LAST_GRACE, stop).await;
                late.map_or_else(|_| Vec::new(), Result::unwrap_or_default)
            }
        };
        let mut report = ShutdownReport {
            timed_out: late,
            ..ShutdownReport::default()
        };
        for id in broker.schedules.clear() {
            report.abandoned.push(Abandoned {
                queue: "schedule".to_owned(),
                id,
            });
        }
        // What was cut off goes back to its queue on its own thread: look until it has.
        let last = Instant::now() + LAST_GRACE;
        while queues
            .iter()
            .any(|queue| queue.mailbox.books().in_flight > 0)
            && Instant::now() < last
        {
            tokio::time::sleep(LOOK).await;
        }
        for queue in &queues {
            report.abandoned.extend(subscription::abandon(queue).await);
            if queue.mailbox.books().in_flight > 0
                && !report.timed_out.contains(&queue.name.to_string())
            {
                report.timed_out.push(queue.name.to_string());
            }
        }
        report.clean = report.abandoned.is_empty() && report.timed_out.is_empty();
        report.elapsed = started.elapsed();
        report
    }

    /// Waits for SIGTERM or Ctrl-C. Run it on the control thread of the bus, so it works from any runtime.
    pub async fn until_signal(&self) {
        self.on_control(async {
            #[cfg(unix)]
            {
                use tokio::signal::unix::{SignalKind, signal};
                match signal(SignalKind::terminate()) {
                    Ok(mut terminate) => {
                        let interrupt = tokio::signal::ctrl_c();
                        let mut interrupt = std::pin::pin!(interrupt);
                        std::future::poll_fn(|cx| {
                            if interrupt.as_mut().poll(cx).is_ready() {
                                return std::task::Poll::Ready(());
                            }
                            terminate.poll_recv(cx).map(|_| ())
                        })
                        .await;
                    }
                    Err(error) => {
                        tracing::error!(%error, "no signal handler; stop the bus yourself")
                    }
                }
            }
            #[cfg(not(unix))]
            if let Err(error) = tokio::signal::ctrl_c().await {
                tracing::error!(%error, "no signal handler; stop the bus yourself");
            }
        })
        .await;
    }
}

/// Waits until the queues hold nothing that can still be handled, or until `end`.
pub(super) async fn drain(queues: &[Arc<QueueCore>], end: Instant) {
    let stands_still = halt::PAUSED | halt::SUSPENDED;
    let busy = |queue: &Arc<QueueCore>| {
        let books = queue.mailbox.books();
        let moves = queue.mailbox.halted() & stands_still == 0;
        books.in_flight > 0 || (moves && books.queued + books.waiting > 0)
    };
    // Nothing to look for twice: many idle subscribers are stopped one after another at once.
    if queues.iter().all(|queue| queue.mailbox.is_spent()) {
        return;
    }
    let mut calm = 0;
    while calm < 2 && Instant::now() < end {
        tokio::time::sleep(LOOK).await;
        calm = if queues.iter().any(busy) { 0 } else { calm + 1 };
    }
}
