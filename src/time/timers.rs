use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Clock;
use crate::delivery::NEVER;
use crate::ports::{TimerKey, Timers};

type Action = Box<dyn FnOnce() + Send>;

/// Everything of one bus that waits for a time.
///
/// Actions run on the bus's control thread (or in `ManualClock::advance`), outside the lock; they are
/// short: a wake, a message to an actor. A caller on any executor can wait here, since nothing depends
/// on the runtime it runs on.
pub(crate) struct TimerService {
    clock: Clock,
    waiting: Mutex<Waiting>,
    next: AtomicU64,
    changed: Notify,
    closed: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    actions: BTreeMap<(Instant, u64), Action>,
    /// When the driver looks next. A timer after that need not wake it: most deadlines are cancelled, and one
    /// set for every publish that waits would wake a thread for nothing.
    looks_at: Option<Instant>,
}

impl TimerService {
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        let service = Arc::new(Self {
            clock: clock.clone(),
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            changed: Notify::new(),
            closed: AtomicBool::new(false),
        });
        clock.attach(&service);
        service
    }

    pub(crate) fn earliest(&self) -> Option<Instant> {
        let waiting = self.waiting.lock();
        waiting.actions.first_key_value().map(|(key, _)| key.0)
    }

    pub(crate) fn has_due(&self) -> bool {
        let now = self.clock.now();
        self.earliest().is_some_and(|at| at <= now)
    }

    pub(crate) fn fire_due(&self) {
        loop {
            let now = self.clock.now();
            let due = {
                let mut waiting = self.waiting.lock();
                match waiting.actions.first_entry() {
                    Some(entry) if entry.key().0 <= now => entry.remove(),
                    _ => return,
                }
            };
            due();
        }
    }

    /// Runs on the control thread for as long as the bus lives.
    pub(crate) async fn drive(self: Arc<Self>) {
        while !self.closed.load(Ordering::Acquire) {
            if self.clock.is_manual() {
                self.changed.notified().await;
                // A timer may have been set for a time that is already past.
                self.fire_due();
                continue;
            }
            self.fire_due();
            let earliest = {
                let mut waiting = self.waiting.lock();
                waiting.looks_at = waiting.actions.first_key_value().map(|(key, _)| key.0);
                waiting.looks_at
            };
            match earliest {
                None => self.changed.notified().await,
                Some(at) => {
                    let sleep = tokio::time::sleep_until(at.into());
                    let mut sleep = std::pin::pin!(sleep);
                    let mut changed = std::pin::pin!(self.changed.notified());
                    std::future::poll_fn(|cx| {
                        if changed.as_mut().poll(cx).is_ready() {
                            return Poll::Ready(());
                        }
                        sleep.as_mut().poll(cx)
                    })
                    .await;
                }
            }
        }
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed.notify_one();
        // Dropped outside the lock: an action may own what sets or cancels timers when it goes.
        let waiting = std::mem::take(&mut *self.waiting.lock());
        drop(waiting);
    }
}

impl Timers for TimerService {
    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn after(&self, delay: Duration, run: Action) -> TimerKey {
        let now = self.clock.now();
        let at = now.checked_add(delay).unwrap_or_else(|| now + NEVER);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let is_sooner = {
            let mut waiting = self.waiting.lock();
            waiting.actions.insert((at, number), run);
            let is_sooner = waiting.looks_at.is_none_or(|looks_at| at < looks_at);
            if is_sooner && !self.clock.is_manual() {
                waiting.looks_at = Some(at);
            }
            is_sooner
        };
        if is_sooner {
            self.changed.notify_one();
        }
        TimerKey { at, number }
    }

    fn cancel(&self, key: TimerKey) {
        let removed = self.waiting.lock().actions.remove(&(key.at, key.number));
        drop(removed);
    }
}
