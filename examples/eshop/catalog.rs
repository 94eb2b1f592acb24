//! Catalog: the products, their prices and their stock.
//!
//! Stock is promised by *reservations*: what one order was promised, no other order gets, so nothing is sold
//! twice. The reservation of an order is taken out of the stock when it is paid, once, and freed when it is
//! cancelled. A product that nobody knows is not in stock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use postroom::{
    Bus, Failure, MessageId, Outcome, SubscribeError, Subscription, TxCommandHandler, TxContext,
    TxSubscriber,
};
use serde::{Deserialize, Serialize};

use crate::database::{self, DataError, Database, Documents, Shelf};
use crate::input::Product;
use crate::messages::*;
use crate::policy::{self, BACKOFF, LANES};

/// Starts the service.
pub async fn start<S: Shelf>(
    bus: &Bus,
    repeated: &Repeated,
) -> Result<Subscription, SubscribeError> {
    let repeated = repeated.clone();
    bus.subscriber("catalog", move || Warehouse::<S> {
        repeated: repeated.clone(),
        over: std::marker::PhantomData,
    })
    .transactional::<OrderAwaitingValidation, S>()
    .transactional::<OrderPaid, S>()
    .transactional::<OrderCancelled, S>()
    .transactional_command::<ChangePrice, S>()
    .keyed(LANES)
    .intensity(policy::RESTARTS, policy::PERIOD)
    .restart_backoff(BACKOFF)
    .start()
    .await
}

struct Warehouse<S> {
    repeated: Repeated,
    over: std::marker::PhantomData<fn(S)>,
}

impl<S: Shelf> TxSubscriber<OrderAwaitingValidation, S> for Warehouse<S> {
    async fn handle(
        &mut self,
        event: &OrderAwaitingValidation,
        cx: &mut TxContext<'_, S>,
    ) -> Outcome {
        let order = event.order;
        match claim(cx.tx(), order, &event.lines).await? {
            Claim::Reserved(_) | Claim::Taken => {
                cx.publish(StockConfirmed { order });
            }
            Claim::Rejected(lines) => {
                cx.publish(StockRejected { order, lines });
            }
            Claim::Freed => {}
        }
        Ok(())
    }
}

impl<S: Shelf> TxSubscriber<OrderPaid, S> for Warehouse<S> {
    async fn handle(&mut self, event: &OrderPaid, cx: &mut TxContext<'_, S>) -> Outcome {
        let order = event.order;
        match database::get(cx.tx(), CLAIM, order).await? {
            Some(Claim::Reserved(wanted)) => {
                change(cx.tx(), &wanted, |stock, units| {
                    stock.on_hand -= units;
                    stock.reserved -= units;
                    stock.sold += units;
                })
                .await?;
                keep(cx.tx(), order, &Claim::Taken).await?;
            }
            // The same was said by another message, which the inbox cannot know: the claim tells.
            Some(Claim::Taken) => self.repeated.count(),
            Some(Claim::Rejected(_) | Claim::Freed) | None => {
                let why = format!("order {order} was paid and has no reservation");
                return Err(Failure::reject(why));
            }
        }
        Ok(())
    }
}

impl<S: Shelf> TxSubscriber<OrderCancelled, S> for Warehouse<S> {
    /// Gives back what a cancelled order had reserved, and reserves nothing for it any more.
    async fn handle(&mut self, event: &OrderCancelled, cx: &mut TxContext<'_, S>) -> Outcome {
        let claim = database::get(cx.tx(), CLAIM, event.order).await?;
        if matches!(claim, Some(Claim::Taken | Claim::Freed)) {
            return Ok(());
        }
        if let Some(Claim::Reserved(wanted)) = claim {
            change(cx.tx(), &wanted, |stock, units| stock.reserved -= units).await?;
        }
        keep(cx.tx(), event.order, &Claim::Freed).await?;
        Ok(())
    }
}

impl<S: Shelf> TxCommandHandler<ChangePrice, S> for Warehouse<S> {
    async fn handle(
        &mut self,
        command: &ChangePrice,
        cx: &mut TxContext<'_, S>,
    ) -> Result<PriceChange, Failure> {
        let (by, time) = (cx.id(), cx.envelope().time());
        let change = reprice(cx.tx(), command, by, time).await?;
        if let PriceChange::Changed { old, new } = change {
            cx.publish(ProductPriceChanged {
                product: command.product.clone(),
                old,
                new,
            });
        }
        Ok(change)
    }
}

const STOCK: &str = "stock";
const CLAIM: &str = "claim";

