use serde::Serialize;

/// The counts of a bridge since its bus was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BridgeSnapshot {
    /// Publishes that RabbitMQ confirmed: retry copies, dead letters and replies too.
    pub confirmed: u64,
    /// Publishes that no queue was bound for.
    pub returned: u64,
    /// Publishes that a queue refused.
    pub nacked: u64,
    /// Publishes whose publisher stopped to wait after they were written: their outcome is not known.
    pub unconfirmed: u64,
    /// Publishes written again, with the same id, after their channel was lost.
    pub repeated: u64,
    /// Times that the publishing connection was made.
    pub publish_connects: u64,
    /// Times that the consuming connection was made.
    pub consume_connects: u64,
    /// Consumers that RabbitMQ has now.
    pub consumers: u64,
    /// Settlements whose channel was gone: RabbitMQ hands those messages out again.
    pub lost_settlements: u64,
    /// Replies that came when nobody waited any more.
    pub late_replies: u64,
    /// Headers of received messages that were too many for their handlers to be shown.
    pub hidden_headers: u64,
}
