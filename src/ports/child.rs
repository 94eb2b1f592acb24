use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::BoxFuture;
use crate::message::MessageId;

/// Names a child within its supervisor; rises in order of starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChildId(pub(crate) u64);

/// All of a child's workers, or one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    All,
    One(u32),
}

/// How a worker ended.
#[derive(Clone, Debug)]
pub(crate) enum Exit {
    /// It asked to.
    Normal,
    /// It failed on a message, or on its own.
    Failed {
        message: Option<MessageId>,
        why: String,
    },
    /// Its factory failed.
    StartFailed { why: String },
    /// It was asked to.
    Stopped,
}

/// Why a child is not restarted any more.
#[derive(Clone, Debug)]
pub(crate) struct SuspendReason {
    pub(crate) last: String,
}

impl fmt::Display for SuspendReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "too many restarts, the last because it {}", self.last)
    }
}

/// Why a child is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopFor {
    /// It may be started again.
    Restart,
    /// It may not.
    Good,
}

/// Stops a child within the time that it is given, and cuts off what has not ended by then; answers, a moment
/// later at the most, with the names of what was in the middle of something, or whose thread is blocked. What is
/// idle ends also when no time is given. The child is asked when this is called, and not before.
pub(crate) type Stop = Box<dyn FnOnce(Duration) -> BoxFuture<'static, Vec<String>> + Send>;

/// What a supervisor starts, restarts and stops. Nothing here waits; the child lives elsewhere.
pub(crate) trait Child: Send {
    fn name(&self) -> &Arc<str>;
    /// How many workers it has.
    fn parts(&self) -> u32;
    /// Begins to start. Each part started reports exactly one exit, unless it is cut off. It drops `starting` when it
    /// has begun to work, or cannot and has reported that.
    fn start(&mut self, part: Part, exits: &ExitReporter, starting: &Starting);
    fn stop(&mut self, why: StopFor) -> Stop;
    fn restarted(&mut self);
    fn suspended(&mut self, why: &SuspendReason);
    fn resumed(&mut self);
    /// All of its workers have ended, and nothing but a resumption starts them again.
    fn ended(&mut self);
}

/// Held by what is starting. What depends on it waits for the last of these to be dropped.
#[derive(Clone)]
pub(crate) struct Starting(
    #[expect(dead_code, reason = "its drop says it all")] Option<Arc<oneshot::Sender<()>>>,
);

impl Starting {
    /// Nobody waits.
    pub(crate) fn unwatched() -> Self {
        Self(None)
    }

    pub(crate) fn watched() -> (Self, Begun) {
        let (starting, begun) = oneshot::channel();
        (Self(Some(Arc::new(starting))), Begun(begun))
    }
}

/// Waits until what was started has begun, or cannot.
pub(crate) struct Begun(oneshot::Receiver<()>);

impl Begun {
    pub(crate) async fn wait(self) {
        // Nothing is ever sent: the error is the answer.
        let _ = self.0.await;
    }
}

pub(crate) type Report = dyn Fn(ChildId, u64, u32, Exit) + Send + Sync;

/// How a child tells its supervisor of an exit. Reports of an earlier incarnation are ignored there.
#[derive(Clone)]
pub(crate) struct ExitReporter {
    pub(crate) child: ChildId,
    pub(crate) incarnation: u64,
    pub(crate) to: Arc<Report>,
}

impl ExitReporter {
    pub(crate) fn report(&self, part: u32, exit: Exit) {
        (self.to)(self.child, self.incarnation, part, exit);
    }
}