/// A product in the warehouse. The counts are signed, so that a mistake would show and not wrap.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stock {
    pub name: String,
    pub price: Cents,
    /// When the run began.
    pub before: i64,
    pub on_hand: i64,
    /// Promised to orders, out of what is on hand.
    pub reserved: i64,
    pub sold: i64,
    /// The smallest that was ever left to promise.
    pub least_free: i64,
    repriced: Option<Repriced>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Repriced {
    by: MessageId,
    time: SystemTime,
}

/// What an order holds of the stock.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Claim {
    Reserved(BTreeMap<String, i64>),
    Rejected(Vec<LineStock>),
    Taken,
    Freed,
}

impl Claim {
    fn state(&self) -> &'static str {
        match self {
            Self::Reserved(_) => "reserved",
            Self::Rejected(_) => "rejected",
            Self::Taken => "taken",
            Self::Freed => "freed",
        }
    }
}

async fn keep(
    documents: &mut impl Documents,
    order: OrderId,
    claim: &Claim,
) -> Result<(), DataError> {
    database::put(documents, CLAIM, order, claim.state(), claim).await
}

/// Changes the stock of products, in the order of their names: so two orders cannot wait for each other.
async fn change(
    documents: &mut impl Documents,
    wanted: &BTreeMap<String, i64>,
    mut change: impl FnMut(&mut Stock, i64),
) -> Result<(), DataError> {
    for (product, units) in wanted {
        if let Some(mut stock) = database::get::<Stock>(documents, STOCK, product).await? {
            change(&mut stock, *units);
            database::put(documents, STOCK, product, "listed", &stock).await?;
        }
    }
    Ok(())
}

/// Reserves all of an order or nothing of it.
async fn claim(
    documents: &mut impl Documents,
    order: OrderId,
    lines: &[Units],
) -> Result<Claim, DataError> {
    if let Some(claim) = database::get(documents, CLAIM, order).await? {
        return Ok(claim);
    }
    // An order may name a product in several lines.
    let mut wanted = BTreeMap::<String, i64>::new();
    for line in lines {
        *wanted.entry(line.product.clone()).or_default() += i64::from(line.units);
    }
    let mut judged = Vec::new();
    for (product, units) in &wanted {
        let stock = database::get::<Stock>(documents, STOCK, product).await?;
        let has_stock = stock.is_some_and(|stock| stock.on_hand - stock.reserved >= *units);
        judged.push(LineStock {
            product: product.clone(),
            has_stock,
        });
    }
    let claim = if judged.iter().all(|line| line.has_stock) {
        change(documents, &wanted, |stock, units| {
            stock.reserved += units;
            stock.least_free = stock.least_free.min(stock.on_hand - stock.reserved);
        })
        .await?;
        Claim::Reserved(wanted)
    } else {
        Claim::Rejected(judged)
    };
    keep(documents, order, &claim).await?;
    Ok(claim)
}

async fn reprice(
    documents: &mut impl Documents,
    command: &ChangePrice,
    by: MessageId,
    time: SystemTime,
) -> Result<PriceChange, DataError> {
    let product = &command.product;
    let Some(mut stock) = database::get::<Stock>(documents, STOCK, product).await? else {
        return Ok(PriceChange::UnknownProduct);
    };
    // Replayed after a later change was made.
    if stock.repriced.is_some_and(|known| known.time > time) {
        return Ok(PriceChange::Outdated);
    }
    let (old, new) = (stock.price, command.price);
    stock.price = new;
    stock.repriced = Some(Repriced { by, time });
    database::put(documents, STOCK, product, "listed", &stock).await?;
    Ok(PriceChange::Changed { old, new })
}

/// Puts the products on the shelves, the first time only: what is left of them later is in the database.
pub async fn stock_up(database: &Database, products: &[Product]) -> Result<(), DataError> {
    // Written last: a process that was killed on the way begins anew, and nobody has been here yet.
    const DONE: &str = "stocked-up";
    if database.get::<bool>(DONE, "").await?.is_some() {
        return Ok(());
    }
    for product in products {
        let count = i64::from(product.stock);
        let stock = Stock {
            name: product.name.clone(),
            price: product.price,
            before: count,
            on_hand: count,
            reserved: 0,
            sold: 0,
            least_free: count,
            repriced: None,
        };
        database.put(STOCK, &product.id, "listed", &stock).await?;
    }
    database.put(DONE, "", "done", &true).await
}

/// Counts deliveries of `order-paid` for orders that had been taken out already; since the process started.
#[derive(Clone, Default)]
pub struct Repeated(Arc<AtomicU64>);

impl Repeated {
    fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The stock by product, for the report.
pub async fn stock(database: &Database) -> Result<BTreeMap<String, Stock>, DataError> {
    Ok(database.all(STOCK).await?.into_iter().collect())
}
