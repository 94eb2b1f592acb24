//! Catalog: the products, their prices and their stock.
//!
//! Stock is promised by *reservations*: what one order was promised, no other order gets, so nothing is sold
//! twice. The reservation of an order is taken out of the stock when it is paid, once, and freed when it is
//! cancelled. A product that nobody knows is not in stock.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use postroom::{
    Bus, CommandHandler, Context, Failure, MessageId, Outcome, SubscribeError, Subscriber,
    Subscription,
};
use serde::{Deserialize, Serialize};

use crate::input::Product;
use crate::journal::{self, Journaled, Journals};
use crate::messages::*;
use crate::policy::{self, BACKOFF, LANES};

/// Starts the service.
pub async fn start(bus: &Bus, catalog: &Catalog) -> Result<Subscription, SubscribeError> {
    let catalog = catalog.clone();
    bus.subscriber("catalog", move || Warehouse {
        catalog: catalog.clone(),
    })
    .on::<OrderAwaitingValidation>()
    .on::<OrderPaid>()
    .on::<OrderCancelled>()
    .command::<ChangePrice>()
    .keyed(LANES)
    .intensity(policy::RESTARTS, policy::PERIOD)
    .restart_backoff(BACKOFF)
    .start()
    .await
}

struct Warehouse {
    catalog: Catalog,
}

impl Subscriber<OrderAwaitingValidation> for Warehouse {
    async fn handle(&mut self, event: &OrderAwaitingValidation, cx: &mut Context<'_>) -> Outcome {
        let order = event.order;
        // A redelivery finds the claim it made and gives the same answer again.
        match self.catalog.claim(order, &event.lines) {
            Claim::Reserved(_) | Claim::Taken => {
                cx.publish(StockConfirmed { order }).key(order);
            }
            Claim::Rejected(lines) => {
                cx.publish(StockRejected { order, lines }).key(order);
            }
            Claim::Freed => {}
        }
        Ok(())
    }
}

impl Subscriber<OrderPaid> for Warehouse {
    async fn handle(&mut self, event: &OrderPaid, _cx: &mut Context<'_>) -> Outcome {
        self.catalog.take(event.order).map_err(Failure::reject)
    }
}

impl Subscriber<OrderCancelled> for Warehouse {
    async fn handle(&mut self, event: &OrderCancelled, _cx: &mut Context<'_>) -> Outcome {
        self.catalog.free(event.order);
        Ok(())
    }
}

impl CommandHandler<ChangePrice> for Warehouse {
    async fn handle(
        &mut self,
        command: &ChangePrice,
        cx: &mut Context<'_>,
    ) -> Result<PriceChange, Failure> {
        let change = self.catalog.reprice(command, cx.id(), cx.envelope().time());
        if let PriceChange::Changed { old, new } = change {
            cx.publish(ProductPriceChanged {
                product: command.product.clone(),
                old,
                new,
            })
            .key(&command.product);
        }
        Ok(change)
    }
}

/// Catalog's database (see [`Orders`](crate::ordering::Orders) for what becomes of it with the store feature).
#[derive(Clone)]
pub struct Catalog(Arc<Mutex<Journaled<Tables>>>);

#[derive(Default)]
struct Tables {
    stock: BTreeMap<String, Stock>,
    claims: HashMap<OrderId, Claim>,
    repeated: u64,
}

#[derive(Serialize, Deserialize)]
enum Change {
    Stocked(BTreeMap<String, Stock>),
    Claimed(OrderId, Claim),
    Taken(OrderId),
    Freed(OrderId),
    Repriced(ChangePrice, Repriced),
}

impl journal::Tables for Tables {
    type Change = Change;

    fn apply(&mut self, change: Change) {
        match change {
            Change::Stocked(stock) => self.stock = stock,
            Change::Claimed(order, claim) => {
                if let Claim::Reserved(wanted) = &claim {
                    self.each(wanted, |stock, units| {
                        stock.reserved += units;
                        stock.least_free = stock.least_free.min(stock.on_hand - stock.reserved);
                    });
                }
                self.claims.insert(order, claim);
            }
            Change::Taken(order) => {
                if let Some(Claim::Reserved(wanted)) = self.claims.insert(order, Claim::Taken) {
                    self.each(&wanted, |stock, units| {
                        stock.on_hand -= units;
                        stock.reserved -= units;
                        stock.sold += units;
                    });
                }
            }
            Change::Freed(order) => {
                if let Some(Claim::Reserved(wanted)) = self.claims.insert(order, Claim::Freed) {
                    self.each(&wanted, |stock, units| stock.reserved -= units);
                }
            }
            Change::Repriced(command, repriced) => {
                if let Some(stock) = self.stock.get_mut(&command.product) {
                    stock.price = command.price;
                    stock.repriced = Some(repriced);
                }
            }
        }
    }
}

