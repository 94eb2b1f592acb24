use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::stage::Stage;
use super::{Backing, Line, Report, Scenario, Unmet, Verdict, scenarios};
use crate::ports::{Caught, Panicked};

/// The longest that one scenario may take, in real time.
const DEADLINE: Duration = Duration::from_secs(20);
/// The same over a backing whose waits have to be waited for.
pub(super) const DEADLINE_IN_REAL_TIME: Duration = Duration::from_secs(120);
/// The longest that it may take beyond that to shut down its buses and to clean up its place.
const CLEANING: Duration = Duration::from_secs(60);

/// How many are run at once over such a backing: they mostly wait.
pub(super) const SIDE_BY_SIDE: usize = 8;

/// Runs every scenario over a backing: one after another, or eight at once where the backing has no
/// `exact_time`, since there they mostly wait. Works from any runtime.
///
/// # Panics
/// Where the backing does outside of [`isolate`](Backing::isolate), whose panic fails the scenario.
///
/// # Cancel safety
/// Dropped, the suite runs on and nobody hears of it.
pub async fn run(backing: impl Backing) -> Report {
    let (done, wait) = tokio::sync::oneshot::channel();
    let suite = std::thread::spawn(move || {
        let report = catch_unwind(AssertUnwindSafe(|| run_blocking(backing)));
        // Who asked may have gone.
        let _ = done.send(report);
    });
    match wait.await {
        Ok(Ok(report)) => report,
        Ok(Err(panic)) => resume_unwind(panic),
        Err(_) => unreachable!("it answers however the suite ends: {suite:?}"),
    }
}

/// Like [`run`], for a program without an async runtime.
///
/// # Panics
/// As [`run`].
pub fn run_blocking(backing: impl Backing) -> Report {
    let backing: Arc<dyn Backing> = Arc::new(backing);
    let at_once = match backing.features().exact_time {
        true => 1,
        false => SIDE_BY_SIDE,
    };
    let scenarios = scenarios();
    let lines = side_by_side(scenarios.len(), at_once, |number| {
        scenarios[number].run_on(Arc::clone(&backing))
    });
    Report {
        backing: backing.name(),
        lines,
    }
}

/// Runs so many, some of them at once, and returns their lines in order.
pub(super) fn side_by_side(
    all: usize,
    at_once: usize,
    run: impl Fn(usize) -> Line + Sync,
) -> Vec<Line> {
    let next = AtomicUsize::new(0);
    let (done, lines) = channel();
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= all {
                        break;
                    }
                    // It is received after all of them.
                    let _ = done.send((number, run(number)));
                }
            });
        }
    });
    drop(done);
    let mut lines: Vec<(usize, Line)> = lines.iter().collect();
    lines.sort_by_key(|(number, _)| *number);
    lines.into_iter().map(|(_, line)| line).collect()
}

/// Ends a scenario that panics or is not over by its deadline as one that failed, so that what it has begun is cleaned up.
pub(super) async fn by_deadline(
    deadline: Duration,
    scenario: impl Future<Output = Result<(), Unmet>>,
) -> Result<(), Unmet> {
    match tokio::time::timeout(deadline, Caught::new(scenario)).await {
        Ok(Ok(ended)) => ended,
        Ok(Err(Panicked(why))) => Err(Unmet::Panicked(why)),
        Err(_) => Err(Unmet::Hung(deadline)),
    }
}

/// Runs one on a thread of its own, which is left behind where it does not even clean up after its deadline.
pub(super) fn apart(
    name: &str,
    deadline: Duration,
    work: impl FnOnce() -> Result<(), Unmet> + Send + 'static,
) -> Verdict {
    let (done, wait) = channel();
    let spawned = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(work));
            let ended = ended.unwrap_or_else(|panic| Err(Unmet::Panicked(text(&*panic))));
            // Who waited may have given up.
            let _ = done.send(ended);
        });
    if let Err(error) = spawned {
        return Verdict::Failed(Unmet::Unavailable(error.to_string()));
    }
    match wait.recv_timeout(deadline + CLEANING) {
        Ok(Ok(())) => Verdict::Passed,
        Ok(Err(unmet)) => Verdict::Failed(unmet),
        Err(RecvTimeoutError::Timeout) => Verdict::Failed(Unmet::Hung(deadline)),
        Err(RecvTimeoutError::Disconnected) => {
            Verdict::Failed(Unmet::Panicked("its thread ended".to_owned()))
        }
    }
}

impl Scenario {
    /// Runs this scenario over a backing, on a thread of its own. A scenario that has not ended after 20 s, after 2 minutes
    /// where the backing has no `exact_time`, has failed, and is ended: its buses are shut down and its place is cleaned
    /// up. Where that takes more than another minute, because something blocks its thread, the thread is left behind.
    #[must_use]
    pub fn run(&self, backing: impl Backing) -> Line {
        self.run_on(Arc::new(backing))
    }

    fn run_on(self, backing: Arc<dyn Backing>) -> Line {
        let started = Instant::now();
        let line = |verdict| Line {
            scenario: self.name,
            verdict,
            took: started.elapsed(),
        };
        let features = backing.features();
        if let Some(feature) = self.missing_in(&features) {
            return line(Verdict::Skipped(feature));
        }
        let deadline = match features.exact_time {
            true => DEADLINE,
            false => DEADLINE_IN_REAL_TIME,
        };
        line(apart(self.name, deadline, move || {
            self.play(backing, deadline)
        }))
    }

    fn play(self, backing: Arc<dyn Backing>, deadline: Duration) -> Result<(), Unmet> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Unmet::Unavailable(error.to_string()))?;
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let stage = Stage::open(backing).await?;
            let played = async {
                (self.body)(&stage).await?;
                stage.check_books().await
            };
            let ended = by_deadline(deadline, played).await;
            if ended.is_err() {
                stage.give_up().await;
            }
            ended
        })
    }
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let known = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    known.unwrap_or_else(|| "a panic without a text".to_owned())
}
