//! The bridge over a RabbitMQ that works: the one of `AMQP_URL`, which other tests share.
#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

#[path = "../common/mod.rs"]
mod common;

mod confirms;
#[cfg(feature = "testing")]
mod conformance;
mod connecting;
mod dead_letters;
mod proxy;
mod publishing;
mod replicas;
mod rolling_deploy;
mod secrets;
mod smoke;
mod subscriptions;
