mod deliveries;
mod holding;
mod pause;
mod written;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};

use self::deliveries::{Next, next_deliveries};
use self::holding::HandOver;
pub(super) use self::holding::Holding;
use self::written::Written;
use super::queue::AmqpQueue;
use super::replies::Answer;
use super::wire::{self, Arrived};
use super::{Shared, explained};
use crate::mailbox::{Ending, Slot, halt};
use crate::message::{Held, Payload};
use crate::queue::QueueCore;
use crate::supervisor::Stop;

/// How often a consumer looks at what nobody tells it: pauses, and holes that are getting old.
const LOOK: Duration = Duration::from_millis(250);
/// The longest that a stop waits for handlers whose settlement is still to come.
const LAST_SETTLEMENTS: Duration = Duration::from_millis(500);

/// One life of a queue's consumer: on one channel, until that ends or it is asked to stop.
pub(super) async fn live(
    shared: Arc<Shared>,
    amqp: Arc<AmqpQueue>,
    core: Weak<QueueCore>,
    stop: Stop,
) -> Result<(), String> {
    let ended = one_life(shared, Arc::clone(&amqp), core, stop).await;
    if let Err(why) = &ended {
        *amqp.trouble.lock() = Some(why.clone());
    }
    ended
}

async fn one_life(
    shared: Arc<Shared>,
    amqp: Arc<AmqpQueue>,
    core: Weak<QueueCore>,
    mut stop: Stop,
) -> Result<(), String> {
    let declaring = amqp.declaring();
    let connection = tokio::select! {
        connection = shared.consume_link.connected() => connection,
        () = stop.asked() => return Ok(()),
    };
    let (Some(connection), Some(core)) = (connection, core.upgrade()) else {
        return Ok(());
    };
    let plan = shared
        .base_plan()
        .and(shared.subscription_plan(&amqp.names, &core.spec));
    let declared = super::topology::apply(&connection, &plan, shared.amqp.topology);
    let declared = shared
        .opened(async { Ok::<_, String>(declared.await) })
        .await?;
    shared.note_topology(&core.name, declared.as_ref().err());
    declared.map_err(explained)?;
    declaring.succeeded();
    let prefetch = shared.prefetch(&core.spec);
    let channel = open(&shared, &connection, prefetch).await?;
    let mut life = Life {
        epoch: amqp.open(prefetch),
        is_keyed: core.spec.order.is_keyed(),
        shared,
        amqp,
        core,
        connection,
        prefetch,
        channel,
        consumer: None,
        written: Written::default(),
    };
    let ended = life.run(&mut stop).await;
    life.close().await;
    ended
}

async fn open(shared: &Shared, connection: &Connection, prefetch: u16) -> Result<Channel, String> {
    let opening = async {
        let channel = connection.create_channel().await?;
        let options = BasicQosOptions::default();
        channel.basic_qos(prefetch, options).await?;
        lapin::Result::Ok(channel)
    };
    shared.opened(opening).await
}

struct Life {
    shared: Arc<Shared>,
    amqp: Arc<AmqpQueue>,
    core: Arc<QueueCore>,
    connection: Arc<Connection>,
    prefetch: u16,
    channel: Channel,
    epoch: u64,
    is_keyed: bool,
    /// Kept until the channel is closed: dropped before, it would cancel by itself.
    consumer: Option<Consumer>,
    written: Written,
}

impl Drop for Life {
    /// What was delivered and not settled comes again.
    fn drop(&mut self) {
        self.amqp.is_consuming.store(false, Ordering::Relaxed);
        self.amqp.close();
        drop(self.core.mailbox.take_queued(Ending::Returned));
        self.amqp.at_rest.notify_waiters();
    }
}

impl Life {
    async fn run(&mut self, stop: &mut Stop) -> Result<(), String> {
        loop {
            if self.wants_messages() {
                self.consume().await?;
                self.take_up_held();
            } else {
                self.stand_by().await?;
            }
            let look_at = self.write(false).await?;
            match self.next(stop, look_at).await {
                Next::Deliveries(deliveries) => self.take_in(deliveries)?,
                Next::Look => {}
                Next::Ended(why, deliveries) => {
                    self.take_in(deliveries)?;
                    return Err(why);
                }
                Next::Stop => break,
            }
        }
        self.amqp.detach();
        self.stand_by().await?;
        let end = Instant::now() + LAST_SETTLEMENTS;
        while self.amqp.outstanding() > self.amqp.held.lock().len() && Instant::now() < end {
            self.write(true).await?;
            let _ =
                tokio::time::timeout(Duration::from_millis(5), self.amqp.changed.notified()).await;
        }
        self.write(true).await?;
        Ok(())
    }

    /// Not while it is being stopped, and not while nothing has been handed out for long.
    fn wants_messages(&mut self) -> bool {
        let halted = self.core.mailbox.halted();
        let hand_over = if halted & (halt::PAUSED | halt::SUSPENDED | halt::ENDED) != 0 {
            HandOver::Halted
        } else if halted & !(halt::STALLED | halt::SEAT) != 0 {
            HandOver::Broken
        } else if self.core.breaker_is_closed() {
            HandOver::Goes
        } else {
            HandOver::Probes
        };
        let rests = self.amqp.holding.lock().look(hand_over, Instant::now());
        !self.amqp.is_detached() && !rests
    }

