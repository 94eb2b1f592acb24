//! Against a real RabbitMQ, whose address is in `AMQP_URL`.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection};

use super::entry::{LEVELS, UNIT};
use super::*;
use crate::bridge::rabbit::{Node, clear, connect, connect_to, names, take};
use crate::bridge::topology::{
    GroupNames, Names, Plan, QueueType, SubscriptionShape, TopologyMode, apply, base_plan,
    subscription_plan,
};

/// What a message may be late by: a unit, and the broker on a busy machine.
const TOLERANCE: Duration = Duration::from_secs(2);

/// One application with a group, and the ladder up to a level.
struct Stage {
    names: Names,
    group: GroupNames,
    plan: Plan,
    channel: Channel,
}

impl Stage {
    async fn new(broker: &Connection, queue_type: QueueType, up_to: u8) -> Self {
        let names = names("shop");
        let group = names.group("mailer").unwrap();
        let shape = SubscriptionShape {
            queue_type,
            ..SubscriptionShape::default()
        };
        let plan = base_plan(&names)
            .and(subscription_plan(&names, &group, &[], &[], shape))
            .and(ladder_plan(&names, up_to))
            .and(destination_plan(&names, &group));
        apply(broker, &plan, TopologyMode::Declare).await.unwrap();
        let channel = broker.create_channel().await.unwrap();
        let confirms = ConfirmSelectOptions::default();
        channel.confirm_select(confirms).await.unwrap();
        Self {
            names,
            group,
            plan,
            channel,
        }
    }

    async fn send(&self, body: &str, delay: Duration, to: &Address, properties: BasicProperties) {
        let entry = entry(delay).unwrap();
        let confirm = self
            .channel
            .basic_publish(
                self.names.delay(entry.level()).into(),
                entry.routing_key(to).into(),
                BasicPublishOptions {
                    mandatory: true,
                    ..BasicPublishOptions::default()
                },
                body.as_bytes(),
                properties.with_delivery_mode(2),
            )
            .await
            .unwrap()
            .await
            .unwrap();
        assert!(
            matches!(confirm, lapin::Confirmation::Ack(None)),
            "{confirm:?}"
        );
    }

    async fn delayed(&self, body: &str, delay: Duration) {
        let plain = BasicProperties::default();
        self.send(body, delay, self.group.address(), plain).await;
    }
}

#[tokio::test]
async fn delayed_messages_come_once_each_in_order_and_not_early() {
    let broker = connect().await;
    for queue_type in [QueueType::Quorum, QueueType::Classic] {
        let stage = Stage::new(&broker, queue_type, 4).await;
        let mut sent = BTreeMap::new();
        for milliseconds in [3_000, 100, 1_500, 700, 300] {
            let delay = Duration::from_millis(milliseconds);
            sent.insert(milliseconds, Instant::now());
            stage.delayed(&milliseconds.to_string(), delay).await;
        }
        let mut late = Vec::new();
        for (milliseconds, sent) in sent {
            let within = Duration::from_secs(10);
            let body = take(&broker, stage.group.queue(), within).await;
            let lateness = sent
                .elapsed()
                .checked_sub(Duration::from_millis(milliseconds));
            assert_eq!(body, Some(milliseconds.to_string()));
            late.push(lateness.expect("not early"));
        }
        writeln!(std::io::stderr(), "late by, {queue_type:?}: {late:.1?}").unwrap();
        assert!(late.iter().all(|late| *late < TOLERANCE), "{late:?}");
        let twice = take(&broker, stage.group.queue(), Duration::from_millis(500)).await;
        assert_eq!(twice, None);
        clear(&broker, &stage.plan).await;
    }
}

#[tokio::test]
async fn the_broker_takes_the_whole_ladder_and_holds_a_message_in_its_highest_rung() {
    let broker = connect().await;
    let stage = Stage::new(&broker, QueueType::Quorum, LEVELS - 1).await;
    stage.delayed("in 13 years", Duration::MAX).await;
    // Past every rung but the lowest.
    let bottom = entry(UNIT).unwrap();
    let top = stage.names.delay(LEVELS - 1);
    let key = bottom.routing_key(stage.group.address());
    let plain = BasicProperties::default();
    let options = BasicPublishOptions::default();
    let sent = stage
        .channel
        .basic_publish(top.as_str().into(), key.into(), options, b"now", plain);
    sent.await.unwrap().await.unwrap();
    let first = take(&broker, stage.group.queue(), TOLERANCE).await;
    assert_eq!(first.as_deref(), Some("now"));
    let held = take(&broker, &top, TOLERANCE).await;
    assert_eq!(held.as_deref(), Some("in 13 years"));
    clear(&broker, &stage.plan).await;
}

