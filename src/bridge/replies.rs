use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::publisher::Publication;
use super::wire::{self, Arrived, NO_REPLY, ReplyAddress};
use super::{Shared, explained};
use crate::message::{ReplyPort, ReplyRefusal};
use crate::supervisor::Stop;

/// How long a reply may take to be taken by RabbitMQ.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often requests are forgotten whose requester has gone.
const SWEEP: Duration = Duration::from_secs(1);

/// Requests of this process that wait for their reply, and the queue that those come to.
///
/// The queue is exclusive to its connection, and gone with it: then every pending request is told at once that
/// its reply path is lost.
pub(super) struct Replies {
    /// The queue; none while there is none. Changed only under the lock.
    address: watch::Sender<Option<String>>,
    requests: Mutex<HashMap<String, Arc<dyn ReplyPort>>>,
    /// Replies to other processes that are on their way to RabbitMQ.
    places: Arc<Semaphore>,
}

/// The most replies that are on their way at a time. While RabbitMQ takes none, requests are still handled.
const MOST: usize = 1024;

impl Default for Replies {
    fn default() -> Self {
        Self {
            address: watch::Sender::new(None),
            requests: Mutex::default(),
            places: Arc::new(Semaphore::new(MOST)),
        }
    }
}

impl Replies {
    /// Waits for the queue, and answers where the reply to this request is to go. Cancel safe.
    pub(super) async fn expect(&self, request: &str, port: &Arc<dyn ReplyPort>) -> String {
        let mut watch = self.address.subscribe();
        loop {
            {
                let mut requests = self.requests.lock();
                if let Some(address) = &*watch.borrow_and_update() {
                    requests.insert(request.to_owned(), Arc::clone(port));
                    return address.clone();
                }
            }
            // The sender lives as long as this.
            let _ = watch.changed().await;
        }
    }

    /// A request that was not sent, or has its reply.
    pub(super) fn forget(&self, request: &str) -> Option<Arc<dyn ReplyPort>> {
        self.requests.lock().remove(request)
    }

    fn opened(&self, address: String) {
        let _requests = self.requests.lock();
        self.address.send_replace(Some(address));
    }

    fn lost(&self) {
        let requests = {
            let mut requests = self.requests.lock();
            self.address.send_replace(None);
            std::mem::take(&mut *requests)
        };
        for port in requests.into_values() {
            port.refuse(ReplyRefusal::Abandoned);
        }
    }

    fn sweep(&self) {
        self.requests.lock().retain(|_, port| port.is_awaited());
    }
}

struct Lost<'a>(&'a Replies);

impl Drop for Lost<'_> {
    fn drop(&mut self) {
        self.0.lost();
    }
}

async fn open(
    connection: &lapin::Connection,
) -> lapin::Result<(lapin::Channel, lapin::Queue, lapin::Consumer)> {
    let channel = connection.create_channel().await?;
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel
        .queue_declare("".into(), exclusive, FieldTable::default())
        .await?;
    // Replies are acknowledged as they are sent: one that is lost with this process has nobody to read it.
    let unacknowledged = BasicConsumeOptions {
        no_ack: true,
        exclusive: true,
        ..BasicConsumeOptions::default()
    };
    let name = queue.name().clone();
    let consumer = channel
        .basic_consume(name, "".into(), unacknowledged, FieldTable::default())
        .await?;
    Ok((channel, queue, consumer))
}

/// One life of the reply queue and its consumer.
pub(super) async fn live(shared: Arc<Shared>, mut stop: Stop) -> Result<(), String> {
    let connection = tokio::select! {
        connection = shared.consume_link.connected() => connection,
        () = stop.asked() => return Ok(()),
    };
    let Some(connection) = connection else {
        return Ok(());
    };
    let (channel, queue, mut consumer) = shared.opened(open(&connection)).await?;
    let _lost = Lost(&shared.replies);
    shared.replies.opened(queue.name().as_str().to_owned());
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        let delivery = tokio::select! {
            delivery = std::future::poll_fn(|cx| std::pin::Pin::new(&mut consumer).poll_next(cx)) => delivery,
            _ = sweep.tick() => {
                shared.replies.sweep();
                continue;
            }
            () = stop.asked() => {
                // Not waited for: the connection is closed next.
                drop(channel);
                return Ok(());
            }
        };
        match delivery {
            Some(Ok(delivery)) => receive(&shared, delivery),
            Some(Err(error)) => return Err(explained(error)),
            None => return Err("RabbitMQ cancelled the consumer of replies".to_owned()),
        }
    }
}

fn receive(shared: &Shared, delivery: lapin::message::Delivery) {
    let arrived = Arrived::from(delivery);
    let Some((request, answer)) = wire::read_reply(arrived) else {
        return;
    };
    let is_taken = match (shared.replies.forget(&request), answer) {
        (Some(port), Ok(body)) => port.reply_json(&body),
        (Some(port), Err(why)) => {
            port.refuse(why);
            true
        }
        (None, _) => false,
    };
    if !is_taken {
        shared.count_late_reply();
    }
}

/// Where a handler's reply to a request from another process goes.
pub(super) struct Answer {
    shared: Arc<Shared>,
    to: ReplyAddress,
}

impl Answer {
    pub(super) fn port(shared: &Arc<Shared>, to: ReplyAddress) -> Arc<dyn ReplyPort> {
        Arc::new(Self {
            shared: Arc::clone(shared),
            to,
        })
    }

    /// Published behind the delivery, which it can not fail. While too many are on their way it is dropped, and counted as
    /// late.
    fn send(&self, properties: Result<lapin::BasicProperties, crate::ports::Refusal>, body: &[u8]) {
        let properties = match properties {
            Ok(properties) => properties,
            Err(refusal) => {
                tracing::warn!(%refusal, "a reply could not be written");
                return;
            }
        };
        let Ok(place) = Arc::clone(&self.shared.replies.places).try_acquire_owned() else {
            tracing::warn!("a reply was dropped: RabbitMQ does not take those before it");
            self.shared.count_late_reply();
            return;
        };
        let publication = Publication {
            exchange: "".into(),
            routing_key: self.to.queue.as_str().into(),
            properties,
            body: Arc::new(body.into()),
        };
        let shared = Arc::clone(&self.shared);
        self.shared.thread.spawn(async move {
            let _place = place;
            let sent = shared.publisher.publish(publication, PATIENCE).await;
            if sent != Ok(super::publisher::Confirmed::Routed) {
                // The requester is gone, or RabbitMQ is: it finds out by its timeout.
                shared.count_late_reply();
            }
        });
    }
}

impl ReplyPort for Answer {
    fn cell(&self) -> &dyn Any {
        &()
    }

    fn reply_json(&self, body: &[u8]) -> bool {
        let service = &self.shared.service;
        let properties = wire::reply(&self.to.correlation, service, self.shared.frame_max());
        self.send(properties, body);
        true
    }

    fn refuse(&self, why: ReplyRefusal) {
        let service = &self.shared.service;
        let properties = wire::refusal(&self.to.correlation, why, service, self.shared.frame_max());
        self.send(properties, NO_REPLY);
    }

    fn is_awaited(&self) -> bool {
        true
    }
}
