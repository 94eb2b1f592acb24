use super::QueueCore;
use crate::mailbox::halt;

/// Whether a subscriber takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SubscriptionState {
    /// It hands out messages.
    Running,
    /// The user paused it.
    Paused,
    /// Its breaker is open.
    BreakerOpen,
    /// Its supervisor gave up restarting it; see [`Subscription::resume`](crate::Subscription::resume).
    Suspended,
    /// All workers of its group have ended, and their restart types start none again, or their supervisor was
    /// stopped. It keeps its messages and accepts up to its bound, then refuses at once; what it holds does
    /// not hold up a shutdown. [`Subscription::resume`](crate::Subscription::resume) starts it again, unless its
    /// supervisor was stopped.
    Ended,
    /// It was stopped.
    Stopped,
}

impl SubscriptionState {
    pub(crate) fn of(queue: &QueueCore) -> Self {
        let halted = queue.mailbox.halted();
        if queue.mailbox.is_closed() {
            Self::Stopped
        } else if halted & halt::ENDED != 0 {
            Self::Ended
        } else if halted & halt::SUSPENDED != 0 {
            Self::Suspended
        } else if halted & halt::PAUSED != 0 {
            Self::Paused
        } else if halted & halt::BREAKER != 0 {
            Self::BreakerOpen
        } else {
            Self::Running
        }
    }
}
