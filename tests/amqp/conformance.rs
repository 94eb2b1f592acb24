//! The whole contract over RabbitMQ, the broker of `AMQP_URL`: once with quorum queues and once with classic ones.

use crate::common::conformance::{OUTSIDE_OF_MEMORY, Skipped, check};
use postroom::testing::conformance::{RabbitMq, Verdict, scenarios};

/// They wait in the memory of their process.
const NOT_PROMISED: Skipped = &[(
    "schedules_survive",
    &["a_delayed_message_survives_a_restart"],
)];

fn rabbit_mq() -> RabbitMq {
    RabbitMq::new(std::env::var("AMQP_URL").unwrap_or_else(|_| {
        panic!("no AMQP_URL: run scripts/test, or first `eval \"$(scripts/rabbitmq start)\"`")
    }))
}

#[test]
fn quorum_queues_keep_the_contract() {
    check(rabbit_mq().quorum(), &[OUTSIDE_OF_MEMORY, NOT_PROMISED]);
}

#[test]
fn classic_queues_keep_the_contract() {
    check(rabbit_mq().classic(), &[OUTSIDE_OF_MEMORY, NOT_PROMISED]);
}

#[test]
fn a_broker_that_is_not_there_fails_the_scenario_and_shows_no_password() {
    let backing = RabbitMq::new("amqp://someone:secret@127.0.0.1:1");
    assert!(!format!("{backing:?}").contains("secret"));
    let line = scenarios()[0].run(backing);
    let Verdict::Failed(unmet) = line.verdict else {
        panic!("{:?}", line.verdict);
    };
    assert!(!unmet.to_string().contains("secret"), "{unmet}");
}
