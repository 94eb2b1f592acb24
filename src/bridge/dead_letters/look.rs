use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use actix::ArbiterHandle;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::{Channel, ErrorKind};
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use super::{AmqpDeadLetters, Letters};
use crate::bridge::wire::{self, Arrived, DeadMessage};
use crate::bridge::{Shared, explained};
use crate::message::Payload;
use crate::ports::{DeadLetter, StoreError, Wanted};

/// How long what was held may take to go back; with the channel's end it goes back anyway.
const ENDING: Duration = Duration::from_secs(5);

/// A look through a queue of dead letters: what is taken is held unacknowledged, and goes back in its order at
/// the end, whatever that is.
pub(super) struct Look {
    shared: Arc<Shared>,
    letters: Arc<Letters>,
    thread: ArbiterHandle,
    held: Mutex<Option<Holding>>,
}

struct Holding {
    channel: Channel,
    tags: BTreeSet<u64>,
    /// How many there were at the first one that are not taken yet: what comes meanwhile is not looked at.
    left: Option<u32>,
    /// Nobody else of this process looks until all is back.
    _alone: OwnedMutexGuard<()>,
}

impl Look {
    pub(super) async fn open(
        shared: Arc<Shared>,
        letters: Arc<Letters>,
    ) -> Result<Arc<Self>, StoreError> {
        let alone = Arc::clone(&letters.looking).lock_owned().await;
        let connection = shared.publish_link.connected_now().map_err(StoreError)?;
        let channel = shared.opened(connection.create_channel()).await;
        let holding = Holding {
            channel: channel.map_err(StoreError)?,
            tags: BTreeSet::new(),
            left: None,
            _alone: alone,
        };
        Ok(Arc::new(Self {
            thread: shared.thread.clone(),
            shared,
            letters,
            held: Mutex::new(Some(holding)),
        }))
    }

    fn channel(&self) -> Result<Channel, StoreError> {
        let held = self.held.lock();
        let holding = held.as_ref().ok_or_else(super::closed)?;
        Ok(holding.channel.clone())
    }

    /// The next one, wanted or not.
    async fn take(&self) -> Result<Option<(u64, DeadLetter)>, StoreError> {
        if let Some(Holding { left: Some(0), .. }) = &*self.held.lock() {
            return Ok(None);
        }
        let queue = self.letters.names.dead();
        let options = BasicGetOptions { no_ack: false };
        let got = self.channel()?.basic_get(queue.into(), options).await;
        let got = match got {
            Ok(got) => got,
            // There are no dead letters where there is no queue for them.
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(StoreError(error.to_string())),
        };
        self.shared
            .know(&AmqpDeadLetters(Arc::clone(&self.letters)));
        let mut held = self.held.lock();
        let holding = held.as_mut().ok_or_else(super::closed)?;
        let Some(got) = got else {
            holding.left = Some(0);
            return Ok(None);
        };
        let delivery = got.delivery;
        holding.left = Some(match holding.left {
            Some(left) => left.saturating_sub(1),
            None => got.message_count,
        });
        let tag = delivery.delivery_tag;
        holding.tags.insert(tag);
        drop(held);
        Ok(Some((tag, self.read(delivery.into()))))
    }

    fn read(&self, arrived: Arrived) -> DeadLetter {
        let format = &*self.shared.format;
        let queue = self.letters.names.queue();
        let read = wire::read_dead_letter(format, arrived, queue, self.shared.exchanges());
        let DeadMessage {
            id,
            reason,
            errors,
            attempts,
            first_failed_at,
            last_failed_at,
            parcel,
            ..
        } = read;
        DeadLetter {
            token: 0,
            id,
            // Whatever its headers say: a replay goes to the queue beside which it lies.
            queue: Arc::clone(&self.letters.group),
            reason,
            errors,
            attempts,
            first_failed_at,
            last_failed_at,
            queue_id: 0,
            parcel: parcel.shared(),
        }
    }

    /// The next one that is wanted.
    pub(super) async fn next(
        &self,
        wanted: &Wanted,
    ) -> Result<Option<(u64, DeadLetter)>, StoreError> {
        while let Some((tag, letter)) = self.take().await? {
            if wanted.admits(&letter) {
                return Ok(Some((tag, letter)));
            }
        }
        Ok(None)
    }

    /// How many there are. RabbitMQ tells it with a message; for itself it counts those of a quorum queue every
    /// few seconds only.
    pub(super) async fn count(&self) -> Result<u64, StoreError> {
        if self.take().await?.is_none() {
            return Ok(0);
        }
        let held = self.held.lock();
        let left = held.as_ref().and_then(|holding| holding.left);
        Ok(u64::from(left.unwrap_or(0)) + 1)
    }

    /// Ends one of those that it holds.
    pub(super) async fn settle(&self, tag: u64) -> Result<(), StoreError> {
        let one = BasicAckOptions { multiple: false };
        let acked = self.channel()?.basic_ack(tag, one).await;
        acked.map_err(|error| StoreError(explained(error)))?;
        if let Some(holding) = &mut *self.held.lock() {
            holding.tags.remove(&tag);
        }
        Ok(())
    }

    /// Gives back what it holds, and resolves when RabbitMQ has it.
    pub(super) async fn end(&self) {
        let holding = self.held.lock().take();
        if let Some(holding) = holding {
            holding.give_back().await;
        }
    }
}

impl Holding {
    /// One by one: many at once, or those of a closed channel, come back in any order, and after its end.
    async fn give_back(self) {
        let giving = async {
            let requeue = BasicNackOptions {
                multiple: false,
                requeue: true,
            };
            for tag in &self.tags {
                self.channel.basic_nack(*tag, requeue).await?;
            }
            self.channel.close(200, "done".into()).await
        };
        // On a channel that is gone they are back already.
        let _ = tokio::time::timeout(ENDING, giving).await;
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        if let Some(holding) = self.held.lock().take() {
            self.thread.spawn(holding.give_back());
        }
    }
}

fn is_missing(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(error) => {
            *error.kind() == AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)
        }
        _ => false,
    }
}
