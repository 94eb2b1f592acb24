//! Webhooks: posts what happened to those who asked for it, as JSON and without knowing the types.
//!
//! The posts are simulated: they are recorded. A post to a stranger is no part of a transaction, and so this is an
//! ordinary subscriber: what it does may be done again, and is told by the message's id, which never changes.

use std::collections::BTreeMap;

use postroom::{Bus, Context, Outcome, RawMessage, RawSubscriber, SubscribeError, Subscription};
use serde::{Deserialize, Serialize};

use crate::database::{DataError, Database};
use crate::policy::{self, BACKOFF};

/// Starts the service.
pub async fn start(bus: &Bus, database: &Database) -> Result<Subscription, SubscribeError> {
    let database = database.clone();
    bus.subscriber("webhooks", move || Poster {
        database: database.clone(),
    })
    .pattern("ordering.order-paid")
    .pattern("ordering.order-shipped")
    .pattern("ordering.order-cancelled")
    .pattern("catalog.product-price-changed")
    // Posts to strangers are slow and in no order.
    .workers(8)
    // It may wait for the file, which a handler that hangs holds until its own timeout.
    .timeout(policy::TIMEOUT * 8)
    .intensity(policy::RESTARTS, policy::PERIOD)
    .restart_backoff(BACKOFF)
    .start()
    .await
}

struct Poster {
    database: Database,
}

#[derive(Serialize, Deserialize)]
struct Posted {
    topic: String,
    bytes: u64,
}

const POST: &str = "post";

impl RawSubscriber for Poster {
    async fn handle(&mut self, message: RawMessage<'_>, cx: &mut Context<'_>) -> Outcome {
        let posted = Posted {
            topic: message.address().to_owned(),
            bytes: message.json()?.len() as u64,
        };
        self.database.put(POST, cx.id(), "posted", &posted).await?;
        Ok(())
    }
}

/// The posts about one topic.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Topic {
    pub posts: u64,
    pub bytes: u64,
}

/// By topic, for the report.
pub async fn topics(database: &Database) -> Result<BTreeMap<String, Topic>, DataError> {
    let mut topics = BTreeMap::<_, Topic>::new();
    for (_, post) in database.all::<Posted>(POST).await? {
        let topic = topics.entry(post.topic).or_default();
        topic.posts += 1;
        topic.bytes += post.bytes;
    }
    Ok(topics)
}
