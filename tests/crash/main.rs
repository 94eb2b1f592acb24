//! The crash matrix: a process dies, as by `kill -9`, at each named point of what is kept in a database.
#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

#[path = "../common/mod.rs"]
mod common;

mod inbox;
mod outbox;
mod queues;