impl Tables {
    fn each(&mut self, wanted: &BTreeMap<String, i64>, mut change: impl FnMut(&mut Stock, i64)) {
        for (product, units) in wanted {
            if let Some(stock) = self.stock.get_mut(product) {
                change(stock, *units);
            }
        }
    }
}

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
    old: Cents,
}

/// What an order holds of the stock.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Claim {
    Reserved(BTreeMap<String, i64>),
    Rejected(Vec<LineStock>),
    Taken,
    Freed,
}

impl Catalog {
    pub fn open(journals: &Journals, products: &[Product]) -> io::Result<Self> {
        let stock = products.iter().map(|product| {
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
            (product.id.clone(), stock)
        });
        let mut tables: Journaled<Tables> = journals.open("catalog")?;
        // Only once: what is left of it later is in the journal.
        if tables.stock.is_empty() {
            tables.change(Change::Stocked(stock.collect()));
        }
        Ok(Self(Arc::new(Mutex::new(tables))))
    }

    /// Reserves all of an order or nothing of it.
    fn claim(&self, order: OrderId, lines: &[Units]) -> Claim {
        let mut tables = self.0.lock();
        if let Some(claim) = tables.claims.get(&order) {
            return claim.clone();
        }
        // An order may name a product in several lines.
        let mut wanted = BTreeMap::<String, i64>::new();
        for line in lines {
            *wanted.entry(line.product.clone()).or_default() += i64::from(line.units);
        }
        let judged = wanted.iter().map(|(product, units)| {
            let free = tables
                .stock
                .get(product)
                .map(|stock| stock.on_hand - stock.reserved);
            let has_stock = free.is_some_and(|free| free >= *units);
            LineStock {
                product: product.clone(),
                has_stock,
            }
        });
        let judged: Vec<_> = judged.collect();
        let claim = if judged.iter().all(|line| line.has_stock) {
            Claim::Reserved(wanted)
        } else {
            Claim::Rejected(judged)
        };
        tables.change(Change::Claimed(order, claim.clone()));
        claim
    }

    /// Takes a paid order out of the stock, once however often it is told.
    fn take(&self, order: OrderId) -> Result<(), String> {
        let mut tables = self.0.lock();
        match tables.claims.get(&order) {
            Some(Claim::Reserved(_)) => {
                tables.change(Change::Taken(order));
                Ok(())
            }
            Some(Claim::Taken) => {
                tables.repeated += 1;
                Ok(())
            }
            Some(Claim::Rejected(_) | Claim::Freed) | None => {
                Err(format!("order {order} was paid and has no reservation"))
            }
        }
    }

    /// Gives back what a cancelled order had reserved, and reserves nothing for it any more.
    fn free(&self, order: OrderId) {
        let mut tables = self.0.lock();
        if !matches!(tables.claims.get(&order), Some(Claim::Taken | Claim::Freed)) {
            tables.change(Change::Freed(order));
        }
    }

    fn reprice(&self, command: &ChangePrice, by: MessageId, time: SystemTime) -> PriceChange {
        let mut tables = self.0.lock();
        let Some(stock) = tables.stock.get(&command.product) else {
            return PriceChange::UnknownProduct;
        };
        let new = command.price;
        match &stock.repriced {
            Some(known) if known.by == by => PriceChange::Changed {
                old: known.old,
                new,
            },
            // Replayed after a later change was made.
            Some(known) if known.time > time => PriceChange::Outdated,
            _ => {
                let old = stock.price;
                let repriced = Repriced { by, time, old };
                tables.change(Change::Repriced(command.clone(), repriced));
                PriceChange::Changed { old, new }
            }
        }
    }

    /// Deliveries of `order-paid` for orders that had been taken out already.
    pub fn repeated(&self) -> u64 {
        self.0.lock().repeated
    }

    /// The stock by product, for the report.
    pub fn stock(&self) -> BTreeMap<String, Stock> {
        self.0.lock().stock.clone()
    }
}
