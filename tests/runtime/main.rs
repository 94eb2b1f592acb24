//! The bus and its actors in one process, with nothing installed. Every group of tests is one program, which is built and linked
//! once; each file of it is a subject.
#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

#[path = "../common/mod.rs"]
mod common;

mod actix_actor;
mod bad_input;
mod breaker;
#[cfg(feature = "testing")]
mod conformance;
mod dead_letters;
mod failures;
mod health;
mod interceptor_chain;
mod interceptors;
mod keys;
mod one_topic_two_types;
mod oracle;
mod ordering;
mod overflow;
mod publishing;
mod purging;
mod redelivery;
mod requests;
mod schedules;
mod sends;
mod smoke;
mod snapshots;
mod spawned;
mod subscribing;
#[cfg(feature = "testing")]
mod supervision;
#[cfg(feature = "testing")]
mod supervision_intensity;
#[cfg(feature = "testing")]
mod supervision_tree;
#[cfg(feature = "testing")]
mod testing_kit;
mod thread_end;
mod waiting;
#[cfg(feature = "testing")]
mod wall_clock;
