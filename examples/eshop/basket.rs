//! Basket: what users mean to buy, at the prices of today.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

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
#[derive(Clone)]
pub struct Baskets(Arc<Mutex<Journaled<Tables>>>);

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

#[derive(Serialize, Deserialize)]
enum Change {
    Set {
        user: String,
        lines: Vec<Line>,
        from: SystemTime,
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
            Change::Set { user, lines, from } => self.set(user, lines, from),
            Change::Repriced {
                product,
                price,
                time,
            } => self.reprice(product, price, time),
        }
    }
}

impl Tables {
    fn set(&mut self, user: String, mut lines: Vec<Line>, from: SystemTime) {
        if self
            .baskets
            .get(&user)
            .is_some_and(|basket| basket.from > from)
        {
            return;
        }
        for line in &mut lines {
            // The user saw a price that has been changed since.
            if let Some((price, changed)) = self.prices.get(&line.product)
                && *changed >= from
            {
                line.price = *price;
            }
        }
        self.baskets.insert(user, Basket { lines, from });
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

    fn set(&self, user: &str, lines: Vec<Line>, from: SystemTime) {
        let user = user.to_owned();
        self.0.lock().change(Change::Set { user, lines, from });
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
