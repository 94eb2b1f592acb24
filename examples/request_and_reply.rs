//! A command has one receiver, and may have a typed reply.
//!
//! ```sh
//! cargo run --example request_and_reply
//! ```

#![allow(missing_docs, clippy::print_stdout)]

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use postroom::{Bus, Command, CommandHandler, Context, Failure, Refusal, RequestError, Retry};
use serde::{Deserialize, Serialize};

/// A refusal that the sender is meant to see belongs in the reply: an error would be a failed attempt.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Reserved {
    Yes { left: u32 },
    OutOfStock,
}

#[derive(Serialize, Deserialize)]
struct Reserve {
    product: String,
    units: u32,
}

impl Command for Reserve {
    const QUEUE: &'static str = "catalog.reserve";
    type Reply = Reserved;
}

struct Catalog {
    stock: HashMap<String, u32>,
}

impl CommandHandler<Reserve> for Catalog {
    async fn handle(&mut self, ask: &Reserve, _cx: &mut Context<'_>) -> Result<Reserved, Failure> {
        let Some(stock) = self.stock.get_mut(&ask.product) else {
            return Err(Failure::reject(format!("there is no `{}`", ask.product)));
        };
        let Some(left) = stock.checked_sub(ask.units) else {
            return Ok(Reserved::OutOfStock);
        };
        *stock = left;
        Ok(Reserved::Yes { left })
    }
}

fn reserve(product: &str, units: u32) -> Reserve {
    Reserve {
        product: product.to_owned(),
        units,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let bus = Bus::builder("shop").start().await?;

    // Nobody serves the queue yet: an error at once, and the command comes back.
    let refused = bus
        .send(reserve("mug", 1))
        .await
        .err()
        .ok_or("there is no queue yet")?;
    println!("too early: {refused}");
    assert!(matches!(refused.kind(), Refusal::NoQueue { .. }));
    assert_eq!(refused.into_message().map(|command| command.units), Some(1));

    bus.subscriber("catalog", || Catalog {
        stock: [("mug".to_owned(), 10)].into(),
    })
    .command::<Reserve>()
    .retry(Retry::none())
    .start()
    .await?;
    let first = bus.request(reserve("mug", 7)).await?;
    println!("seven mugs: {first:?}");
    assert_eq!(first, Reserved::Yes { left: 3 });
    let second = bus
        .request(reserve("mug", 7))
        .timeout(Duration::from_secs(1))
        .await?;
    println!("seven more: {second:?}");
    assert_eq!(second, Reserved::OutOfStock);

    // A rejected command is a dead letter, and the requester is told at once instead of waiting.
    let lost = bus.request(reserve("hat", 1)).await;
    println!("a hat: {lost:?}");
    assert_eq!(
        lost,
        Err(RequestError::DeadLettered {
            queue: "catalog.reserve".to_owned()
        })
    );

    assert!(bus.shutdown(Duration::from_secs(5)).await.clean);
    Ok(())
}
