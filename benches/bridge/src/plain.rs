//! Plain lapin, as it is usually written.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Consumer, PublisherConfirm};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::broker::{EVENTS, connect};
use crate::case::{
    Arrivals, Measured, OrderPlaced, Outcome, PREFETCH, QUESTION, RELAYED,
    RUN_AT_MOST, TOPIC, WINDOW, Work, body,
};
use crate::requests::at_their_times;
use crate::run::Run;

const MANDATORY: BasicPublishOptions = BasicPublishOptions {
    mandatory: true,
    immediate: false,
};

fn properties() -> BasicProperties {
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
}

/// With a window of confirms, an acknowledgement for each message, and a request for each reply.
pub async fn usual(run: Run) -> Outcome {
    match run.case.work() {
        Work::Publish => publish(&run).await.map(Some),
        Work::Request => request(&run).await.map(Some),
        Work::Relay { workers } => relay(&run, workers).await.map(Some),
        Work::Consume => Ok(None),
    }
}

pub async fn ack_each(run: Run) -> Outcome {
    consume(run, 1).await
}

pub async fn ack_64(run: Run) -> Outcome {
    consume(run, 64).await
}

async fn confirming(connection: &lapin::Connection) -> anyhow::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

async fn publish(run: &Run) -> anyhow::Result<Measured> {
    let connection = connect(&run.url).await?;
    let channel = confirming(&connection).await?;
    let start = Instant::now();
    let mut window: VecDeque<PublisherConfirm> = VecDeque::with_capacity(WINDOW);
    for number in 0..run.messages {
        if window.len() == WINDOW
            && let Some(oldest) = window.pop_front()
        {
            stored(oldest.await?)?;
        }
        let body = body(number)?;
        let confirm = channel
            .basic_publish(EVENTS.into(), TOPIC.into(), MANDATORY, &body, properties())
            .await?;
        window.push_back(confirm);
    }
    for confirm in window {
        stored(confirm.await?)?;
    }
    let elapsed = start.elapsed();
    connection.close(200, "done".into()).await?;
    Ok(Measured::Whole(elapsed))
}

fn stored(confirmation: Confirmation) -> anyhow::Result<()> {
    ensure!(
        confirmation == Confirmation::Ack(None),
        "a message was returned or refused"
    );
    Ok(())
}

