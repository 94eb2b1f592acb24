/// In which order a queue hands out its messages (contract, rule 7). Order is that of acceptance.
///
/// **Choosing.** Fifo is safe and handles one message at a time. Keyed keeps the order that matters, as of one
/// account or one order, and lets one that waits for a retry hold up only its own key. Unordered is for
/// handlers that do not care. Lanes and workers are how many handlings may wait for I/O at a time; they
/// share the threads of the bus, so more of them do not help a handler that computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// One worker; messages in the order of their acceptance. A delayed retry goes behind what is queued by then.
    /// Over RabbitMQ with several replicas each takes its share, and between them there is no order.
    #[default]
    Fifo,
    /// Messages of one key one after another, over retries too; up to `lanes` keys at a time. What follows a
    /// message that waits for its retry may hold at most half of the mailbox. After a dead letter its
    /// successors go on. Over RabbitMQ one replica at a time is active and the others stand by: more of them make it
    /// no faster.
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

    pub(crate) fn is_keyed(self) -> bool {
        matches!(self, Self::Keyed { .. })
    }
}

/// What happens to a message for a full mailbox (contract, rule 2).
///
/// **Choosing.** Wait carries the back-pressure to whoever makes the messages. Fail is for publishers that
/// must not wait and can do something else. The drops are for messages that lose their worth: `DropOldest`
/// for the state of something (the next one replaces it), `DropNewest` for samples. A drop is `Ok` to the
/// publisher, and counted in the receipt and in the books.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
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
