//! The two threads of a run.

use std::future::Future;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

/// A tokio runtime for one thread.
pub fn runtime() -> tokio::runtime::Runtime {
    match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => panic!("no runtime: {error}"),
    }
}

/// A thread with receivers on it, which lives until it is dropped.
pub struct Receivers {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Receivers {
    /// Runs `start` on a new thread with a tokio runtime, and hands back what it made.
    pub fn on_tokio<T, F>(start: impl FnOnce() -> F + Send + 'static) -> anyhow::Result<(Self, T)>
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        Self::spawn(move |stopped, made| {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime(), async {
                let _ = made.send(start().await);
                let _ = stopped.await;
            });
        })
    }

    /// The same with an actix system.
    pub fn on_actix<T, F>(start: impl FnOnce() -> F + Send + 'static) -> anyhow::Result<(Self, T)>
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        Self::spawn(move |stopped, made| {
            actix::System::new().block_on(async {
                let _ = made.send(start().await);
                let _ = stopped.await;
            });
        })
    }

    fn spawn<T: Send + 'static>(
        run: impl FnOnce(oneshot::Receiver<()>, mpsc::Sender<T>) + Send + 'static,
    ) -> anyhow::Result<(Self, T)> {
        let (stop, stopped) = oneshot::channel();
        let (made, wait) = mpsc::channel();
        let thread = std::thread::spawn(move || run(stopped, made));
        let value = wait.recv()?;
        let receivers = Self {
            stop: Some(stop),
            thread: Some(thread),
        };
        Ok((receivers, value))
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
