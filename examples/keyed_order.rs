//! Keyed order: events of one order are handled one after another, over retries too, while others run on.
//!
//! ```sh
//! cargo run --example keyed_order
//! ```

#![allow(missing_docs, clippy::print_stdout)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroom::{Bus, Event, Failure, Retry};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Step {
    Submitted,
    Paid,
    Shipped,
}

#[derive(Serialize, Deserialize)]
struct OrderMoved {
    order: u64,
    step: Step,
}

impl Event for OrderMoved {
    const TOPIC: &'static str = "ordering.order-moved";

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.order.to_string().into())
    }
}

const ORDERS: u64 = 5;
const STEPS: [Step; 3] = [Step::Submitted, Step::Paid, Step::Shipped];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let bus = Bus::builder("shop").start().await?;
    let log = Arc::new(Mutex::new(Vec::new()));
    let writes = Arc::clone(&log);
    bus.subscribe_fn::<OrderMoved, _>("history", async move |moved, cx| {
        if moved.order == 1 && moved.step == Step::Submitted && cx.attempt() < 3 {
            println!("order 1 fails, attempt {}", cx.attempt());
            return Err(Failure::retry("not now"));
        }
        println!("order {} is {:?}", moved.order, moved.step);
        let mut log = writes
            .lock()
            .map_err(|error| Failure::reject(error.to_string()))?;
        log.push((moved.order, moved.step));
        Ok(())
    })
    // Up to four orders at a time. The lane of a message that waits for its retry waits with it.
    .keyed(4)
    .retry(Retry::fixed(Duration::from_millis(50)).attempts(3))
    .start()
    .await?;

    for step in STEPS {
        for order in 1..=ORDERS {
            bus.publish(OrderMoved { order, step }).await?;
        }
    }
    assert!(bus.shutdown(Duration::from_secs(5)).await.clean);

    let log = log.lock().map_err(|error| error.to_string())?;
    let mut by_order: BTreeMap<u64, Vec<Step>> = BTreeMap::new();
    for (order, step) in log.iter() {
        by_order.entry(*order).or_default().push(*step);
    }
    for (order, steps) in &by_order {
        assert_eq!(steps, &STEPS, "order {order} took its steps in order");
    }
    assert_eq!(by_order.len() as u64, ORDERS);
    // Order 1 failed twice and held up nobody but itself.
    let last: Vec<u64> = log
        .iter()
        .rev()
        .take(STEPS.len())
        .map(|(order, _)| *order)
        .collect();
    assert_eq!(last, [1, 1, 1]);
    println!("every order took its steps in order; only order 1 waited for its retries");
    Ok(())
}
