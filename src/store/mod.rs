//! Where messages are kept beside their queues: dead letters, in memory. The port that a database will
//! implement too is `ports::DeadLetterStore`.

mod memory;

pub(crate) use memory::MemoryDeadLetters;
