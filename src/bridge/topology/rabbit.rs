//! Against a real RabbitMQ, whose address is in `AMQP_URL`.

use std::time::Duration;

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, BasicRejectOptions, ConfirmSelectOptions,
};
use lapin::{BasicProperties, Connection};

use super::*;
use crate::bridge::rabbit::{Node, clear, connect, connect_to, names, take};
use crate::message::Pattern;

const SOON: Duration = Duration::from_secs(10);

async fn publish(broker: &Connection, exchange: &str, key: &str, body: &str) {
    let channel = broker.create_channel().await.unwrap();
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let confirm = channel
        .basic_publish(
            exchange.into(),
            key.into(),
            options,
            body.as_bytes(),
            BasicProperties::default(),
        )
        .await
        .unwrap()
        .await
        .unwrap();
    assert!(
        matches!(confirm, lapin::Confirmation::Ack(None)),
        "{confirm:?}"
    );
    channel.close(200, "done".into()).await.unwrap();
}

fn shape(queue_type: QueueType) -> SubscriptionShape {
    SubscriptionShape {
        queue_type,
        ..SubscriptionShape::default()
    }
}

fn pattern(pattern: &str) -> Vec<Pattern> {
    vec![Pattern::new(pattern).unwrap()]
}

#[tokio::test]
async fn a_plan_is_declared_verified_and_routes() {
    let broker = connect().await;
    for queue_type in [QueueType::Quorum, QueueType::Classic] {
        let names = names("shop");
        let (group, keyed) = (
            names.group("mailer").unwrap(),
            names.group("keyed").unwrap(),
        );
        let one_at_a_time = SubscriptionShape {
            single_active_consumer: true,
            ..shape(queue_type)
        };
        let ordering = pattern("ordering.#");
        let plain = shape(queue_type);
        let plan = base_plan(&names)
            .and(subscription_plan(&names, &keyed, &[], &[], one_at_a_time))
            .and(subscription_plan(
                &names,
                &group,
                &ordering,
                &["mail"],
                plain,
            ));

        let missing = apply(&broker, &plan, TopologyMode::Verify)
            .await
            .unwrap_err();
        assert_eq!(
            missing.to_string(),
            format!("exchange `{}` is not there", names.events())
        );
        apply(&broker, &plan, TopologyMode::Assume).await.unwrap();
        assert!(
            apply(&broker, &plan, TopologyMode::Verify).await.is_err(),
            "nothing was declared"
        );
        apply(&broker, &plan, TopologyMode::Declare).await.unwrap();
        apply(&broker, &plan, TopologyMode::Declare).await.unwrap();
        apply(&broker, &plan, TopologyMode::Verify).await.unwrap();

        publish(&broker, &names.events(), "ordering.order.paid", "event").await;
        assert_eq!(
            take(&broker, group.queue(), SOON).await.as_deref(),
            Some("event")
        );
        publish(&broker, &names.commands(), "mail", "command").await;
        assert_eq!(
            take(&broker, group.queue(), SOON).await.as_deref(),
            Some("command")
        );
        clear(&broker, &plan).await;
    }
}

#[tokio::test]
async fn a_mismatch_names_object_argument_and_both_values_and_closes_nothing_else() {
    let broker = connect().await;
    let bystander = broker.create_channel().await.unwrap();
    let names = names("shop");
    let group = names.group("mailer").unwrap();
    let subscription = |shape| subscription_plan(&names, &group, &[], &[], shape);
    let plan = base_plan(&names).and(subscription(SubscriptionShape::default()));
    apply(&broker, &plan, TopologyMode::Declare).await.unwrap();

    let limited = SubscriptionShape {
        delivery_limit: 7,
        ..SubscriptionShape::default()
    };
    let error = apply(&broker, &subscription(limited), TopologyMode::Declare)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "queue `{}` is there with another `x-delivery-limit`: wanted 7, found 100",
            group.queue()
        )
    );
    let keyed = SubscriptionShape {
        single_active_consumer: true,
        ..SubscriptionShape::default()
    };
    let error = apply(&broker, &subscription(keyed), TopologyMode::Declare)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "queue `{}` is there with another `x-single-active-consumer`: wanted true, found none",
            group.queue()
        )
    );
    let classic = subscription(shape(QueueType::Classic));
    let error = apply(&broker, &classic, TopologyMode::Declare)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, TopologyError::Mismatch { argument, wanted, found, .. }
            if argument == "x-queue-type" && wanted == "classic" && found == "quorum"),
        "{error:?}"
    );
    let mut other = Plan::default();
    other.exchange(names.events(), ExchangeKind::Direct, Vec::new());
    let error = apply(&broker, &other, TopologyMode::Declare)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "exchange `{}` is there with another `type`: wanted direct, found topic",
            names.events()
        )
    );
    let mut other = Plan::default();
    other.bind_queue(names.events(), "#", "no-such-queue");
    let error = apply(&broker, &other, TopologyMode::Declare)
        .await
        .unwrap_err();
    assert!(matches!(error, TopologyError::Missing { .. }), "{error:?}");
    let mut other = Plan::default();
    other.queue("q", vec![("x-queue-type", "no-such-type".into())]);
    let error = apply(&broker, &other, TopologyMode::Declare)
        .await
        .unwrap_err();
    assert!(matches!(error, TopologyError::Rejected { .. }), "{error:?}");

    assert!(bystander.status().connected() && broker.status().connected());
    apply(&broker, &plan, TopologyMode::Declare).await.unwrap();
    clear(&broker, &plan).await;
}

