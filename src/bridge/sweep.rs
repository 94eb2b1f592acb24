//! Takes off RabbitMQ what a scenario of the conformance suite has declared.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::{Connection, ConnectionProperties};
use parking_lot::Mutex;

use super::Amqp;
use super::delay::LEVELS;
use super::topology::Names;
use super::url::BrokerUrl;
use crate::message::NameError;

/// The longest that it may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything of one prefix and one service, which nobody else uses.
pub(crate) struct Sweep {
    prefix: String,
    names: Names,
    groups: Mutex<BTreeSet<String>>,
}

impl Sweep {
    pub(crate) fn new(prefix: &str, service: &str) -> Result<Arc<Self>, NameError> {
        Ok(Arc::new(Self {
            prefix: prefix.to_owned(),
            names: Names::new(prefix, service)?,
            groups: Mutex::default(),
        }))
    }

    pub(super) fn note(&self, group: &str) {
        self.groups.lock().insert(group.to_owned());
    }

    /// How all names begin.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Deletes the exchanges and queues. What is not there is deleted already.
    pub(crate) async fn clear(&self, url: &str) -> Result<(), String> {
        let cleared = tokio::time::timeout(PATIENCE, self.clear_on(url)).await;
        cleared.unwrap_or_else(|_| Err("no answer from RabbitMQ".to_owned()))
    }

    async fn clear_on(&self, url: &str) -> Result<(), String> {
        let uri = BrokerUrl::parse(url, &Amqp::new(url))
            .map_err(|why| why.unwrap_or_else(|| "it needs TLS".to_owned()))?
            .uri();
        let connection = Connection::connect_uri(uri, ConnectionProperties::default())
            .await
            .map_err(super::explained)?;
        let deleted = self.delete(&connection).await;
        // Also where it failed: RabbitMQ must not keep the connection.
        let closed = connection.close(200, "done".into()).await;
        deleted.and(closed).map_err(super::explained)
    }

    async fn delete(&self, connection: &Connection) -> lapin::Result<()> {
        let channel = connection.create_channel().await?;
        let names = &self.names;
        // The ladder from its top, so that nothing is sent down to what is gone.
        let ladder: Vec<_> = (0..LEVELS).rev().map(|level| names.delay(level)).collect();
        let mut queues: Vec<String> = ladder.clone();
        for group in &*self.groups.lock() {
            if let Ok(group) = names.group(group) {
                queues.extend([group.queue().to_owned(), group.dead().to_owned()]);
            }
        }
        queues.push(names.undeliverable());
        for queue in queues {
            let options = QueueDeleteOptions::default();
            channel.queue_delete(queue.into(), options).await?;
        }
        let others = [
            names.events(),
            names.commands(),
            names.due(),
            names.undeliverable(),
        ];
        for exchange in ladder.into_iter().chain(others) {
            let options = ExchangeDeleteOptions::default();
            channel.exchange_delete(exchange.into(), options).await?;
        }
        channel.close(200, "done".into()).await
    }
}
