//! The fault matrix: what is broken is a RabbitMQ of the test's own, or the way to it. One at a time, as a broker's start takes
//! both a processor and seconds.
#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod broker;
mod harness;
mod network;
mod process;
mod queues;
mod redelivery;
mod requests;
mod standstill;
#[cfg(feature = "amqp-rustls")]
mod tls;
mod unconfirmed;