#[tokio::test]
async fn what_the_broker_gives_up_becomes_a_dead_letter_that_browsing_does_not_lose() {
    let broker = connect().await;
    for queue_type in [QueueType::Quorum, QueueType::Classic] {
        let names = names("shop");
        let group = names.group("mailer").unwrap();
        let shape = SubscriptionShape {
            delivery_limit: 2,
            ..shape(queue_type)
        };
        let plan = base_plan(&names).and(subscription_plan(&names, &group, &[], &["mail"], shape));
        apply(&broker, &plan, TopologyMode::Declare).await.unwrap();
        publish(&broker, &names.commands(), "mail", "poison").await;

        let channel = broker.create_channel().await.unwrap();
        let hand_back = |queue: &str, requeue: bool| {
            let (channel, queue) = (channel.clone(), queue.to_owned());
            async move {
                let message = loop {
                    let got = channel
                        .basic_get(queue.as_str().into(), BasicGetOptions::default())
                        .await
                        .unwrap();
                    if let Some(message) = got {
                        break message;
                    }
                    tokio::task::yield_now().await;
                };
                assert_eq!(message.data, b"poison");
                message
                    .reject(BasicRejectOptions { requeue })
                    .await
                    .unwrap();
            }
        };
        if queue_type == QueueType::Quorum {
            // The third failure is over the limit of two.
            for _ in 0..3 {
                hand_back(group.queue(), true).await;
            }
        } else {
            hand_back(group.queue(), false).await;
        }
        for _ in 0..60 {
            hand_back(group.dead(), true).await;
        }
        assert_eq!(
            take(&broker, group.dead(), SOON).await.as_deref(),
            Some("poison")
        );
        clear(&broker, &plan).await;
    }
}

#[tokio::test]
async fn only_what_is_named_is_removed() {
    let broker = connect().await;
    for queue_type in [QueueType::Quorum, QueueType::Classic] {
        let names = names("shop");
        let group = names.group("mailer").unwrap();
        let patterns = [
            Pattern::new("old.#").unwrap(),
            Pattern::new("new.#").unwrap(),
        ];
        let plan = base_plan(&names).and(subscription_plan(
            &names,
            &group,
            &patterns,
            &["mail"],
            shape(queue_type),
        ));
        apply(&broker, &plan, TopologyMode::Declare).await.unwrap();

        prune(&broker, &names, &group, &pattern("old.#"), &["mail"])
            .await
            .unwrap();
        prune(&broker, &names, &group, &pattern("old.#"), &["mail"])
            .await
            .unwrap();
        publish(&broker, &names.events(), "new.thing", "kept").await;
        let channel = broker.create_channel().await.unwrap();
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .unwrap();
        for (exchange, key) in [(names.events(), "old.thing"), (names.commands(), "mail")] {
            let options = BasicPublishOptions {
                mandatory: true,
                ..BasicPublishOptions::default()
            };
            let confirm = channel
                .basic_publish(
                    exchange.into(),
                    key.into(),
                    options,
                    b"x",
                    BasicProperties::default(),
                )
                .await
                .unwrap()
                .await
                .unwrap();
            assert!(
                matches!(confirm, lapin::Confirmation::Ack(Some(_))),
                "{key} is still bound"
            );
        }

        let only = DeleteOnly::UnusedAndEmpty;
        assert_eq!(
            delete(&broker, group.queue(), only).await,
            Ok(None),
            "a message is in it"
        );
        assert_eq!(
            take(&broker, group.queue(), SOON).await.as_deref(),
            Some("kept")
        );
        let deleting = async {
            // The acknowledgement may still be on its way: until then the queue counts as used.
            while delete(&broker, group.queue(), only)
                .await
                .unwrap()
                .is_none()
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, deleting).await.unwrap();
        assert_eq!(
            delete(&broker, group.queue(), only).await,
            Ok(Some(0)),
            "gone already"
        );
        publish(&broker, "", group.dead(), "dead").await;
        assert_eq!(
            delete(&broker, group.dead(), DeleteOnly::Always).await,
            Ok(Some(1))
        );
        assert!(broker.status().connected());
        clear(&broker, &plan).await;
    }
}

#[tokio::test]
async fn a_missing_permission_is_named_and_the_user_is_not() {
    let node = Node::start();
    node.control(&["add_user", "mallory", "secret"]);
    node.control(&["set_permissions", "mallory", "^test-.*", ".*", ".*"]);
    let broker = connect_to(&node.url().replace("amqp://", "amqp://mallory:secret@")).await;
    let names = names("shop");
    let group = names.group("mailer").unwrap();
    apply(&broker, &base_plan(&names), TopologyMode::Declare)
        .await
        .unwrap();
    let plan = subscription_plan(&names, &group, &[], &[], SubscriptionShape::default());
    let error = apply(&broker, &plan, TopologyMode::Declare)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, TopologyError::Refused { object, permission }
        if object.contains(group.dead()) && permission.contains(&format!("permission on queue '{}'", group.dead()))),
        "{error:?}"
    );
    let said = format!("{error} {error:?}");
    assert!(
        !said.contains("mallory") && !said.contains("secret"),
        "{said}"
    );
}
