use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::stage::Stage;
use super::{Backing, Line, Report, Scenario, Unmet, Verdict, scenarios};

/// The longest that one scenario may take, in real time.
const DEADLINE: Duration = Duration::from_secs(20);

/// Runs every scenario over a backing, one after another. Works from any runtime.
///
/// # Cancel safety
/// Dropped, the suite runs on and nobody hears of it.
pub async fn run(backing: impl Backing) -> Report {
    let name = backing.name();
    let (done, wait) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Who asked may have gone.
        let _ = done.send(run_blocking(backing));
    });
    wait.await.unwrap_or(Report {
        backing: name,
        lines: Vec::new(),
    })
}

/// Like [`run`], for a program without an async runtime.
pub fn run_blocking(backing: impl Backing) -> Report {
    let backing: Arc<dyn Backing> = Arc::new(backing);
    Report {
        backing: backing.name(),
        lines: scenarios()
            .into_iter()
            .map(|scenario| scenario.run_on(Arc::clone(&backing)))
            .collect(),
    }
}

impl Scenario {
    /// Runs this scenario over a backing, on a thread of its own. Blocks for 20 s at the most: a scenario that
    /// has not ended by then has failed, and its thread is left behind.
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
        if !self.applies_to(&backing.features()) {
            return line(Verdict::Skipped);
        }
        let (done, wait) = channel();
        let spawned = std::thread::Builder::new()
            .name(self.name.to_owned())
            .spawn(move || {
                let ended = catch_unwind(AssertUnwindSafe(|| self.play(&*backing)));
                let ended = ended.unwrap_or_else(|panic| Err(Unmet::Panicked(text(&*panic))));
                // Who waited may have given up.
                let _ = done.send(ended);
            });
        if let Err(error) = spawned {
            return line(Verdict::Failed(Unmet::Unavailable(error.to_string())));
        }
        line(match wait.recv_timeout(DEADLINE) {
            Ok(Ok(())) => Verdict::Passed,
            Ok(Err(unmet)) => Verdict::Failed(unmet),
            Err(RecvTimeoutError::Timeout) => Verdict::Failed(Unmet::Hung(DEADLINE)),
            Err(RecvTimeoutError::Disconnected) => {
                Verdict::Failed(Unmet::Panicked("its thread ended".to_owned()))
            }
        })
    }

    fn play(self, backing: &dyn Backing) -> Result<(), Unmet> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| Unmet::Unavailable(error.to_string()))?;
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let isolated = backing.isolate().await.map_err(Unmet::Unavailable)?;
            let stage = Stage::new(isolated);
            let ended = (self.body)(&stage).await;
            if ended.is_err() {
                stage.give_up().await;
                return ended;
            }
            stage.check_books().await
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
