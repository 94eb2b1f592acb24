/// How a message leaves its queue other than by its acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    DeadLettered,
    Discarded,
    Expired,
    Purged,
    Abandoned,
    /// Handed back to the broker that it came from, or lost with the channel that it came by: it comes again.
    Returned,
}

/// What happened at one queue, and what it holds, in messages, as of one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Books {
    pub(crate) counts: Counts,
    pub(crate) queued: u64,
    pub(crate) in_flight: u64,
    pub(crate) waiting: u64,
    /// Times that hand-over stopped for waiting retries.
    pub(crate) stalls: u64,
}

/// What happened at one queue, in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) accepted: u64,
    pub(crate) acked: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) discarded: u64,
    pub(crate) expired: u64,
    pub(crate) dropped: u64,
    pub(crate) purged: u64,
    pub(crate) abandoned: u64,
    pub(crate) returned: u64,
    pub(crate) retried: u64,
}

impl Counts {
    pub(crate) fn count(&mut self, ending: Ending) {
        match ending {
            Ending::DeadLettered => self.dead_lettered += 1,
            Ending::Discarded => self.discarded += 1,
            Ending::Expired => self.expired += 1,
            Ending::Purged => self.purged += 1,
            Ending::Abandoned => self.abandoned += 1,
            Ending::Returned => self.returned += 1,
        }
    }
}
