//! The shortest program: an event, two subscribers, and what follows from it.
//!
//! ```sh
//! cargo run --example hello
//! ```

#![allow(missing_docs, clippy::print_stdout)]

use std::error::Error;
use std::time::Duration;

use postroom::{Bus, Context, Event, Outcome, Subscriber};
use serde::{Deserialize, Serialize};

/// Something that happened. The topic is its stable name.
#[derive(Serialize, Deserialize)]
struct OrderPaid {
    order: u64,
    cents: u64,
}

impl Event for OrderPaid {
    const TOPIC: &'static str = "ordering.order-paid";
}

#[derive(Serialize, Deserialize)]
struct ReceiptSent {
    order: u64,
}

impl Event for ReceiptSent {
    const TOPIC: &'static str = "mailer.receipt-sent";
}

/// A handler is a value with state. Only one message at a time is in its hands, so it needs no lock.
struct Till {
    cents: u64,
}

impl Subscriber<OrderPaid> for Till {
    async fn handle(&mut self, paid: &OrderPaid, _cx: &mut Context<'_>) -> Outcome {
        self.cents += paid.cents;
        println!(
            "till: order {} is paid, {} cents so far",
            paid.order, self.cents
        );
        Ok(()) // acknowledges; an error would mean: again, by the retry policy
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let bus = Bus::builder("shop").start().await?;

    // A factory makes the handler: after a panic or a timeout it makes a fresh one.
    bus.subscriber("till", || Till { cents: 0 })
        .on::<OrderPaid>()
        .start()
        .await?;
    // A function will do where there is no state. Another name is another group, with a copy of its own.
    bus.subscribe_fn::<OrderPaid, _>("mailer", async |paid, cx| {
        // Recorded here, and published only if this handler succeeds.
        cx.publish(ReceiptSent { order: paid.order });
        Ok(())
    })
    .start()
    .await?;
    bus.subscribe_fn::<ReceiptSent, _>("archive", async |sent, cx| {
        println!(
            "archive: a receipt for order {}, message {}",
            sent.order,
            cx.id()
        );
        Ok(())
    })
    .start()
    .await?;

    for order in 1..=3 {
        // Awaiting is the back-pressure: a full mailbox holds the publisher up.
        let receipt = bus.publish(OrderPaid { order, cents: 500 }).await?;
        assert_eq!(receipt.local.accepted, 2, "both groups took it");
    }

    // Refuses new messages, lets the queues drain, stops the subscribers.
    let report = bus.shutdown(Duration::from_secs(5)).await;
    assert!(report.clean, "nothing was left behind: {report:?}");
    for queue in bus.snapshot().queues {
        println!(
            "{}: {} accepted, {} acknowledged",
            queue.name, queue.accepted, queue.acked
        );
        assert_eq!(queue.acked, 3);
    }
    Ok(())
}
