use std::ops::Range;

/// Whether a worker that ended is started again (contract, rule 8; the words are OTP's).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Restart {
    /// Always.
    #[default]
    Permanent,
    /// Only after a failure.
    Transient,
    /// Never: neither after a failure of its own, nor when a sibling's failure stops it.
    Temporary,
}

/// Which children a supervisor restarts when one of them fails.
///
/// The others are asked to stop after the message in hand, one after another in reverse order of starting, each
/// within its `stop_timeout`; what is cut off goes back to its queue, its attempt uncounted. Then all start
/// again in the order in which they were first started. Queues keep their messages. A temporary child is stopped
/// with the others and has ended then; one that ended or is suspended stays so. A temporary child's own failure
/// concerns nobody else. A failure in the middle of a restart is taken into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Strategy {
    /// The one that failed.
    #[default]
    OneForOne,
    /// All of them.
    OneForAll,
    /// The one that failed and those started after it.
    RestForOne,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitKind {
    Normal,
    Abnormal,
    Shutdown,
}

pub(crate) fn should_restart(restart: Restart, exit: ExitKind) -> bool {
    match (restart, exit) {
        (_, ExitKind::Shutdown) | (Restart::Temporary, _) => false,
        (Restart::Permanent, _) => true,
        (Restart::Transient, exit) => exit == ExitKind::Abnormal,
    }
}

/// The places, in order of starting, of the children that restart with the one at `failed`.
pub(crate) fn affected(strategy: Strategy, failed: usize, children: usize) -> Range<usize> {
    match strategy {
        Strategy::OneForOne => failed..failed + 1,
        Strategy::OneForAll => 0..children,
        Strategy::RestForOne => failed..children,
    }
}
