//! What is kept in a database: the outbox, the inbox, durable queues, dead letters and schedules, over SQLite and PostgreSQL.
#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

#[path = "../common/mod.rs"]
mod common;

mod batch;
#[cfg(feature = "amqp")]
mod bridge;
mod clocks;
#[cfg(feature = "testing")]
mod conformance;
mod dead_letters;
mod faults;
mod full;
mod inbox;
mod inbox_commits;
mod inbox_faults;
mod notify;
mod outbox;
mod poison;
mod queue_faults;
mod queue_recovery;
mod queues;
mod relay_stop;
mod relays;
mod room;
mod schedules;
mod upgrade;
