/// In which order a queue hands out its messages (contract, rule 7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// One worker; messages in the order of their acceptance. A delayed retry goes behind what is queued by then.
    #[default]
    Fifo,
    /// Messages of one key one after another, over retries too; up to `lanes` keys at a time.
    Keyed {
        /// How many keys are handled at a time.
        lanes: usize,
    },
    /// Several workers, no order.
    Unordered {
        /// How many messages are handled at a time.
        workers: usize,
    },
}

impl Order {
    /// How many workers each member of the group has.
    #[must_use]
    pub fn workers(self) -> usize {
        match self {
            Self::Fifo => 1,
            Self::Keyed { lanes } => lanes,
            Self::Unordered { workers } => workers,
        }
    }
}

/// What happens to a message for a full mailbox (contract, rule 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// The publisher waits, up to its deadline.
    #[default]
    Wait,
    /// The publisher gets an error and the message back.
    Fail,
    /// The new message is dropped here, and counted.
    DropNewest,
    /// The oldest message still queued is dropped, and counted; where none is, the new one.
    DropOldest,
}
