//! A RabbitMQ for tests, by `scripts/rabbitmq`: the one that all tests share, or a private node that a test may break.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use postroom::{Bus, DeleteOnly};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/rabbitmq");

/// A start installs RabbitMQ where it is missing.
const START_DEADLINE: Duration = Duration::from_secs(300);
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

/// A broker. The methods block the thread: asynchronous tests call them by [`Rabbit::run`]. Clones are the same
/// broker; a private node stops when the last one is dropped, or when this process has ended in any other way.
#[derive(Clone)]
pub(crate) struct Rabbit(Arc<Node>);

struct Node {
    url: String,
    directory: Option<PathBuf>,
    private: bool,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let (true, Some(directory)) = (self.private, &self.directory) {
            // A panic here would hide the one that a test is unwinding from; the script's watch stops the node too.
            let _ = script("stop", [directory], COMMAND_DEADLINE);
        }
    }
}

impl Rabbit {
    /// A private node, which the test may break.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// A private node with options of `scripts/rabbitmq start`, as `["--consumer-timeout", "2000"]`.
    pub(crate) fn start_with(options: &[&str]) -> Self {
        let owner = std::process::id().to_string();
        let arguments = ["--owner", &owner]
            .into_iter()
            .chain(options.iter().copied());
        let output = script("start", arguments, START_DEADLINE).unwrap();
        let value = |name: &str| {
            output
                .split_whitespace()
                .find_map(|word| word.strip_prefix(name))
                .unwrap_or_else(|| panic!("no {name} in {output}"))
                .to_owned()
        };
        Self(Arc::new(Node {
            url: value("AMQP_URL="),
            directory: Some(value("RABBITMQ_DIR=").into()),
            private: true,
        }))
    }

    /// The broker of `AMQP_URL`, which all tests share at once: a test uses names of its own there (see
    /// [`Rabbit::unique`]), and breaks nothing. Commands need `RABBITMQ_DIR` beside it.
    pub(crate) fn shared() -> Self {
        let url = std::env::var("AMQP_URL").unwrap_or_else(|_| {
            panic!("no AMQP_URL: run scripts/test, or first `eval \"$(scripts/rabbitmq start)\"`")
        });
        Self(Arc::new(Node {
            url,
            directory: std::env::var_os("RABBITMQ_DIR").map(PathBuf::from),
            private: false,
        }))
    }

    /// The shared broker where commands work on it, otherwise a private node: for tests that need rabbitmqctl
    /// and break nothing.
    pub(crate) fn controlled() -> Self {
        let both = ["AMQP_URL", "RABBITMQ_DIR"].map(std::env::var_os);
        if both.iter().all(Option::is_some) {
            Self::shared()
        } else {
            Self::start()
        }
    }

    /// A name that no other test on the broker has.
    pub(crate) fn unique(name: &str) -> String {
        format!("{name}-{:x}", fastrand::u64(..))
    }

    /// Runs blocking work with this broker beside the test's runtime.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        let rabbit = self.clone();
        match tokio::task::spawn_blocking(move || work(&rabbit)).await {
            Ok(output) => output,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.0.url
    }

    /// The URL of a user in a vhost, at this broker.
    pub(crate) fn url_of(&self, user: &str, password: &str, vhost: &str) -> String {
        let vhost = if vhost == "/" { "%2f" } else { vhost };
        format!("amqp://{user}:{password}@{}/{vhost}", self.authority())
    }

    /// The URL with another host and port: those of a proxy in front of this broker.
    pub(crate) fn url_through(&self, address: std::net::SocketAddr) -> String {
        self.url()
            .replacen(self.authority(), &address.to_string(), 1)
    }

    /// Host and port, as `127.0.0.1:5672`.
    pub(crate) fn authority(&self) -> &str {
        let rest = self.url().split_once("://").unwrap().1;
        let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
        rest.split('/').next().unwrap()
    }

    /// The directory of the node, as `scripts/rabbitmq` knows it.
    pub(crate) fn directory(&self) -> &Path {
        self.0.directory.as_deref().unwrap_or_else(|| {
            panic!("AMQP_URL alone: a test that needs rabbitmqctl uses Rabbit::controlled()")
        })
    }

    /// Stops the application and keeps the process: connections are closed, the port refuses.
    pub(crate) fn stop_app(&self) {
        self.may_break();
        self.ctl(&["stop_app"]);
    }

    pub(crate) fn start_app(&self) {
        self.may_break();
        self.ctl(&["start_app"]);
        self.ctl(&["await_startup"]);
    }

    /// Closes every connection, with AMQP's words (320, CONNECTION_FORCED).
    pub(crate) fn close_all_connections(&self) {
        self.may_break();
        self.ctl(&["close_all_connections", "test"]);
    }

    /// Stops the process in its tracks: connections stay open and nothing answers.
    pub(crate) fn freeze(&self) {
        self.may_break();
        self.script("freeze");
    }

    pub(crate) fn thaw(&self) {
        self.script("thaw");
    }

    /// `kill -9`, of a node that has saved the names of its queues (`scripts/rabbitmq` says why).
    pub(crate) fn kill(&self) {
        self.may_break();
        self.script("kill");
    }

