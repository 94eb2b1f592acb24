use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, SetOnce};
use tokio::time::{Instant, timeout};

use super::{Bus, subscription};
use crate::broker::Gate;
use crate::delivery::NEVER;
use crate::mailbox::halt;
use crate::message::MessageId;
use crate::queue::QueueCore;
use crate::supervisor::StopAll;

/// A message that was in memory when its queue ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Abandoned {
    /// The queue that held it; `schedule` for a delayed message.
    pub queue: String,
    /// The message.
    pub id: MessageId,
}

/// How a shutdown went.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
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

impl ShutdownReport {
    fn note_late(&mut self, name: String) {
        if !self.timed_out.contains(&name) {
            self.timed_out.push(name);
        }
    }
}

/// A bus is shut down once, however often that is asked for.
#[derive(Default)]
pub(super) struct Shutdown {
    has_begun: AtomicBool,
    /// Somebody waited no longer for the handlers.
    is_cut: Notify,
    /// Whose handlers were cut off for that; locked for as long as they are being cut off.
    cut_off: Mutex<Vec<String>>,
    report: SetOnce<ShutdownReport>,
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
    /// Called again, it waits for the first shutdown and answers with the same report; at its own deadline, if that is
    /// sooner, it cuts the handlers off, so that `shutdown(Duration::ZERO)` hastens one that is under way. What is still
    /// written to RabbitMQ or the database keeps the first one's deadline; where that takes more than a second, the second
    /// call answers without it, and only names whom it cut off.
    ///
    /// # Cancel safety
    /// Dropped, the shutdown goes on behind it.
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        let bus = self.clone();
        self.on_control(async move { bus.shut_down_once(deadline).await })
            .await
            .unwrap_or_default()
    }

    /// Like [`shutdown`](Self::shutdown), for a program without an async runtime.
    #[must_use]
    pub fn shutdown_blocking(&self, deadline: Duration) -> ShutdownReport {
        super::handle::block_on(self.shutdown(deadline))
    }

    async fn shut_down_once(&self, deadline: Duration) -> ShutdownReport {
        let shutdown = &self.0.shutdown;
        if !shutdown.has_begun.swap(true, Ordering::AcqRel) {
            let report = self.shut_down(deadline).await;
            // Nobody else sets it.
            let _ = shutdown.report.set(report.clone());
            return report;
        }
        if let Ok(report) = timeout(deadline.min(NEVER), shutdown.report.wait()).await {
            return report.clone();
        }
        self.0.broker.narrow_gate(Gate::Closed);
        let late = {
            // What it does ends the first one's waiting, which is not to report before it knows of whom.
            let mut cut_off = shutdown.cut_off.lock().await;
            let late = self.cut_off().await;
            cut_off.extend(late.iter().cloned());
            late
        };
        shutdown.is_cut.notify_one();
        if let Ok(report) = timeout(4 * LAST_GRACE, shutdown.report.wait()).await {
            return report.clone();
        }
        ShutdownReport {
            timed_out: late,
            ..ShutdownReport::default()
        }
    }

    /// Cuts off the handlers that have not ended; answers with whose they are.
    async fn cut_off(&self) -> Vec<String> {
        let deadline = Duration::ZERO;
        let stop = self.0.root.send(StopAll { deadline });
        let late = timeout(LAST_GRACE, stop).await;
        late.map_or_else(|_| Vec::new(), Result::unwrap_or_default)
    }

    async fn shut_down(&self, deadline: Duration) -> ShutdownReport {
        let started = Instant::now();
        let end = started + deadline.min(NEVER);
        let left = || {
            let left = end.saturating_duration_since(Instant::now());
            left.max(LAST_GRACE)
        };
        let broker = &self.0.broker;
        broker.narrow_gate(Gate::Draining);
        let queues = broker.table.queues();
        // Rows that are not published stay where they are.
        #[cfg(any(feature = "sqlite", feature = "postgres"))]
        if let Some(outbox) = &self.0.outbox {
            outbox.0.close(left()).await;
        }
        if let Some(bridge) = &broker.bridge {
            let _ = timeout(left(), bridge.detach_all()).await;
        }
        if let Some(stored) = &broker.stored {
            stored.detach_all();
        }
        first_of(drain(&queues, end), self.0.shutdown.is_cut.notified()).await;
        broker.narrow_gate(Gate::Closed);
        let rest = left();
        // By real time, so that a manual clock can not hold up the end.
        let stop = self.0.root.send(StopAll { deadline: rest });
        let late = match timeout(rest + LAST_GRACE, stop).await {
            Ok(late) => late.unwrap_or_default(),
            // The supervisors wait by a manual clock that stands still.
            Err(_) => self.cut_off().await,
        };
        let mut report = ShutdownReport::default();
        // What was cut off goes back to its queue on its own thread.
        until_settled(&queues).await;
        for queue in &queues {
            report.abandoned.extend(subscription::abandon(queue).await);
        }
        if let Some(bridge) = &broker.bridge {
            bridge.close(left()).await;
        }
        if let Some(stored) = &broker.stored {
            stored.close(left()).await;
        }
        if broker.bridge.is_some() || broker.stored.is_some() {
            // What was on its way there has ended: a dead letter that was not stored gives its message up.
            until_settled(&queues).await;
            for queue in &queues {
                report.abandoned.extend(subscription::abandon(queue).await);
            }
        }
        for id in broker.schedules.clear() {
            report.abandoned.push(Abandoned {
                queue: "schedule".to_owned(),
                id,
            });
        }
        let cut_off = std::mem::take(&mut *self.0.shutdown.cut_off.lock().await);
        for late in late.into_iter().chain(cut_off) {
            report.note_late(late);
        }
        for queue in queues.iter().filter(|queue| is_in_flight(queue)) {
            report.note_late(queue.name.to_string());
        }
        report.clean = report.abandoned.is_empty() && report.timed_out.is_empty();
        report.elapsed = started.elapsed();
        report
    }

    /// Waits until the process is told to end: by SIGTERM or by Ctrl-C (SIGINT); where there is no SIGTERM, by
    /// Ctrl-C. Or until the bus has [failed](Self::failed): it does nothing more, and
    /// [`failure`](Self::failure) says why. Works from any runtime, and does nothing about the signal: shut down after it.
    ///
    /// From the first call on these signals do not end the process by themselves, and never will again in its
    /// life; a second Ctrl-C does nothing, so give the shutdown a deadline. Where no signal can be listened to
    /// that is logged, and this waits for ever.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let bus = postroom::Bus::builder("shop").start().await?;
    /// // … subscribers …
    /// bus.until_signal().await;
    /// let report = bus.shutdown(Duration::from_secs(20)).await;
    /// println!("{} messages abandoned", report.abandoned.len());
    /// # Ok(()) }
    /// ```
    ///
    /// # Cancel safety
    /// Dropped, nothing listens any more; a signal that comes then is not kept for the next call.
    pub async fn until_signal(&self) {
        let (mut told, wait) = tokio::sync::oneshot::channel();
        self.0.broker.services.control.spawn(async move {
            first_of(told.closed(), signal()).await;
            // Who asked may have gone.
            let _ = told.send(());
        });
        let failed = async {
            self.failed().await;
        };
        // The control thread lives as long as this handle.
        let told = async {
            let _ = wait.await;
        };
        first_of(failed, told).await;
    }
}

