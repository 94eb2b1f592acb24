use std::sync::atomic::Ordering;
use std::time::Duration;

use lapin::options::BasicCancelOptions;

use super::deliveries::ready;
use super::{Life, explained, open};
use crate::bridge::queue::AmqpQueue;
use crate::mailbox::Ending;

/// How long RabbitMQ may take to end the deliveries.
const CANCEL: Duration = Duration::from_secs(1);

/// While nothing is handed out: paused, held up by a breaker, or stopping.
impl Life {
    /// Starts nothing more, and says so where somebody waits for it.
    pub(super) async fn stand_by(&mut self) -> Result<(), String> {
        match self.is_keyed {
            true => self.hold().await,
            false => self.rest().await,
        }
    }

    /// Cancels the consumer, and gives back what was not started.
    async fn rest(&mut self) -> Result<(), String> {
        // First: a broker that does not answer must not see more of them started.
        self.give_back_queued();
        if let Some(consumer) = &mut self.consumer {
            self.amqp.is_consuming.store(false, Ordering::Relaxed);
            let options = BasicCancelOptions::default();
            let cancelling = self.channel.basic_cancel(consumer.tag(), options);
            match tokio::time::timeout(CANCEL, cancelling).await {
                Ok(cancelled) => cancelled.map_err(explained)?,
                Err(_) => return Err("no answer to the end of consuming".to_owned()),
            }
            // What came before the cancellation took effect.
            while let Some(delivery) = ready(consumer).await {
                self.amqp
                    .delivered(delivery.delivery_tag)
                    .map_err(explained)?;
                let token = AmqpQueue::token(self.epoch, delivery.delivery_tag);
                self.amqp.give_back(token);
            }
            self.consumer = None;
            self.give_back_queued();
        }
        self.write(true).await?;
        if self.amqp.is_detached() {
            self.amqp.at_rest.notify_waiters();
        }
        Ok(())
    }

    /// Keyed order: starts nothing more, and goes on consuming, so that no other replica gets what is behind. When it is
    /// to hand out nothing for long, and nothing is in hand any more, another replica may have it all, from the first on.
    async fn hold(&mut self) -> Result<(), String> {
        let queued = self.core.mailbox.take_queued(Ending::Returned);
        let held = {
            let mut held = self.amqp.held.lock();
            held.extend(queued);
            // One whose retry fell due meanwhile stood before those that were parked behind it.
            held.sort_by_key(|slot| slot.record().token);
            held.len()
        };
        self.write(true).await?;
        if self.amqp.is_detached() {
            self.amqp.at_rest.notify_waiters();
        } else if self.consumer.is_some() && self.amqp.outstanding() <= held {
            self.close().await;
            self.consumer = None;
            self.amqp.held.lock().clear();
            self.channel = open(&self.shared, &self.connection, self.prefetch).await?;
            self.epoch = self.amqp.open(self.prefetch);
        }
        Ok(())
    }

    /// What was held is handed out after all, before anything that comes.
    pub(super) fn take_up_held(&mut self) {
        let held = std::mem::take(&mut *self.amqp.held.lock());
        if !held.is_empty() {
            self.hand_over(held);
        }
    }

    fn give_back_queued(&self) {
        self.give_back(self.core.mailbox.take_queued(Ending::Returned));
    }
}
