use actix::ArbiterHandle;
use tokio::sync::oneshot;

/// Where the workers of a bus run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Threads {
    /// On this many threads of the bus's own (default: 1), subscribers in turn. Works from any runtime, or
    /// none. At least 1; up to the number of cores where handlers compute, one where they mostly wait.
    Own(usize),
    /// On the thread that starts the bus, which must run an actix system: the cheapest hop, but a handler
    /// that blocks then blocks the caller too.
    Current,
}

/// A thread with an actix system of its own. It ends when this is dropped, unless it is [kept](Self::keep): so a bus that
/// does not start leaves none behind.
pub(super) struct OwnThread {
    thread: ArbiterHandle,
    is_kept: bool,
}

impl OwnThread {
    pub(super) fn handle(&self) -> ArbiterHandle {
        self.thread.clone()
    }

    /// Whoever has it ends it by [`end`].
    pub(super) fn keep(mut self) -> ArbiterHandle {
        self.is_kept = true;
        self.thread.clone()
    }
}

impl Drop for OwnThread {
    fn drop(&mut self) {
        if !self.is_kept {
            end(&self.thread);
        }
    }
}

/// Starts one, and waits until it runs.
pub(super) async fn spawn(name: String) -> std::io::Result<OwnThread> {
    let (ready, started) = oneshot::channel();
    std::thread::Builder::new().name(name).spawn(move || {
        let system = actix::System::new();
        let runtime = system.block_on(async {
            // A starter that has given up drops it, wherever it is.
            let _ = ready.send(OwnThread {
                thread: actix::Arbiter::current(),
                is_kept: false,
            });
            tokio::runtime::Handle::current()
        });
        // What is dropped at the end may give something up by a task, as sqlx's connections do, and a panic there would
        // be the end of the process: tasks are dropped outside of what runs them.
        let _context = runtime.enter();
        if let Err(error) = system.run() {
            tracing::error!(%error, "a thread of the bus ended with an error");
        }
        crate::broker::forget_routes();
    })?;
    started
        .await
        .map_err(|_| std::io::Error::other("a thread of the bus ended as it started"))
}

/// Ends a thread that was kept, when it has done what it is doing.
pub(super) fn end(thread: &ArbiterHandle) {
    thread.spawn_fn(|| actix::System::current().stop());
}
