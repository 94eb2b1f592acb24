use serde::Serialize;

/// The counts of durable queues since their bus was started, as this process has counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DurableSnapshot {
    /// Durable queues that are subscribed here.
    pub queues: u64,
    /// Those of them that this process consumes; another one has the others.
    pub held: u64,
    /// Rows of these queues: counted every 30 s, and what this process has written and deleted since.
    pub rows: u64,
    /// Messages of publishers that were written.
    pub written: u64,
    /// Settlements that were written: handled, to be tried again, given up.
    pub settled: u64,
    /// Transactions that wrote them.
    pub commits: u64,
    /// Settlements that came too late, because their queue was taken over: their messages come again.
    pub lost: u64,
}
