//! What the bus does in a database by itself: supervised parts, each with a connection of its own, and what is told of
//! their troubles.

mod tree;

pub(crate) use tree::{STOP_TIMEOUT, State, Tree, Wiring};