/// Ends with whichever ends first.
async fn first_of(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    std::future::poll_fn(|cx| match one.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(()),
        Poll::Pending => other.as_mut().poll(cx),
    })
    .await;
}

/// Ends at the next signal that tells the process to end.
async fn signal() {
    if let Err(error) = told_to_end().await {
        tracing::error!(%error, "no signal can be listened to; stop the bus yourself");
        std::future::pending::<()>().await;
    }
}

#[cfg(unix)]
async fn told_to_end() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    std::future::poll_fn(|cx| match terminate.poll_recv(cx) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => interrupt.poll_recv(cx).map(|_| ()),
    })
    .await;
    Ok(())
}

#[cfg(not(unix))]
async fn told_to_end() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

fn is_in_flight(queue: &Arc<QueueCore>) -> bool {
    queue.mailbox.books().in_flight > 0
}

/// Waits for a moment until nothing is in flight.
async fn until_settled(queues: &[Arc<QueueCore>]) {
    let last = Instant::now() + LAST_GRACE;
    while queues.iter().any(is_in_flight) && Instant::now() < last {
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until the queues hold nothing that can still be handled, or until `end`.
pub(super) async fn drain(queues: &[Arc<QueueCore>], end: Instant) {
    let stands_still = halt::PAUSED | halt::SUSPENDED | halt::ENDED;
    let busy = |queue: &Arc<QueueCore>| {
        let books = queue.mailbox.books();
        let moves = queue.mailbox.halted() & stands_still == 0;
        // A lane waits for its retry in place. It is not handed out any more, and is kept elsewhere.
        let in_vain = queue.spec.order.is_keyed() && queue.backing().is_kept_elsewhere();
        let waiting = if in_vain { 0 } else { books.waiting };
        books.in_flight > 0 || (moves && books.queued + waiting > 0)
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