#[tokio::test]
async fn what_a_message_carries_comes_back_but_for_the_brokers_own_record() {
    let broker = connect().await;
    let stage = Stage::new(&broker, QueueType::Quorum, 1).await;
    let mut headers = FieldTable::default();
    headers.insert("x-postroom-attempt".into(), AMQPValue::LongLongInt(3));
    headers.insert(
        "traceparent".into(),
        AMQPValue::LongString("00-1-2-03".into()),
    );
    headers.insert("flag".into(), AMQPValue::Boolean(true));
    let sent = BasicProperties::default()
        .with_message_id("id".into())
        .with_correlation_id("conversation".into())
        .with_reply_to("replies".into())
        .with_type("topic".into())
        .with_timestamp(1_700_000_000)
        .with_content_type("application/json".into())
        .with_headers(headers.clone());
    let delay = Duration::from_millis(300);
    stage
        .send("{}", delay, stage.group.address(), sent.clone())
        .await;

    let taking = async {
        loop {
            let queue = stage.group.queue().into();
            let got = stage
                .channel
                .basic_get(queue, BasicGetOptions::default())
                .await
                .unwrap();
            if let Some(message) = got {
                break message;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let message = tokio::time::timeout(Duration::from_secs(10), taking)
        .await
        .unwrap();
    message.ack(BasicAckOptions::default()).await.unwrap();
    assert_eq!(
        message.exchange.as_str(),
        stage.names.due(),
        "by which retries are known"
    );
    let mut came = FieldTable::default();
    for (name, value) in message.properties.headers().as_ref().unwrap() {
        let own = matches!(name.as_str(), "x-death" | "x-delivery-count")
            || name.as_str().starts_with("x-first-death-")
            || name.as_str().starts_with("x-last-death-");
        if !own {
            came.insert(name.clone(), value.clone());
        }
    }
    assert_eq!(came, headers);
    let came = message.properties.clone().with_headers(headers);
    assert_eq!(came, sent.with_delivery_mode(2));
    clear(&broker, &stage.plan).await;
}

#[tokio::test]
async fn applications_with_other_prefixes_see_nothing_of_it() {
    let broker = connect().await;
    let (one, other) = (
        Stage::new(&broker, QueueType::Quorum, 1).await,
        Stage::new(&broker, QueueType::Quorum, 1).await,
    );
    // Both listen to one address, each on its own exchange.
    let mut both = Plan::default();
    let key = format!("#.{}", one.group.address());
    both.bind_queue(other.names.due(), key, other.group.queue());
    apply(&broker, &both, TopologyMode::Declare).await.unwrap();
    one.delayed("mine", Duration::from_millis(300)).await;
    let mine = take(&broker, one.group.queue(), Duration::from_secs(10)).await;
    assert_eq!(mine.as_deref(), Some("mine"));
    let theirs = take(&broker, other.group.queue(), Duration::from_millis(500)).await;
    assert_eq!(theirs, None);
    clear(&broker, &one.plan).await;
    clear(&broker, &other.plan).await;
}

/// More than the 32 that a rung hands on at a time: without an alternate exchange they would stop it.
#[tokio::test]
async fn messages_for_a_queue_that_is_gone_are_kept_and_hold_up_no_others() {
    let broker = connect().await;
    let stage = Stage::new(&broker, QueueType::Quorum, 0).await;
    let gone = stage.names.group("gone").unwrap();
    for number in 0..40 {
        let plain = BasicProperties::default();
        stage
            .send(&number.to_string(), UNIT, gone.address(), plain)
            .await;
    }
    stage.delayed("alive", UNIT).await;
    let alive = take(&broker, stage.group.queue(), Duration::from_secs(10)).await;
    assert_eq!(alive.as_deref(), Some("alive"));
    for number in 0..40 {
        let kept = take(
            &broker,
            &stage.names.undeliverable(),
            Duration::from_secs(10),
        )
        .await;
        assert_eq!(kept, Some(number.to_string()));
    }
    clear(&broker, &stage.plan).await;
}

#[tokio::test]
async fn a_message_survives_a_restart_of_the_broker_while_it_waits() {
    let node = Node::start();
    let delay = Duration::from_secs(20);
    let (queue, sent) = {
        let broker = connect_to(&node.url()).await;
        let stage = Stage::new(&broker, QueueType::Quorum, 7).await;
        let sent = Instant::now();
        stage.delayed("survivor", delay).await;
        (stage.group.queue().to_owned(), sent)
    };
    node.control(&["stop_app"]);
    assert!(sent.elapsed() < delay, "it was still waiting");
    node.control(&["start_app"]);
    node.control(&["await_startup", "--timeout", "90"]);
    let broker = connect_to(&node.url()).await;
    let survivor = take(&broker, &queue, Duration::from_secs(60)).await;
    assert_eq!(survivor.as_deref(), Some("survivor"));
    assert!(sent.elapsed() >= delay, "not early");
    let twice = take(&broker, &queue, Duration::from_secs(1)).await;
    assert_eq!(twice, None);
}
