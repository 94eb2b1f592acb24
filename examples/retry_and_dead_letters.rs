//! A service is down: retries with growing waits, a dead letter that says why, and its replay.
//!
//! ```sh
//! cargo run --example retry_and_dead_letters
//! ```

#![allow(missing_docs, clippy::print_stdout)]

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postroom::{Bus, Context, DeadLettered, Event, Filter, Outcome, Reason, Retry, Subscriber};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

#[derive(Serialize, Deserialize)]
struct OrderPaid {
    order: u64,
}

impl Event for OrderPaid {
    const TOPIC: &'static str = "ordering.order-paid";
}

#[derive(Debug, thiserror::Error)]
#[error("no receipt for order {order}")]
struct NoReceipt {
    order: u64,
    source: io::Error,
}

struct Mailer {
    server_is_up: Arc<AtomicBool>,
}

impl Subscriber<OrderPaid> for Mailer {
    async fn handle(&mut self, paid: &OrderPaid, cx: &mut Context<'_>) -> Outcome {
        println!("order {}, attempt {}", paid.order, cx.attempt());
        if !self.server_is_up.load(Ordering::Relaxed) {
            let source = io::Error::other("mail.example.org refused");
            // Any error means: again, by the policy. `Failure::reject(…)` would mean: a dead letter at once.
            return Err(NoReceipt {
                order: paid.order,
                source,
            }
            .into());
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let bus = Bus::builder("shop").start().await?;
    let server_is_up = Arc::new(AtomicBool::new(false));
    let server = Arc::clone(&server_is_up);
    bus.subscriber("mailer", move || Mailer {
        server_is_up: Arc::clone(&server),
    })
    .on::<OrderPaid>()
    // Four attempts: one retry in hand, then waits of some 20 and 40 ms, which hold no worker.
    .retry(
        Retry::exponential(Duration::from_millis(20)..Duration::from_secs(1))
            .attempts(4)
            .immediate(1),
    )
    .start()
    .await?;
    // A dead letter is announced by an event: an alarm subscribes to it like to any other.
    let (tell, mut alarms) = mpsc::unbounded_channel();
    bus.subscribe_fn::<DeadLettered, _>("alarm", async move |dead, _| {
        tell.send(dead.clone())?;
        Ok(())
    })
    .start()
    .await?;

    bus.publish(OrderPaid { order: 7 }).await?;
    let dead = alarms.recv().await.ok_or("the alarm is gone")?;
    println!(
        "alarm: {} gave up after {} attempts: {}",
        dead.queue, dead.attempts, dead.reason
    );
    assert_eq!((dead.attempts, dead.reason), (4, Reason::Exhausted));

    // It is kept, with its body and with the last error and what caused it.
    let letters = bus.dead_letters();
    for letter in letters.list(&Filter::all().queue("mailer")).await? {
        println!(
            "kept: {} {:?}",
            String::from_utf8_lossy(letter.json()?),
            letter.errors
        );
        assert_eq!(
            letter.errors,
            ["no receipt for order 7", "mail.example.org refused"]
        );
    }

    // The outage is over: back to its queue, with the same id and all of its attempts.
    server_is_up.store(true, Ordering::Relaxed);
    letters.replay(dead.id).await?;

    assert!(bus.shutdown(Duration::from_secs(5)).await.clean);
    println!("ledger: {:?}", letters.ledger());
    assert!(letters.is_empty().await?);
    assert_eq!(
        bus.snapshot().queue("mailer").map(|queue| queue.acked),
        Some(1)
    );
    Ok(())
}
