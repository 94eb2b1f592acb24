//! RustStream on its in-memory broker, with typed subscribers: a message is encoded as JSON once when it is
//! published and decoded by every subscriber, which is how it works. Its channels are unbounded.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use ruststream::OutgoingMessage;
use ruststream::memory::prelude::*;

use crate::case::{BURST, Case, Outcome, Small, Total, message};
use crate::threads::{Receivers, runtime};

#[subscriber("small")]
async fn receive(small: &Small, ctx: &mut Context<'_, (), Total>) -> HandlerOutcome {
    ctx.state().add(1, small.amount);
    HandlerOutcome::ack()
}

#[subscriber("small", workers(4))]
async fn work(small: &Small, ctx: &mut Context<'_, (), Total>) -> HandlerOutcome {
    ctx.state().add(1, small.amount);
    HandlerOutcome::ack()
}

async fn start(case: Case, broker: MemoryBroker, total: Total) -> anyhow::Result<RunningApp> {
    let app = RustStream::new(AppInfo::new("bench", "0.0.0"))
        .on_startup(async move |()| Ok::<_, Infallible>(total))
        .with_broker(broker, |scope| {
            if case == Case::Queue4Cross {
                scope.include(work);
            } else {
                for _ in 0..case.receivers() {
                    scope.include(receive);
                }
            }
        });
    Ok(app.start().await?)
}

async fn publish(broker: &MemoryBroker, case: Case, messages: u64) -> anyhow::Result<()> {
    let publisher = broker.publisher();
    for id in 0..messages {
        let body = serde_json::to_vec(&message(id))?;
        publisher
            .publish(OutgoingMessage::new("small", &body), None)
            .await?;
        if case.is_same_thread() && id % BURST == BURST - 1 {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

pub fn run(case: Case, messages: u64) -> Outcome {
    let total = Total::default();
    let counts = total.clone();
    let broker = MemoryBroker::new();
    let elapsed: Duration = match case {
        // Its reply goes to a name that a transform of the user's reads from a header: nothing comparable.
        Case::RequestCross => return Ok(None),
        Case::OneSame | Case::SixteenSame => runtime().block_on(async {
            let _running = start(case, broker.clone(), total.clone()).await?;
            let start = Instant::now();
            publish(&broker, case, messages).await?;
            total.wait_here(messages * case.receivers() as u64).await;
            anyhow::Ok(start.elapsed())
        })?,
        Case::OneCross | Case::SixteenCross | Case::Queue4Cross => {
            let receiving = broker.clone();
            let (_thread, started) = Receivers::on_tokio(move || async move {
                let running = start(case, receiving, counts).await;
                // Lives as long as its runtime.
                running.map(std::mem::forget)
            })?;
            started?;
            runtime().block_on(async {
                let start = Instant::now();
                publish(&broker, case, messages).await?;
                total.wait(messages * case.receivers() as u64);
                anyhow::Ok(start.elapsed())
            })?
        }
    };
    Ok(Some(elapsed))
}
