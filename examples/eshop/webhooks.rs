//! Webhooks: posts what happened to those who asked for it, as JSON and without knowing the types.
//!
//! The posts are simulated: they are recorded here.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use postroom::{
    Bus, Context, MessageId, Outcome, RawMessage, RawSubscriber, SubscribeError, Subscription,
};
use serde::{Deserialize, Serialize};

use crate::journal::{self, Journaled, Journals};
use crate::policy::{self, BACKOFF};

/// Starts the service.
pub async fn start(bus: &Bus, posts: &Posts) -> Result<Subscription, SubscribeError> {
    let posts = posts.clone();
    bus.subscriber("webhooks", move || Poster {
        posts: posts.clone(),
    })
    .pattern("ordering.order-paid")
    .pattern("ordering.order-shipped")
    .pattern("ordering.order-cancelled")
    .pattern("catalog.product-price-changed")
    // Posts to strangers are slow and in no order.
    .workers(8)
    .intensity(policy::RESTARTS, policy::PERIOD)
    .restart_backoff(BACKOFF)
    .start()
    .await
}

struct Poster {
    posts: Posts,
}

impl RawSubscriber for Poster {
    async fn handle(&mut self, message: RawMessage<'_>, _cx: &mut Context<'_>) -> Outcome {
        let body = message.json()?;
        self.posts
            .post(message.envelope().id(), message.address(), body);
        Ok(())
    }
}

/// What was posted (see [`Orders`](crate::ordering::Orders) for what becomes of it with the store feature).
#[derive(Clone)]
pub struct Posts(Arc<Mutex<Journaled<Tables>>>);

#[derive(Default)]
struct Tables {
    seen: HashSet<MessageId>,
    topics: BTreeMap<String, Topic>,
}

/// The posts about one topic.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Topic {
    pub posts: u64,
    pub bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct Posted {
    id: MessageId,
    topic: String,
    bytes: u64,
}

impl journal::Tables for Tables {
    type Change = Posted;

    fn apply(&mut self, post: Posted) {
        if self.seen.insert(post.id) {
            let topic = self.topics.entry(post.topic).or_default();
            topic.posts += 1;
            topic.bytes += post.bytes;
        }
    }
}

impl Posts {
    pub fn open(journals: &Journals) -> io::Result<Self> {
        let tables = journals.open("webhooks")?;
        Ok(Self(Arc::new(Mutex::new(tables))))
    }

    /// The message's id stays the same over its attempts, so that a post is not made twice.
    fn post(&self, id: MessageId, topic: &str, body: &[u8]) {
        let mut tables = self.0.lock();
        if !tables.seen.contains(&id) {
            tables.change(Posted {
                id,
                topic: topic.to_owned(),
                bytes: body.len() as u64,
            });
        }
    }

    /// By topic, for the report.
    pub fn topics(&self) -> BTreeMap<String, Topic> {
        self.0.lock().topics.clone()
    }
}
