//! An actix actor that a program has already becomes a subscriber: its result acknowledges.
//!
//! ```sh
//! cargo run --example existing_actor
//! ```

#![allow(missing_docs, clippy::print_stdout)]

use std::error::Error;
use std::time::Duration;

use actix::{Actor, Handler, Message};
use postroom::{Bus, Delivery, Event, Failure, Outcome, Retry};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct OrderPaid {
    order: u64,
    cents: u64,
}

impl Event for OrderPaid {
    const TOPIC: &'static str = "ordering.order-paid";
}

/// The actor as it was before there was a bus.
struct Ledger {
    cents: u64,
}

impl Actor for Ledger {
    type Context = actix::Context<Self>;
}

#[derive(Message)]
#[rtype(result = "u64")]
struct Balance;

impl Handler<Balance> for Ledger {
    type Result = u64;

    fn handle(&mut self, _: Balance, _: &mut Self::Context) -> u64 {
        self.cents
    }
}

/// What it needs to subscribe: a delivery derefs to the event, and knows its envelope and its attempt.
impl Handler<Delivery<OrderPaid>> for Ledger {
    type Result = Outcome;

    fn handle(&mut self, paid: Delivery<OrderPaid>, _: &mut Self::Context) -> Outcome {
        println!("order {}, attempt {}", paid.order, paid.attempt());
        if paid.attempt() == 1 {
            return Err(Failure::retry("the ledger is locked"));
        }
        self.cents += paid.cents;
        Ok(())
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let ledger = Ledger { cents: 0 }.start();

    let bus = Bus::builder("shop").start().await?;
    // Asked for the address at the start, and again whenever the actor was found to be gone. This one would stay gone, and
    // each message become a dead letter. To have a fresh actor then, start it here: `|| Ledger { cents: 0 }.start()` runs
    // on a thread of the bus.
    let address = ledger.clone();
    bus.subscribe_actor::<OrderPaid, _, _>("ledger", move || address.clone())
        .retry(Retry::fixed(Duration::from_millis(5)).attempts(3))
        .start()
        .await?;

    for order in 1..=3 {
        bus.publish(OrderPaid { order, cents: 500 }).await?;
    }
    assert!(bus.shutdown(Duration::from_secs(5)).await.clean);

    // The actor is the program's own, and outlives the bus.
    let cents = ledger.send(Balance).await?;
    println!("the ledger holds {cents} cents");
    assert_eq!(cents, 1500);
    let books = bus.snapshot();
    assert_eq!(
        books
            .queue("ledger")
            .map(|queue| (queue.acked, queue.retried)),
        Some((3, 3))
    );
    Ok(())
}