async fn consumer(channel: &Channel, queue: &str) -> anyhow::Result<Consumer> {
    let options = BasicQosOptions::default();
    channel.basic_qos(PREFETCH, options).await?;
    let consumer = channel
        .basic_consume(
            queue.into(),
            "bench".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    Ok(consumer)
}

async fn consume(run: Run, every: u64) -> Outcome {
    if run.case.work() != Work::Consume {
        return Ok(None);
    }
    let connection = connect(&run.url).await?;
    let channel = connection.create_channel().await?;
    let mut consumer = consumer(&channel, &run.queue).await?;
    let arrivals = Arrivals::new(run.messages);
    for handled in 1..=run.messages {
        let delivery = consumer.next().await.context("no more messages")??;
        let order: OrderPlaced = serde_json::from_slice(&delivery.data)?;
        arrivals.add(order.number());
        if handled % every == 0 || handled == run.messages {
            let multiple = every > 1;
            channel
                .basic_ack(delivery.delivery_tag, BasicAckOptions { multiple })
                .await?;
        }
    }
    let elapsed = arrivals.all().await?;
    arrivals.check()?;
    settled(&channel, &mut consumer, &run.queue).await?;
    // Before the consumer is dropped, which would cancel it once more.
    channel.close(200, "done".into()).await?;
    connection.close(200, "done".into()).await?;
    drop(consumer);
    Ok(Some(Measured::Whole(elapsed)))
}

/// Waits until the queue knows of every acknowledgement.
///
/// Of a quorum queue, RabbitMQ's channel holds acknowledgements back while too many are on their way, and forgets them
/// where it is closed then: so they came again, though all were sent. That the queue knows is seen by what it
/// delivers: a whole prefetch, unsettled, only once nothing else is.
async fn settled(channel: &Channel, consumer: &mut Consumer, queue: &str) -> anyhow::Result<()> {
    for _ in 0..PREFETCH {
        let (exchange, key) = ("".into(), queue.into());
        let _unconfirmed = channel
            .basic_publish(exchange, key, MANDATORY, b"fence", properties())
            .await?;
    }
    let mut last = 0;
    for _ in 0..PREFETCH {
        let next = tokio::time::timeout(RUN_AT_MOST, consumer.next()).await;
        let next = next.context("some messages were not acknowledged")?;
        let delivery = next.context("no more messages")??;
        ensure!(delivery.data == b"fence", "a message came twice");
        last = delivery.delivery_tag;
    }
    let all = BasicAckOptions { multiple: true };
    Ok(channel.basic_ack(last, all).await?)
}

/// Each worker handles one message at a time: publishes, awaits the confirm, acknowledges.
async fn relay(run: &Run, workers: usize) -> anyhow::Result<Measured> {
    let (incoming, outgoing) = (connect(&run.url).await?, connect(&run.url).await?);
    let publishing = confirming(&outgoing).await?;
    let channel = incoming.create_channel().await?;
    let consumer = consumer(&channel, &run.queue).await?;
    let arrivals = Arrivals::new(run.messages);
    let consumer = Arc::new(tokio::sync::Mutex::new(consumer));
    let mut tasks = Vec::new();
    for _ in 0..workers {
        let (consumer, arrivals) = (Arc::clone(&consumer), arrivals.clone());
        let (publishing, channel) = (publishing.clone(), channel.clone());
        tasks.push(tokio::spawn(async move {
            loop {
                let next = consumer.lock().await.next().await;
                let delivery = next.context("no more messages")??;
                let order: OrderPlaced = serde_json::from_slice(&delivery.data)?;
                let body = serde_json::to_vec(&order)?;
                let (exchange, key) = (EVENTS.into(), RELAYED.into());
                let confirm =
                    publishing.basic_publish(exchange, key, MANDATORY, &body, properties());
                stored(confirm.await?.await?)?;
                let one = BasicAckOptions { multiple: false };
                channel.basic_ack(delivery.delivery_tag, one).await?;
                arrivals.add(order.number());
            }
            #[expect(unreachable_code, reason = "names the type of the task")]
            anyhow::Ok(())
        }));
    }
    let elapsed = arrivals.all().await?;
    arrivals.check()?;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    for task in tasks {
        // Aborted, or failed, which is then missing above.
        let _ = task.await;
    }
    settled(&channel, &mut *consumer.lock().await, &run.queue).await?;
    channel.close(200, "done".into()).await?;
    incoming.close(200, "done".into()).await?;
    outgoing.close(200, "done".into()).await?;
    drop(consumer);
    Ok(Measured::Whole(elapsed))
}

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Vec<u8>>>>>;

/// A client with an exclusive queue for its replies, and a server that acknowledges each request behind its
/// reply.
async fn request(run: &Run) -> anyhow::Result<Measured> {
    let (client, server) = (connect(&run.url).await?, connect(&run.url).await?);
    let serving = tokio::spawn(serve(
        server.create_channel().await?,
        confirming(&server).await?,
        run.queue.clone(),
    ));
    let publishing = confirming(&client).await?;
    let replies = client.create_channel().await?;
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let queue = replies
        .queue_declare("".into(), exclusive, FieldTable::default())
        .await?;
    let unacknowledged = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let mut consumer = replies
        .basic_consume(
            queue.name().clone(),
            "replies".into(),
            unacknowledged,
            FieldTable::default(),
        )
        .await?;
    let waiting = Waiting::default();
    let pending = Arc::clone(&waiting);
    let receiving = tokio::spawn(async move {
        while let Some(Ok(delivery)) = consumer.next().await {
            let request = delivery.properties.correlation_id().as_ref();
            let request = request.map_or("", |id| id.as_str());
            if let Some(answer) = pending.lock().remove(request) {
                // Who asked may have given up.
                let _ = answer.send(delivery.data);
            }
        }
    });
    let reply_to = queue.name().clone();
    let ask = async |number: u64| {
        let (answer, wait) = oneshot::channel();
        let id = number.to_string();
        waiting.lock().insert(id.clone(), answer);
        let properties = properties()
            .with_reply_to(reply_to.clone())
            .with_correlation_id(id.into());
        let body = body(number)?;
        let (exchange, key) = (EVENTS.into(), QUESTION.into());
        let confirm = publishing.basic_publish(exchange, key, MANDATORY, &body, properties);
        stored(confirm.await?.await?)?;
        let reply = wait.await?;
        let price: u64 = serde_json::from_slice(&reply)?;
        ensure!(price == number + 1, "a wrong reply");
        Ok(())
    };
    let measured = at_their_times(run.messages, ask).await?;
    client.close(200, "done".into()).await?;
    server.close(200, "done".into()).await?;
    receiving.abort();
    serving.abort();
    Ok(measured)
}

async fn serve(channel: Channel, publishing: Channel, queue: String) -> anyhow::Result<()> {
    let mut consumer = consumer(&channel, &queue).await?;
    while let Some(Ok(delivery)) = consumer.next().await {
        let order: OrderPlaced = serde_json::from_slice(&delivery.data)?;
        let price = serde_json::to_vec(&(order.number() + 1))?;
        let reply_to = delivery.properties.reply_to().clone();
        let to = reply_to.context("a request without an address")?;
        let properties = BasicProperties::default().with_content_type("application/json".into());
        let properties = match delivery.properties.correlation_id() {
            Some(id) => properties.with_correlation_id(id.clone()),
            None => properties,
        };
        let _confirm = publishing
            .basic_publish("".into(), to, MANDATORY, &price, properties)
            .await?;
        channel
            .basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: false })
            .await?;
    }
    Ok(())
}
