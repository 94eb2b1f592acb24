//! Ours, as a service uses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use postroom::{
    Amqp, Bridged, Bus, Command, CommandHandler, Context, Event, Failure, Outcome as Handled,
    QueueType, RequestError, Subscriber,
};
use serde::{Deserialize, Serialize};

use crate::broker::PREFIX;
use crate::case::{
    Arrivals, Measured, OrderPlaced, Outcome, PREFETCH, QUESTION, Queue, RELAYED,
    RUN_AT_MOST, TOPIC, WINDOW, Work,
};
use crate::requests::at_their_times;
use crate::run::{GROUP, Run, SERVICE};

const CLOSE: Duration = Duration::from_secs(5);

impl Event for OrderPlaced {
    const TOPIC: &'static str = TOPIC;
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Relayed(OrderPlaced);

impl Event for Relayed {
    const TOPIC: &'static str = RELAYED;
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Quote(OrderPlaced);

impl Command for Quote {
    const QUEUE: &'static str = QUESTION;
    type Reply = u64;
}

pub async fn run(run: Run) -> Outcome {
    match run.case.work() {
        Work::Publish => publish(&run).await,
        Work::Consume => consume(&run).await,
        Work::Relay { workers } => relay(&run, workers).await,
        Work::Request => request(&run).await,
    }
    .map(Some)
}

fn amqp(run: &Run) -> Amqp {
    let queue_type = match run.case.queue() {
        Queue::Quorum => QueueType::Quorum,
        Queue::Classic => QueueType::Classic,
    };
    Amqp::new(&run.url)
        .prefix(PREFIX)
        .prefetch(PREFETCH)
        .queue_type(queue_type)
}

async fn close(bus: Bus) -> anyhow::Result<()> {
    let report = bus.shutdown(CLOSE).await;
    ensure!(report.clean, "the shutdown was not clean: {report:?}");
    Ok(())
}

/// Many tasks, each awaiting its publish.
async fn publish(run: &Run) -> anyhow::Result<Measured> {
    let bridge = amqp(run).export("bench.#").window(WINDOW as u32);
    let bus = Bus::builder("bench-shop").bridge(bridge).start().await?;
    let next = Arc::new(AtomicU64::new(0));
    // Connected, before the time is taken.
    let unheard = bus.publish_raw("bench.unheard", 0.into()).await?;
    ensure!(unheard.bridged == Bridged::Unrouted, "the bridge is not up");
    let start = Instant::now();
    let mut tasks = Vec::with_capacity(WINDOW);
    for _ in 0..WINDOW {
        let (bus, next, messages) = (bus.clone(), Arc::clone(&next), run.messages);
        tasks.push(tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= messages {
                    return anyhow::Ok(());
                }
                let receipt = bus.publish(OrderPlaced::new(number)).await?;
                ensure!(receipt.bridged == Bridged::Routed, "a message was returned");
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    let elapsed = start.elapsed();
    close(bus).await?;
    Ok(Measured::Whole(elapsed))
}

struct Counting(Arrivals);

impl Subscriber<OrderPlaced> for Counting {
    async fn handle(&mut self, order: &OrderPlaced, _: &mut Context<'_>) -> Handled {
        self.0.add(order.number());
        Ok(())
    }
}

async fn consume(run: &Run) -> anyhow::Result<Measured> {
    let bridge = amqp(run).import("bench.#");
    let bus = Bus::builder(SERVICE).bridge(bridge).start().await?;
    let arrivals = Arrivals::new(run.messages);
    let counting = arrivals.clone();
    bus.subscriber(GROUP, move || Counting(counting.clone()))
        .on::<OrderPlaced>()
        .start()
        .await?;
    let elapsed = arrivals.all().await?;
    close(bus).await?;
    arrivals.check()?;
    Ok(Measured::Whole(elapsed))
}

struct Relaying(Arrivals);

impl Subscriber<OrderPlaced> for Relaying {
    async fn handle(&mut self, order: &OrderPlaced, cx: &mut Context<'_>) -> Handled {
        cx.publish(Relayed(order.clone()));
        self.0.add(order.number());
        Ok(())
    }
}

async fn relay(run: &Run, workers: usize) -> anyhow::Result<Measured> {
    let bridge = amqp(run).import(TOPIC).export(RELAYED);
    let bus = Bus::builder(SERVICE).bridge(bridge).start().await?;
    let arrivals = Arrivals::new(run.messages);
    let counting = arrivals.clone();
    bus.subscriber(GROUP, move || Relaying(counting.clone()))
        .on::<OrderPlaced>()
        .workers(workers)
        .start()
        .await?;
    let elapsed = arrivals.all().await?;
    close(bus).await?;
    arrivals.check()?;
    Ok(Measured::Whole(elapsed))
}

struct Pricing;

impl CommandHandler<Quote> for Pricing {
    async fn handle(&mut self, quote: &Quote, _: &mut Context<'_>) -> Result<u64, Failure> {
        Ok(quote.0.number() + 1)
    }
}

async fn request(run: &Run) -> anyhow::Result<Measured> {
    let (asking, serving) = (
        amqp(run).export_commands(QUESTION),
        amqp(run).import_commands(QUESTION),
    );
    let client = Bus::builder("bench-shop").bridge(asking).start().await?;
    let server = Bus::builder(SERVICE).bridge(serving).start().await?;
    server
        .subscriber(GROUP, || Pricing)
        .command::<Quote>()
        .start()
        .await?;
    let up = async {
        // Its queue is bound soon, and the queue of replies is there.
        while let Err(error) = client.request(Quote(OrderPlaced::new(0))).await {
            let is_early = matches!(
                error,
                RequestError::NoQueue { .. } | RequestError::Refused(_)
            );
            ensure!(is_early, "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    tokio::time::timeout(RUN_AT_MOST, up)
        .await
        .context("no request was answered")??;
    let ask = async |number: u64| {
        let price = client.request(Quote(OrderPlaced::new(number))).await?;
        ensure!(price == number + 1, "a wrong reply");
        Ok(())
    };
    let measured = at_their_times(run.messages, ask).await?;
    close(client).await?;
    close(server).await?;
    Ok(measured)
}
