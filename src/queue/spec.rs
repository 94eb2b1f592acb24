use std::sync::Arc;
use std::time::Duration;

use crate::delivery::{Breaker, Order, Overflow, Retry};
use crate::message::{Name, Pattern};

/// What all members of a group agree on.
#[derive(Clone, Debug)]
pub(crate) struct QueueSpec {
    pub(crate) patterns: Box<[Pattern]>,
    pub(crate) commands: Box<[Name]>,
    pub(crate) order: Order,
    /// Shared by all queues that keep the default of their bus.
    pub(crate) retry: Arc<Retry>,
    pub(crate) depth: usize,
    pub(crate) overflow: Overflow,
    pub(crate) timeout: Option<Duration>,
    pub(crate) release_timeout: Duration,
    pub(crate) breaker: Option<Box<Breaker>>,
    /// A handler passes messages on by reference count, as the one that feeds an actix actor does.
    pub(crate) shares: bool,
    /// Some of its messages are handled in transactions, and recorded in the inbox.
    pub(crate) transactional: bool,
    /// Its messages are kept in the store.
    pub(crate) durable: bool,
}

impl QueueSpec {
    /// The first thing on which two members differ.
    pub(crate) fn mismatch(&self, other: &Self) -> Option<&'static str> {
        let differs = [
            (self.patterns != other.patterns, "patterns"),
            (self.commands != other.commands, "commands"),
            (self.order != other.order, "order"),
            (!self.retry.same_as(&other.retry), "retry policy"),
            (self.depth != other.depth, "mailbox depth"),
            (self.overflow != other.overflow, "overflow policy"),
            (self.timeout != other.timeout, "timeout"),
            (self.breaker != other.breaker, "breaker"),
            (self.shares != other.shares, "kind of subscriber"),
            (
                self.transactional != other.transactional,
                "kind of subscriber",
            ),
            (self.durable != other.durable, "durability"),
        ];
        differs
            .into_iter()
            .find(|(differs, _)| *differs)
            .map(|(_, what)| what)
    }
}
