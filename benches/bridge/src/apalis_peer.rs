//! apalis on RabbitMQ. It consumes, with an acknowledgement for each message; it never turns confirms on, and has
//! no replies: there is nothing to compare with there.

use apalis::prelude::*;
use apalis_amqp::{AmqpBackend, Config};
use lapin::options::QueueDeclareOptions;

use crate::case::{Arrivals, Measured, OrderPlaced, Outcome, PREFETCH, Work};
use crate::run::Run;

async fn receive(order: OrderPlaced, arrivals: Data<Arrivals>) {
    arrivals.add(order.number());
}

pub async fn run(run: Run) -> Outcome {
    if run.case.work() != Work::Consume {
        return Ok(None);
    }
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let config = Config::default()
        .queue(run.queue.as_str())
        .prefetch_count(PREFETCH)
        .declare_options(passive);
    // One more message: its acknowledgements go by the channel that the backend has when the worker is built,
    // and it has one once it has sent something.
    let arrivals = Arrivals::new(run.messages + 1);
    let mut backend = AmqpBackend::new_from_addr(&run.url)?.with_config(config);
    backend.push(OrderPlaced::new(run.messages)).await?;
    let worker = WorkerBuilder::new("bench")
        .backend(backend)
        .data(arrivals.clone())
        .build(receive);
    let done = arrivals.clone();
    let (told, elapsed) = tokio::sync::oneshot::channel();
    worker
        .run_until(async move {
            // Who waits is this very function.
            let _ = told.send(done.all().await);
            Ok::<(), std::io::Error>(())
        })
        .await?;
    let elapsed = elapsed.await??;
    arrivals.check()?;
    Ok(Some(Measured::Whole(elapsed)))
}
