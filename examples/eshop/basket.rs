//! Basket: what users mean to buy, at the prices of today.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use postroom::{
    Bus, CommandHandler, Context, Failure, Outcome, SubscribeError, Subscriber, Subscription,
};
use serde::{Deserialize, Serialize};

use crate::journal::{self, Journaled, Journals};
use crate::messages::*;
use crate::policy::{self, BACKOFF};

/// Starts the service.
pub async fn start(bus: &Bus, baskets: &Baskets) -> Result<Subscription, SubscribeError> {
    let baskets = baskets.clone();
    bus.subscriber("basket", move || Keeper {
        baskets: baskets.clone(),
    })
    .command::<FillBasket>()
    .on::<OrderStarted>()
    .on::<ProductPriceChanged>()
    // By user: a basket is filled before it is emptied, over retries too.
    .keyed(8)
    .intensity(policy::RESTARTS, policy::PERIOD)
    .restart_backoff(BACKOFF)
    .start()
    .await
}

struct Keeper {
    baskets: Baskets,
}

impl CommandHandler<FillBasket> for Keeper {
    async fn handle(&mut self, command: &FillBasket, _cx: &mut Context<'_>) -> Result<(), Failure> {
        self.baskets
            .fill(&command.user, command.lines.clone(), command.filled_us);
        Ok(())
    }
}

impl Subscriber<OrderStarted> for Keeper {
    async fn handle(&mut self, event: &OrderStarted, _cx: &mut Context<'_>) -> Outcome {
        self.baskets.empty(&event.user, event.placed_us);
        Ok(())
    }
}

impl Subscriber<ProductPriceChanged> for Keeper {
    async fn handle(&mut self, event: &ProductPriceChanged, cx: &mut Context<'_>) -> Outcome {
        self.baskets
            .reprice(&event.product, event.new, cx.envelope().time());
        Ok(())
    }
}

/// Basket's database (see [`Orders`](crate::ordering::Orders) for what becomes of it with the store feature).
#[derive(Clone)]
pub struct Baskets(Arc<Mutex<Journaled<Tables>>>);

#[derive(Default)]
struct Tables {
    baskets: HashMap<String, Basket>,
    /// When each price was last changed.
    prices: HashMap<String, (Cents, SystemTime)>,
}

#[derive(Default)]
struct Basket {
    lines: Vec<Line>,
    /// When the user filled it, and what was ordered of it: by the user's own times, so that a message that comes
    /// late, or again, changes nothing.
    filled_us: u64,
    ordered_us: u64,
}

#[derive(Serialize, Deserialize)]
enum Change {
    Filled {
        user: String,
        lines: Vec<Line>,
        at_us: u64,
    },
    Ordered {
        user: String,
        at_us: u64,
    },
    Repriced {
        product: String,
        price: Cents,
        time: SystemTime,
    },
}

impl journal::Tables for Tables {
    type Change = Change;

    fn apply(&mut self, change: Change) {
        match change {
            Change::Filled { user, lines, at_us } => self.fill(user, lines, at_us),
            Change::Ordered { user, at_us } => self.empty(user, at_us),
            Change::Repriced {
                product,
                price,
                time,
            } => self.reprice(product, price, time),
        }
    }
}

impl Tables {
    fn fill(&mut self, user: String, mut lines: Vec<Line>, at_us: u64) {
        let basket = self.baskets.entry(user).or_default();
        if basket.filled_us > at_us || basket.ordered_us >= at_us {
            return;
        }
        let filled = SystemTime::UNIX_EPOCH + Duration::from_micros(at_us);
        for line in &mut lines {
            // The user saw a price that has been changed since.
            if let Some((price, changed)) = self.prices.get(&line.product)
                && *changed >= filled
            {
                line.price = *price;
            }
        }
        (basket.lines, basket.filled_us) = (lines, at_us);
    }

    fn empty(&mut self, user: String, at_us: u64) {
        let basket = self.baskets.entry(user).or_default();
        if basket.filled_us <= at_us {
            basket.lines.clear();
        }
        basket.ordered_us = basket.ordered_us.max(at_us);
    }

    fn reprice(&mut self, product: String, price: Cents, time: SystemTime) {
        if self
            .prices
            .get(&product)
            .is_some_and(|(_, changed)| *changed > time)
        {
            return;
        }
        let baskets = self.baskets.values_mut();
        let lines = baskets.flat_map(|basket| &mut basket.lines);
        for line in lines.filter(|line| line.product == product) {
            line.price = price;
        }
        self.prices.insert(product, (price, time));
    }
}

impl Baskets {
    pub fn open(journals: &Journals) -> io::Result<Self> {
        let tables = journals.open("basket")?;
        Ok(Self(Arc::new(Mutex::new(tables))))
    }

    fn fill(&self, user: &str, lines: Vec<Line>, at_us: u64) {
        let user = user.to_owned();
        self.0.lock().change(Change::Filled { user, lines, at_us });
    }

    fn empty(&self, user: &str, at_us: u64) {
        let user = user.to_owned();
        self.0.lock().change(Change::Ordered { user, at_us });
    }

    fn reprice(&self, product: &str, price: Cents, time: SystemTime) {
        let product = product.to_owned();
        self.0.lock().change(Change::Repriced {
            product,
            price,
            time,
        });
    }

    /// The lines of all baskets that are not empty, for the report.
    pub fn lines(&self) -> Vec<Line> {
        let tables = self.0.lock();
        tables
            .baskets
            .values()
            .flat_map(|basket| basket.lines.clone())
            .collect()
    }
}
