//! Tests that are another process too: the same binary, which the environment tells to be the one that is stopped,
//! killed, or dies.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const TASK: &str = "POSTROOM_TEST_TASK";

/// What this process is to do, if it is such a one.
pub(crate) fn task() -> Option<String> {
    std::env::var(TASK).ok()
}

/// Killed, however the test ends.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(test: &str, task: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test])
        .env(TASK, task)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

impl Process {
    /// Starts one that is to find its [`task`] in a test of this name.
    pub(crate) fn start(test: &str, task: &str) -> Self {
        Self(command(test, task).spawn().unwrap())
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ends(mut self) {
        let until = Instant::now() + super::PATIENCE;
        while self.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "it does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Stops it, and waits until each of its threads stands: they go on until the first of them sees the signal.
    pub(crate) fn stop(&self) {
        self.signal("-STOP");
        let threads = format!("/proc/{}/task", self.0.id());
        let stands = |stat: String| stat.rsplit(") ").next().unwrap().starts_with('T');
        let until = Instant::now() + super::PATIENCE;
        while !std::fs::read_dir(&threads).unwrap().all(|thread| {
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat"));
            // One that has ended stands too.
            stat.map_or(true, stands)
        }) {
            assert!(Instant::now() < until, "it does not stop");
            std::thread::yield_now();
        }
    }

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.0.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(sent.success());
    }
}

/// Runs one that dies, as by `kill -9`, at a named point: `name:3` is its third passing.
pub(crate) async fn dies_at(point: &str, test: &str, task: &str) {
    let child = command(test, task)
        .env("POSTROOM_CRASH", point)
        .stderr(Stdio::null())
        .spawn();
    let mut child = Process(child.unwrap());
    // The fiftieth passing of what comes round each 100 ms is 5 s away on a machine that does nothing else.
    let until = Instant::now() + 3 * super::PATIENCE;
    let status = loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < until, "{point} was not passed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(status.signal(), Some(6), "{point}: {status}");
}

/// How often each cell of a crash matrix runs.
pub(crate) fn rounds() -> u64 {
    let rounds = std::env::var("POSTROOM_CRASH_ROUNDS").ok();
    rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

/// What came of one cell of a crash matrix.
pub(crate) struct Cell<'a> {
    /// Outbox, inbox or queues.
    pub(crate) what: &'a str,
    pub(crate) database: &'a str,
    /// The point, and at which passing of it the process died.
    pub(crate) died_at: &'a str,
    /// Messages that must not be lost: what was committed or accepted before, and for all in all.
    pub(crate) kept: usize,
    pub(crate) lost: usize,
    /// Published or handled again.
    pub(crate) repeated: usize,
}

impl Cell<'_> {
    /// Prints it, and appends it to the file that `POSTROOM_CRASH_MATRIX` names, for `scripts/crash-matrix`.
    #[allow(
        clippy::print_stdout,
        reason = "the matrix is read in the test's output"
    )]
    pub(crate) fn record(&self) {
        let line = format!(
            "{} {} {} {} {} {}\n",
            self.what,
            self.database,
            self.died_at.replace(':', " "),
            self.kept,
            self.lost,
            self.repeated
        );
        print!("{line}");
        if let Some(path) = std::env::var_os("POSTROOM_CRASH_MATRIX") {
            let file = File::options().append(true).create(true).open(path);
            file.unwrap().write_all(line.as_bytes()).unwrap();
        }
    }
}

/// Lines of orders and ids. Written down at the very moment: what is in memory when a process dies is gone.
#[derive(Clone)]
pub(crate) struct Notes(Arc<File>);

impl Notes {
    pub(crate) fn open(path: impl AsRef<Path>) -> Self {
        let file = File::options().append(true).create(true).open(path);
        Self(Arc::new(file.unwrap()))
    }

    pub(crate) fn write(&self, order: u64, id: impl std::fmt::Display) {
        let line = format!("{order} {id}\n");
        (&*self.0).write_all(line.as_bytes()).unwrap();
    }

    /// What is there: ids by order.
    pub(crate) fn read(path: impl AsRef<Path>) -> BTreeMap<u64, Vec<String>> {
        let mut found: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        let text = std::fs::read_to_string(path).unwrap_or_default();
        for line in text.lines() {
            let (order, id) = line.split_once(' ').unwrap();
            let order = order.parse().unwrap();
            found.entry(order).or_default().push(id.to_owned());
        }
        found
    }
}