    /// Starts the node again after [`Rabbit::kill`], on the same data and ports.
    pub(crate) fn restart(&self) {
        let directory = self.directory().to_str().unwrap();
        script("start", ["--dir", directory], START_DEADLINE).unwrap();
    }

    /// The memory alarm: while it is on, the broker reads nothing from connections that publish.
    pub(crate) fn memory_alarm(&self, on: bool) {
        self.may_break();
        self.ctl(&["set_vm_memory_high_watermark", if on { "0" } else { "0.4" }]);
    }

    /// The disk alarm, which does the same.
    pub(crate) fn disk_alarm(&self, on: bool) {
        self.may_break();
        // In bytes: 100 TB, and what it is at first.
        let free = if on { "100000000000000" } else { "50000000" };
        self.ctl(&["set_disk_free_limit", free]);
    }

    /// The names of the queues of the vhost `/`.
    pub(crate) fn list_queues(&self) -> Vec<String> {
        let listed = self.ctl(&["list_queues", "--no-table-headers", "name"]);
        listed.lines().map(str::to_owned).collect()
    }

    /// Waits until `condition` holds.
    pub(crate) fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let end = Instant::now() + super::PATIENCE;
        while !condition() {
            assert!(Instant::now() < end, "it never came true: {what}");
        }
    }

    /// The ready and unacknowledged messages of a queue, as last counted: seconds behind, so see [`Rabbit::until`].
    pub(crate) fn queue_depth(&self, queue: &str) -> u64 {
        self.queue_number(queue, "messages")
    }

    /// The consumers of a queue, as last counted.
    pub(crate) fn consumers(&self, queue: &str) -> u64 {
        self.queue_number(queue, "consumers")
    }

    fn queue_number(&self, queue: &str, column: &str) -> u64 {
        let listed = self.ctl(&["list_queues", "--no-table-headers", "name", column]);
        let line = listed
            .lines()
            .find_map(|line| line.strip_prefix(queue)?.strip_prefix('\t'));
        let number = line.unwrap_or_else(|| panic!("no queue {queue} in {listed:?}"));
        number.parse().unwrap()
    }

    pub(crate) fn delete_queue(&self, queue: &str) {
        self.ctl(&["delete_queue", queue]);
    }

    pub(crate) fn add_vhost(&self, vhost: &str) {
        self.ctl(&["add_vhost", vhost]);
    }

    /// Adds a user, who may do nothing until [`Rabbit::permissions`] says what.
    pub(crate) fn add_user(&self, user: &str, password: &str) {
        self.ctl(&["add_user", user, password]);
    }

    /// Sets what a user may configure, write and read in a vhost: regular expressions of names.
    pub(crate) fn permissions(&self, vhost: &str, user: &str, may: [&str; 3]) {
        self.ctl(&["set_permissions", "-p", vhost, user, may[0], may[1], may[2]]);
    }

    /// Runs rabbitmqctl, and returns what it printed.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        let directory = self.directory().to_str().unwrap();
        let arguments = [directory].into_iter().chain(arguments.iter().copied());
        script("ctl", arguments, COMMAND_DEADLINE).unwrap()
    }

    fn script(&self, command: &str) {
        script(command, [self.directory()], COMMAND_DEADLINE).unwrap();
    }

    fn may_break(&self) {
        assert!(
            self.0.private,
            "other tests use the shared broker: Rabbit::start() is one to break"
        );
    }
}

/// Runs `scripts/rabbitmq`, and returns what it printed, or why it failed.
fn script<A: AsRef<std::ffi::OsStr>>(
    command: &str,
    arguments: impl IntoIterator<Item = A>,
    deadline: Duration,
) -> Result<String, String> {
    let mut child = Command::new(SCRIPT)
        .arg(command)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{SCRIPT}: {error}"))?;
    let stdout = read_all(child.stdout.take());
    let stderr = read_all(child.stderr.take());
    let end = Instant::now() + deadline;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            break status;
        }
        if Instant::now() >= end {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!(
                "scripts/rabbitmq {command} took more than {deadline:?}"
            ));
        }
        thread::sleep(Duration::from_millis(5));
    };
    let (stdout, stderr) = (joined(stdout), joined(stderr));
    if status.success() {
        Ok(stdout)
    } else {
        Err(format!(
            "scripts/rabbitmq {command}: {status}\n{stdout}{stderr}"
        ))
    }
}

/// Reads on a thread of its own, so that a full pipe never stops the child.
fn read_all(
    pipe: Option<impl std::io::Read + Send + 'static>,
) -> Option<thread::JoinHandle<String>> {
    let mut pipe = pipe?;
    Some(thread::spawn(move || {
        let mut text = String::new();
        let _ = pipe.read_to_string(&mut text);
        text
    }))
}

fn joined(reader: Option<thread::JoinHandle<String>>) -> String {
    reader
        .and_then(|reader| reader.join().ok())
        .unwrap_or_default()
}

/// Deletes a group's queue, and that of its dead letters, of which there are none left.
pub(crate) async fn delete_group(bus: &Bus, group: &str) {
    let amqp = bus.amqp().unwrap();
    amqp.delete(group, DeleteOnly::Always).await.unwrap();
    let letters = amqp.delete_dead_letters(group, DeleteOnly::Always).await;
    assert_eq!(letters.unwrap(), Some(0));
}
