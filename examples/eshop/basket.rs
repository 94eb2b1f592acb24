//! Basket: what users mean to buy, at the prices of today.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use postroom::{
    Bus, CommandHandler, Context, Failure, Outcome, SubscribeError, Subscriber, Subscription,
};

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
    async fn handle(&mut self, command: &FillBasket, cx: &mut Context<'_>) -> Result<(), Failure> {
        self.baskets
            .set(&command.user, command.lines.clone(), cx.envelope().time());
        Ok(())
    }
}

impl Subscriber<OrderStarted> for Keeper {
    async fn handle(&mut self, event: &OrderStarted, cx: &mut Context<'_>) -> Outcome {
        self.baskets
            .set(&event.user, Vec::new(), cx.envelope().time());
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
#[derive(Clone, Default)]
pub struct Baskets(Arc<Mutex<Tables>>);

#[derive(Default)]
struct Tables {
    baskets: HashMap<String, Basket>,
    /// When each price was last changed.
    prices: HashMap<String, (Cents, SystemTime)>,
}

struct Basket {
    lines: Vec<Line>,
    /// The time of the message that it is from: an older one, come late, changes nothing.
    from: SystemTime,
}

impl Baskets {
    fn set(&self, user: &str, lines: Vec<Line>, from: SystemTime) {
        let mut tables = self.0.lock();
        let tables = &mut *tables;
        if tables
            .baskets
            .get(user)
            .is_some_and(|basket| basket.from > from)
        {
            return;
        }
        let lines = lines.into_iter().map(|mut line| {
            // The user saw a price that has been changed since.
            if let Some((price, changed)) = tables.prices.get(&line.product)
                && *changed >= from
            {
                line.price = *price;
            }
            line
        });
        tables.baskets.insert(
            user.to_owned(),
            Basket {
                lines: lines.collect(),
                from,
            },
        );
    }

    fn reprice(&self, product: &str, price: Cents, time: SystemTime) {
        let mut tables = self.0.lock();
        if tables
            .prices
            .get(product)
            .is_some_and(|(_, changed)| *changed > time)
        {
            return;
        }
        tables.prices.insert(product.to_owned(), (price, time));
        let lines = tables
            .baskets
            .values_mut()
            .flat_map(|basket| &mut basket.lines);
        for line in lines.filter(|line| line.product == product) {
            line.price = price;
        }
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