    async fn consume(&mut self) -> Result<(), String> {
        if self.consumer.is_some() {
            return Ok(());
        }
        let consuming = self.channel.basic_consume(
            self.amqp.names.queue().into(),
            format!("{}-{}", self.shared.instance, self.epoch).into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        self.consumer = Some(self.shared.opened(consuming).await?);
        self.amqp.is_consuming.store(true, Ordering::Relaxed);
        *self.amqp.trouble.lock() = None;
        Ok(())
    }

    /// What was delivered and not settled comes again, to whoever consumes then.
    async fn close(&mut self) {
        self.amqp.is_consuming.store(false, Ordering::Relaxed);
        // Not where it is closed already: nothing can be saved, and the next life waits.
        if let Some(at) = self.written.settled_at()
            && self.channel.status().connected()
        {
            tokio::time::sleep_until(at.into()).await;
        }
        let closed = self.channel.close(200, "done".into());
        let _ = tokio::time::timeout(Duration::from_millis(200), closed).await;
    }

    fn take_in(&mut self, deliveries: Vec<Delivery>) -> Result<(), String> {
        let mut slots = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            self.amqp
                .delivered(delivery.delivery_tag)
                .map_err(explained)?;
            slots.push(self.slot(delivery));
        }
        if self.is_keyed && (self.amqp.is_detached() || self.amqp.is_resting()) {
            self.amqp.held.lock().append(&mut slots);
            return Ok(());
        }
        self.hand_over(slots);
        Ok(())
    }

    /// To the workers; back to RabbitMQ where nothing is taken any more.
    fn hand_over(&self, mut slots: Vec<Slot>) {
        if !self.core.mailbox.take_in(&mut slots) {
            self.give_back(slots);
        }
    }

    fn give_back(&self, slots: Vec<Slot>) {
        for slot in slots {
            self.amqp.give_back(slot.record().token);
        }
    }

    fn slot(&self, delivery: Delivery) -> Slot {
        let tag = delivery.delivery_tag;
        let arrived = Arrived::from(delivery);
        let decoded = wire::decode_with(&*self.shared.format, arrived, self.shared.exchanges());
        let mut parcel = decoded.parcel;
        if let Some(to) = decoded.reply {
            parcel.set_reply(Answer::port(&self.shared, to));
        }
        let held = if self.core.spec.shares {
            Held::Shared(parcel.shared())
        } else {
            parcel.own(|| None)
        };
        if decoded.hidden_headers > 0 {
            let hidden = decoded.hidden_headers;
            self.shared
                .hidden_headers
                .fetch_add(hidden as u64, Ordering::Relaxed);
            tracing::debug!(queue = %self.core.name, hidden, "a message has more headers than a handler is shown");
        }
        Slot::new(held).noted(|record| {
            record.token = AmqpQueue::token(self.epoch, tag);
            record.attempts = decoded.attempts;
            record.history = decoded.history;
            if let Some(why) = decoded.undecodable {
                record.undecodable(why, self.core.now());
            }
        })
    }

    /// Writes the settlements that are due. Answers when to look again.
    async fn write(&mut self, force: bool) -> Result<Option<Instant>, String> {
        let work = self.amqp.to_write(force);
        let given_back = work.give_back.len();
        let acks = work.flush.single.len() + usize::from(work.flush.multiple.is_some());
        // First what is done: it must not wait behind what only goes back.
        if let Some(tag) = work.flush.multiple {
            let all = BasicAckOptions { multiple: true };
            self.channel.basic_ack(tag, all).await.map_err(explained)?;
        }
        for tag in work.flush.single {
            let one = BasicAckOptions { multiple: false };
            self.channel.basic_ack(tag, one).await.map_err(explained)?;
        }
        for tag in work.give_back {
            let requeue = BasicNackOptions {
                multiple: false,
                requeue: true,
            };
            self.channel
                .basic_nack(tag, requeue)
                .await
                .map_err(explained)?;
            self.amqp.gave_back(tag);
        }
        self.written.note(acks + given_back, Instant::now());
        Ok(work.flush.look_again)
    }

    async fn next(&mut self, stop: &mut Stop, look_at: Option<Instant>) -> Next {
        let look = Instant::now() + LOOK;
        let look_at = look_at.map_or(look, |at| at.min(look));
        let has_consumer = self.consumer.is_some();
        tokio::select! {
            next = next_deliveries(self.consumer.as_mut()), if has_consumer => next,
            () = self.amqp.changed.notified() => Next::Look,
            () = tokio::time::sleep_until(look_at.into()) => {
                if self.channel.status().connected() {
                    Next::Look
                } else {
                    Next::Ended("its channel was closed".to_owned(), Vec::new())
                }
            }
            () = stop.asked() => Next::Stop,
        }
    }
}
