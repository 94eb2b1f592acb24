//! What the bridge's tests against a real RabbitMQ share.

mod node;

use std::time::Duration;

use lapin::options::{BasicAckOptions, BasicGetOptions, ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::{Connection, ConnectionProperties};

pub(in crate::bridge) use node::Node;

use super::topology::{Names, Plan, PlanObject};
use crate::message::MessageId;

/// A connection to the broker of the tests.
pub(in crate::bridge) async fn connect() -> Connection {
    let url = std::env::var("AMQP_URL").expect(
        "AMQP_URL must name a RabbitMQ for the tests of the bridge; scripts/test starts one",
    );
    connect_to(&url).await
}

pub(in crate::bridge) async fn connect_to(url: &str) -> Connection {
    let connecting = Connection::connect(url, ConnectionProperties::default());
    tokio::time::timeout(Duration::from_secs(20), connecting)
        .await
        .expect("RabbitMQ answers")
        .expect("RabbitMQ lets us in")
}

/// Names that no other test has, whatever runs beside.
pub(in crate::bridge) fn names(service: &str) -> Names {
    let unique = MessageId::new().to_string();
    Names::new(&format!("test-{unique}"), &format!("{service}-{unique}")).unwrap()
}

/// Removes what a test declared. After a failed test it stays, to be looked at.
pub(in crate::bridge) async fn clear(broker: &Connection, plan: &Plan) {
    let channel = broker.create_channel().await.unwrap();
    for object in plan.objects() {
        match object {
            PlanObject::Queue { name, .. } => {
                let options = QueueDeleteOptions::default();
                channel
                    .queue_delete(name.as_str().into(), options)
                    .await
                    .unwrap();
            }
            PlanObject::Exchange { name, .. } => {
                let options = ExchangeDeleteOptions::default();
                channel
                    .exchange_delete(name.as_str().into(), options)
                    .await
                    .unwrap();
            }
            PlanObject::QueueBinding { .. } | PlanObject::ExchangeBinding { .. } => {}
        }
    }
    channel.close(200, "done".into()).await.unwrap();
}

/// Takes one message out of a queue, waiting for it up to a deadline; its body.
pub(in crate::bridge) async fn take(
    broker: &Connection,
    queue: &str,
    within: Duration,
) -> Option<String> {
    let channel = broker.create_channel().await.unwrap();
    let taking = async {
        loop {
            let got = channel
                .basic_get(queue.into(), BasicGetOptions::default())
                .await
                .unwrap();
            if let Some(message) = got {
                message.ack(BasicAckOptions::default()).await.unwrap();
                return String::from_utf8(message.data.clone()).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let taken = tokio::time::timeout(within, taking).await.ok();
    channel.close(200, "done".into()).await.unwrap();
    taken
}
