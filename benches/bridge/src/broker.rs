//! The RabbitMQ of a run: found or started, filled, emptied and asked, by plain lapin.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};

use crate::case::{Arrivals, OrderPlaced, Queue, RUN_AT_MOST, TOPIC, WINDOW, body};

/// The prefix of the exchanges.
pub const PREFIX: &str = "bridge-bench";
/// The exchange that everybody publishes to.
pub const EVENTS: &str = "bridge-bench.events";

/// How long RabbitMQ may take to see that everything was acknowledged, and how often it is asked.
const SETTLED_AT_MOST: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

pub struct Broker {
    pub url: String,
    /// Of a node that was started for this run.
    own: Option<PathBuf>,
    connection: Connection,
}

impl Broker {
    /// The one that `AMQP_URL` names, or a private one.
    pub async fn find() -> anyhow::Result<Self> {
        let (url, own) = match std::env::var("AMQP_URL") {
            Ok(url) => (url, None),
            Err(_) => start_node()?,
        };
        let connection = connect(&url).await?;
        let broker = Self {
            url,
            own,
            connection,
        };
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let channel = broker.connection.create_channel().await?;
        let nothing = FieldTable::default();
        channel
            .exchange_declare(EVENTS.into(), ExchangeKind::Topic, durable, nothing)
            .await?;
        Ok(broker)
    }

    pub async fn channel(&self) -> anyhow::Result<Channel> {
        Ok(self.connection.create_channel().await?)
    }

    /// A new, empty, durable queue, bound to the exchange of events by `key`.
    pub async fn make_queue(&self, name: &str, queue: Queue, key: &str) -> anyhow::Result<()> {
        self.delete_queue(name).await?;
        let channel = self.channel().await?;
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(name.into(), durable, arguments(name, queue))
            .await?;
        let bind = QueueBindOptions::default();
        channel
            .queue_bind(
                name.into(),
                EVENTS.into(),
                key.into(),
                bind,
                FieldTable::default(),
            )
            .await?;
        Ok(channel.close(200, "done".into()).await?)
    }

    pub async fn delete_queue(&self, name: &str) -> anyhow::Result<()> {
        let channel = self.channel().await?;
        let options = QueueDeleteOptions::default();
        channel.queue_delete(name.into(), options).await?;
        Ok(channel.close(200, "done".into()).await?)
    }

    /// How many messages the queue has that nobody holds.
    pub async fn ready(&self, name: &str) -> anyhow::Result<u32> {
        let channel = self.channel().await?;
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let queue = channel
            .queue_declare(name.into(), passive, FieldTable::default())
            .await?;
        channel.close(200, "done".into()).await?;
        Ok(queue.message_count())
    }

    /// Every delivery was acknowledged: nothing comes back when its channel has gone.
    ///
    /// RabbitMQ may still be busy with the last acknowledgements, and with the end of the channel that sent them:
    /// it is asked again until the queue is empty, for a while.
    pub async fn check_empty(&self, name: &str) -> anyhow::Result<()> {
        let end = Instant::now() + SETTLED_AT_MOST;
        loop {
            // A queue learns of the end of a channel a moment later: a consumer of its own sees what is left.
            let channel = self.channel().await?;
            let left = channel
                .basic_get(name.into(), lapin::options::BasicGetOptions::default())
                .await?;
            channel.close(200, "done".into()).await?;
            let ready = self.ready(name).await?;
            if left.is_none() && ready == 0 {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "`{name}` still has {ready} messages: some were not acknowledged"
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Publishes numbered messages to whatever is bound, as fast as can be.
    pub async fn fill(&self, numbers: std::ops::Range<u64>) -> anyhow::Result<()> {
        let channel = self.channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let mut flights = FuturesUnordered::new();
        for number in numbers {
            if flights.len() >= 4 * WINDOW {
                confirmed(flights.next().await)?;
            }
            let (channel, body) = (channel.clone(), body(number)?);
            flights.push(async move {
                // As if by the exchange of events, so that every contestant reads the same.
                let confirm = channel
                    .basic_publish(
                        EVENTS.into(),
                        TOPIC.into(),
                        BasicPublishOptions {
                            mandatory: true,
                            ..BasicPublishOptions::default()
                        },
                        &body,
                        BasicProperties::default()
                            .with_delivery_mode(2)
                            .with_content_type("application/json".into()),
                    )
                    .await?;
                confirm.await
            });
        }
        while let Some(one) = flights.next().await {
            confirmed(Some(one))?;
        }
        Ok(channel.close(200, "done".into()).await?)
    }

    /// Takes everything out of a queue, and checks that each message is there exactly once.
    pub async fn drain(&self, name: &str, messages: u64) -> anyhow::Result<()> {
        let arrivals = Arrivals::new(messages);
        let channel = self.channel().await?;
        let unacknowledged = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let mut consumer = channel
            .basic_consume(
                name.into(),
                "drain".into(),
                unacknowledged,
                FieldTable::default(),
            )
            .await?;
        for _ in 0..messages {
            let next = tokio::time::timeout(RUN_AT_MOST, consumer.next()).await;
            let delivery = next.context("a message is missing")?.context("no more")??;
            let order: OrderPlaced = serde_json::from_slice(&delivery.data)?;
            arrivals.add(order.number());
        }
        channel.close(200, "done".into()).await?;
        drop(consumer);
        arrivals.check()?;
        ensure!(self.ready(name).await? == 0, "`{name}` has more than was sent");
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(directory) = &self.own {
            // Its owner's end stops it too.
            let _ = Command::new(script())
                .arg("stop")
                .arg(directory)
                .status();
        }
    }
}

fn confirmed(one: Option<lapin::Result<lapin::Confirmation>>) -> anyhow::Result<()> {
    if let Some(confirmation) = one {
        ensure!(
            confirmation? == lapin::Confirmation::Ack(None),
            "a message was returned or refused"
        );
    }
    Ok(())
}

pub async fn connect(url: &str) -> anyhow::Result<Connection> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await;
    connection.context("RabbitMQ cannot be reached")
}

/// As the bridge declares the queue of a subscription: everybody has the same.
fn arguments(name: &str, queue: Queue) -> FieldTable {
    let mut arguments = FieldTable::default();
    let mut text = |argument: &'static str, value: &str| {
        arguments.insert(argument.into(), AMQPValue::LongString(value.into()));
    };
    text("x-dead-letter-exchange", "");
    text("x-dead-letter-routing-key", &format!("{name}.dead"));
    match queue {
        Queue::Classic => text("x-queue-type", "classic"),
        Queue::Quorum => {
            text("x-queue-type", "quorum");
            text("x-dead-letter-strategy", "at-least-once");
            text("x-overflow", "reject-publish");
            arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(100));
        }
    }
    arguments
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/rabbitmq")
}

fn start_node() -> anyhow::Result<(String, Option<PathBuf>)> {
    let output = Command::new(script())
        .args(["start", "--owner", &std::process::id().to_string()])
        .output()?;
    ensure!(
        output.status.success(),
        "no RabbitMQ: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let said = String::from_utf8(output.stdout)?;
    let value = |name: &str| {
        let words = said.split_whitespace();
        let found = words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        found.map(str::to_owned).next()
    };
    let url = value("AMQP_URL").context("scripts/rabbitmq did not say its address")?;
    Ok((url, value("RABBITMQ_DIR").map(PathBuf::from)))
}
