//! Basket: what users mean to buy, at the prices of today.

use std::marker::PhantomData;
use std::time::{Duration, SystemTime};

use postroom::{
    Bus, Failure, Outcome, SubscribeError, Subscription, TxCommandHandler, TxContext, TxSubscriber,
};
use serde::{Deserialize, Serialize};

use crate::database::{self, DataError, Database, Shelf};
use crate::messages::*;
use crate::policy::{self, BACKOFF};

/// Starts the service.
pub async fn start<S: Shelf>(bus: &Bus) -> Result<Subscription, SubscribeError> {
    bus.subscriber("basket", || Keeper::<S>(PhantomData))
        .transactional_command::<FillBasket, S>()
        .transactional::<OrderStarted, S>()
        .transactional::<ProductPriceChanged, S>()
        // By user: a basket is filled before it is emptied, over retries too.
        .keyed(8)
        .intensity(policy::RESTARTS, policy::PERIOD)
        .restart_backoff(BACKOFF)
        .start()
        .await
}

struct Keeper<S>(PhantomData<fn(S)>);

const BASKET: &str = "basket";
const FILLED: &str = "filled";
const PRICE: &str = "price";

#[derive(Default, Serialize, Deserialize)]
struct Basket {
    lines: Vec<Line>,
    /// When the user filled it, and what was ordered of it: by the user's own times, so that a message that comes
    /// late changes nothing.
    filled_us: u64,
    ordered_us: u64,
}

impl Basket {
    fn state(&self) -> &'static str {
        match self.lines.is_empty() {
            true => "empty",
            false => FILLED,
        }
    }
}

/// When each price was last changed.
#[derive(Serialize, Deserialize)]
struct Price {
    price: Cents,
    changed: SystemTime,
}

impl<S: Shelf> TxCommandHandler<FillBasket, S> for Keeper<S> {
    async fn handle(
        &mut self,
        command: &FillBasket,
        cx: &mut TxContext<'_, S>,
    ) -> Result<(), Failure> {
        let (user, at_us) = (&command.user, command.filled_us);
        let filled = SystemTime::UNIX_EPOCH + Duration::from_micros(at_us);
        let mut lines = command.lines.clone();
        // Prices before baskets, and each in one order, here as below: two that want several of them cannot wait for
        // each other then.
        lines.sort_by(|one, other| one.product.cmp(&other.product));
        for line in &mut lines {
            // The user saw a price that has been changed since.
            let price = database::get::<Price>(cx.tx(), PRICE, &line.product).await?;
            if let Some(price) = price.filter(|price| price.changed >= filled) {
                line.price = price.price;
            }
        }
        let basket = database::get::<Basket>(cx.tx(), BASKET, user).await?;
        let mut basket = basket.unwrap_or_default();
        if basket.filled_us > at_us || basket.ordered_us >= at_us {
            return Ok(());
        }
        (basket.lines, basket.filled_us) = (lines, at_us);
        database::put(cx.tx(), BASKET, user, basket.state(), &basket).await?;
        Ok(())
    }
}

impl<S: Shelf> TxSubscriber<OrderStarted, S> for Keeper<S> {
    async fn handle(&mut self, event: &OrderStarted, cx: &mut TxContext<'_, S>) -> Outcome {
        let (user, at_us) = (&event.user, event.placed_us);
        let basket = database::get::<Basket>(cx.tx(), BASKET, user).await?;
        let mut basket = basket.unwrap_or_default();
        if basket.filled_us <= at_us {
            basket.lines.clear();
        }
        basket.ordered_us = basket.ordered_us.max(at_us);
        database::put(cx.tx(), BASKET, user, basket.state(), &basket).await?;
        Ok(())
    }
}

impl<S: Shelf> TxSubscriber<ProductPriceChanged, S> for Keeper<S> {
    async fn handle(&mut self, event: &ProductPriceChanged, cx: &mut TxContext<'_, S>) -> Outcome {
        let (product, changed) = (&event.product, cx.envelope().time());
        let known = database::get::<Price>(cx.tx(), PRICE, product).await?;
        if known.is_some_and(|known| known.changed > changed) {
            return Ok(());
        }
        let price = Price {
            price: event.new,
            changed,
        };
        database::put(cx.tx(), PRICE, product, "known", &price).await?;
        let mut filled = database::in_state::<Basket>(cx.tx(), BASKET, FILLED).await?;
        filled.sort_by(|(one, _), (other, _)| one.cmp(other));
        let has = |basket: &Basket| basket.lines.iter().any(|line| line.product == *product);
        for (user, _) in filled.into_iter().filter(|(_, basket)| has(basket)) {
            // Read once more, now that nobody else can change it.
            let basket = database::get::<Basket>(cx.tx(), BASKET, &user).await?;
            let mut basket = basket.unwrap_or_default();
            for line in &mut basket.lines {
                if line.product == *product {
                    line.price = event.new;
                }
            }
            database::put(cx.tx(), BASKET, &user, basket.state(), &basket).await?;
        }
        Ok(())
    }
}

/// The lines of all baskets that are not empty, for the report.
pub async fn lines(database: &Database) -> Result<Vec<Line>, DataError> {
    let baskets = database.all::<Basket>(BASKET).await?;
    Ok(baskets
        .into_iter()
        .flat_map(|(_, basket)| basket.lines)
        .collect())
}
