//! RustStream on RabbitMQ. Its confirmed publisher never asks for `mandatory`: that much less work. Its
//! subscriber acknowledges each message.

use std::convert::Infallible;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use ruststream::{Broker, ConnectedBroker, OutgoingMessage};
use ruststream_lapin::prelude::*;

use crate::broker::EVENTS;
use crate::case::{
    Arrivals, Measured, OrderPlaced, Outcome, PREFETCH, TOPIC, WINDOW, Work, body,
};
use crate::run::Run;

pub async fn run(run: Run) -> Outcome {
    match run.case.work() {
        Work::Publish => publish(&run).await.map(Some),
        Work::Consume => consume(&run).await.map(Some),
        // Its request is not confirmed, and its reply goes by direct reply-to, which no queue keeps.
        Work::Request => Ok(None),
        Work::Relay { .. } => Ok(None),
    }
}

/// Many tasks, each awaiting its publish.
async fn publish(run: &Run) -> anyhow::Result<Measured> {
    let connected = LapinBroker::new(&run.url).connect().await?;
    let policy = ConfirmsPublish::default().exchange(EVENTS);
    let publisher = connected.publisher(policy);
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let mut tasks = Vec::with_capacity(WINDOW);
    for _ in 0..WINDOW {
        let (publisher, next, messages) = (publisher.clone(), Arc::clone(&next), run.messages);
        tasks.push(tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= messages {
                    return anyhow::Ok(());
                }
                let body = body(number)?;
                let message = OutgoingMessage::new(TOPIC, &body);
                publisher.publish(message, None).await?;
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    let elapsed = start.elapsed();
    drop(publisher);
    connected.shutdown().await?;
    Ok(Measured::Whole(elapsed))
}

#[subscriber("bench.orders")]
async fn receive(order: &OrderPlaced, ctx: &mut Context<'_, (), Arrivals>) -> HandlerOutcome {
    ctx.state().add(order.number());
    HandlerOutcome::ack()
}

async fn consume(run: &Run) -> anyhow::Result<Measured> {
    let prefetch = NonZeroU16::new(PREFETCH).context("no prefetch")?;
    let queue = run.queue.clone();
    let arrivals = Arrivals::new(run.messages);
    let counting = arrivals.clone();
    let broker = LapinBroker::new(&run.url).prefetch(prefetch);
    let app = RustStream::new(AppInfo::new("bench", "0.0.0"))
        .on_startup(async move |()| Ok::<_, Infallible>(counting))
        .with_broker(broker, |scope| {
            scope.include(receive.map_source(|_| RabbitQueue::new(queue.clone())));
        });
    let running = app.start().await?;
    let elapsed = arrivals.all().await?;
    running.shutdown().await?;
    arrivals.check()?;
    Ok(Measured::Whole(elapsed))
}
