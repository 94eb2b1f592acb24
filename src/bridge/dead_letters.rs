use std::sync::{Arc, Weak};
use std::time::Duration;

use super::publisher::{Confirmed, Publication, PublishedBody};
use super::queue::AmqpQueue;
use super::{FRAME_MAX, Shared, wire};
use crate::message::MessageId;
use crate::ports::BoxFuture;
use crate::ports::{DeadLetter, DeadLetterLedger, DeadLetterStore, Filter, StoreError};

/// How long one try to store a dead letter may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The dead letters of one queue, in a queue of their own.
pub(super) struct AmqpDeadLetters {
    queue: Arc<AmqpQueue>,
    shared: Weak<Shared>,
}

impl AmqpDeadLetters {
    pub(super) fn new(queue: Arc<AmqpQueue>, shared: Weak<Shared>) -> Self {
        Self { queue, shared }
    }
}

async fn store(shared: &Shared, queue: &AmqpQueue, letter: &DeadLetter) -> Result<(), String> {
    let body = wire::copy_body(&letter.parcel).map_err(|error| error.to_string())?;
    let publication = Publication {
        exchange: "".into(),
        routing_key: queue.names.dead().into(),
        properties: wire::dead_letter(letter, FRAME_MAX).map_err(|refusal| refusal.to_string())?,
        body: PublishedBody::Bytes(body.to_vec()),
    };
    match shared.publisher.publish(publication, PATIENCE).await {
        Ok(Confirmed::Routed) => Ok(()),
        Ok(Confirmed::Returned) => Err(format!("the queue `{}` is not there", queue.names.dead())),
        Ok(Confirmed::Nacked) => Err(format!("the queue `{}` rejects", queue.names.dead())),
        Err(refusal) => Err(refusal.to_string()),
    }
}

impl DeadLetterStore for AmqpDeadLetters {
    fn add(&self, letter: DeadLetter) -> BoxFuture<'static, Result<(), StoreError>> {
        let (queue, shared) = (Arc::clone(&self.queue), self.shared.upgrade());
        Box::pin(async move {
            match shared {
                Some(shared) => store(&shared, &queue, &letter).await.map_err(StoreError),
                None => Err(StoreError("the bridge is closed".to_owned())),
            }
        })
    }

    fn list(&self, _: &Filter) -> Vec<DeadLetter> {
        Vec::new()
    }

    fn get(&self, _: MessageId) -> Option<DeadLetter> {
        None
    }

    fn claim(&self, _: MessageId) -> Option<DeadLetter> {
        None
    }

    fn put_back(&self, _: DeadLetter) {}

    fn replayed(&self, _: MessageId) {}

    fn discard(&self, _: MessageId) -> bool {
        false
    }

    fn ledger(&self) -> DeadLetterLedger {
        DeadLetterLedger::default()
    }
}
