use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::broker::{Broker, Gate};
use crate::ports::{Condition, HealthSource, LifecycleKind, Problem};
use crate::subscriber::{Pulse, Turn, WorkerThread};

/// The longest pause between two rounds.
const ROUND: Duration = Duration::from_secs(1);
/// Rounds within `stuck_after`, where that is short.
const ROUNDS: u32 = 4;
/// The least time without a round after which the control thread itself counts as stuck.
const CONTROL_STUCK_AFTER: Duration = Duration::from_secs(5);

/// Notices from outside that a handler blocks its thread (contract, "Timeouts").
///
/// It goes round on the control thread, by real time, and reads the pulse of each thread; it sends nothing
/// there, so a thread that idles sleeps on.
pub(crate) struct Watchdog {
    service: String,
    stuck_after: Duration,
    broker: Weak<Broker>,
    threads: Mutex<Vec<Watched>>,
    last_round: Mutex<Instant>,
    ended: AtomicBool,
}

struct Watched {
    pulse: Weak<Pulse>,
    watch: Watch,
    /// Who was told to be stuck.
    subject: Option<String>,
}

/// How long one thread has been in the same turn.
#[derive(Default)]
struct Watch {
    turn: Option<Turn>,
    lasts: Duration,
    is_stuck: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Stuck(Turn),
    Recovered,
}

impl Watch {
    /// `step` is the time since the last look.
    fn look(
        &mut self,
        turn: Option<Turn>,
        step: Duration,
        stuck_after: Duration,
    ) -> Option<Change> {
        if turn != self.turn {
            self.turn = turn;
            self.lasts = Duration::ZERO;
            return std::mem::take(&mut self.is_stuck).then_some(Change::Recovered);
        }
        let turn = turn?;
        self.lasts = self.lasts.saturating_add(step);
        if self.is_stuck || self.lasts < stuck_after {
            return None;
        }
        self.is_stuck = true;
        Some(Change::Stuck(turn))
    }
}

impl Watchdog {
    pub(crate) fn new(service: String, stuck_after: Duration, broker: &Arc<Broker>) -> Arc<Self> {
        Arc::new(Self {
            service,
            stuck_after,
            broker: Arc::downgrade(broker),
            threads: Mutex::default(),
            last_round: Mutex::new(Instant::now()),
            ended: AtomicBool::new(false),
        })
    }

    /// Watches a thread for as long as it has workers.
    pub(crate) fn watch(&self, thread: &WorkerThread) {
        self.threads.lock().push(Watched {
            pulse: Arc::downgrade(&thread.pulse),
            watch: Watch::default(),
            subject: None,
        });
    }

    fn pause(&self) -> Duration {
        (self.stuck_after / ROUNDS).clamp(Duration::from_millis(1), ROUND)
    }

    /// Goes round until the bus has ended.
    pub(crate) async fn go_round(self: Arc<Self>) {
        let pause = self.pause();
        loop {
            tokio::time::sleep(pause).await;
            let Some(broker) = self.broker.upgrade() else {
                break;
            };
            if !broker.admits(Gate::Draining) {
                break;
            }
            let now = Instant::now();
            let last = std::mem::replace(&mut *self.last_round.lock(), now);
            // While the whole process stood still no handler is to blame.
            let step = now.saturating_duration_since(last).min(pause * 2);
            self.look(&broker, step);
        }
        self.ended.store(true, Ordering::Relaxed);
    }

    fn look(&self, broker: &Broker, step: Duration) {
        let mut news = Vec::new();
        self.threads.lock().retain_mut(|watched| {
            let Some(pulse) = watched.pulse.upgrade() else {
                return false;
            };
            let change = watched.watch.look(pulse.turn(), step, self.stuck_after);
            match change {
                Some(Change::Stuck(turn)) => {
                    let queue = broker.table.queue(turn.queue);
                    if let Some(queue) = &queue {
                        queue.stuck.fetch_add(1, Ordering::Relaxed);
                    }
                    // A subscriber that was taken out of its group may block on.
                    let subject =
                        queue.map_or_else(|| self.service.clone(), |queue| queue.name.to_string());
                    let why = format!("a handler blocks the thread `{}`", pulse.thread());
                    watched.subject = Some(subject.clone());
                    news.push((subject, LifecycleKind::Stuck, Some(why)));
                }
                Some(Change::Recovered) => {
                    let subject = watched.subject.take().unwrap_or_default();
                    news.push((subject, LifecycleKind::Recovered, None));
                }
                None => {}
            }
            true
        });
        for (subject, kind, why) in news {
            broker.services.tell(&subject, kind, why);
        }
    }
}

impl HealthSource for Watchdog {
    fn examine(&self, found: &mut Vec<Condition>) {
        for watched in self.threads.lock().iter() {
            // Asked anew, so that a thread which has let go since the last round is not accused.
            let thread = watched.pulse.upgrade();
            if let (Some(subject), Some(pulse)) = (&watched.subject, thread)
                && pulse.turn() == watched.watch.turn
            {
                found.push(Condition {
                    detail: Some(format!("a handler blocks the thread `{}`", pulse.thread())),
                    lasts: Some(watched.watch.lasts),
                    ..Condition::new(subject, Problem::Stuck)
                });
            }
        }
        let silent = self.last_round.lock().elapsed();
        let longest = self.stuck_after.max(CONTROL_STUCK_AFTER);
        let longest = longest.saturating_add(self.pause() * 2);
        if silent > longest && !self.ended.load(Ordering::Relaxed) {
            found.push(Condition {
                lasts: Some(silent),
                ..Condition::new(&self.service, Problem::ControlStuck)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn turn(number: u64) -> Option<Turn> {
        Some(Turn { number, queue: 7 })
    }

    #[test]
    fn a_turn_that_does_not_end_is_told_once_and_its_end_too() {
        let mut watch = Watch::default();
        let mut look = |turn| watch.look(turn, SECOND, 3 * SECOND);
        assert_eq!(look(turn(1)), None);
        assert_eq!(look(turn(1)), None);
        assert_eq!(look(turn(1)), None);
        let stuck = Turn {
            number: 1,
            queue: 7,
        };
        assert_eq!(look(turn(1)), Some(Change::Stuck(stuck)));
        assert_eq!(look(turn(1)), None);
        assert_eq!(look(None), Some(Change::Recovered));
        assert_eq!(look(None), None);
    }

    #[test]
    fn turns_that_end_and_threads_that_idle_are_never_stuck() {
        let mut watch = Watch::default();
        for number in 0..100 {
            assert_eq!(watch.look(turn(number), SECOND, SECOND), None);
        }
        for _ in 0..100 {
            assert_eq!(watch.look(None, SECOND, SECOND), None);
        }
    }

    #[test]
    fn the_next_turn_that_blocks_is_another_episode() {
        let mut watch = Watch::default();
        let mut look = |turn| watch.look(turn, SECOND, SECOND);
        look(turn(1));
        assert!(matches!(look(turn(1)), Some(Change::Stuck(_))));
        assert_eq!(look(turn(2)), Some(Change::Recovered));
        assert!(matches!(look(turn(2)), Some(Change::Stuck(_))));
    }
}
