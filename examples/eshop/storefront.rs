//! The storefront: what users see and press. It knows the prices from Catalog's events, and sends commands.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use postroom::{Bus, Context, SubscribeError, Subscription};

use crate::input::{NewOrder, Product};
use crate::messages::*;
use crate::policy::{self, BACKOFF};
use crate::stopwatch::now_us;

/// Starts to follow the prices.
pub async fn start(bus: &Bus, front: &Storefront) -> Result<Subscription, SubscribeError> {
    let front = front.clone();
    bus.subscribe_fn::<ProductPriceChanged, _>(
        "storefront",
        async move |event: &ProductPriceChanged, cx: &mut Context<'_>| {
            front.reprice(event, cx.envelope().time());
            Ok(())
        },
    )
    .intensity(policy::RESTARTS, policy::PERIOD)
    .restart_backoff(BACKOFF)
    .start()
    .await
}

#[derive(Clone)]
pub struct Storefront(Arc<Inner>);

struct Inner {
    prices: Mutex<HashMap<String, (Cents, SystemTime)>>,
    last_order: AtomicU64,
    accepted: AtomicU64,
}

impl Storefront {
    pub fn new(products: &[Product]) -> Self {
        let price =
            |product: &Product| (product.id.clone(), (product.price, SystemTime::UNIX_EPOCH));
        Self(Arc::new(Inner {
            prices: Mutex::new(products.iter().map(price).collect()),
            last_order: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
        }))
    }

    fn reprice(&self, event: &ProductPriceChanged, time: SystemTime) {
        let mut prices = self.0.prices.lock();
        let known = prices
            .entry(event.product.clone())
            .or_insert((event.new, time));
        if known.1 <= time {
            *known = (event.new, time);
        }
    }

    /// The command for an order, with a number of its own and the prices that the user sees.
    pub fn check_out(&self, order: &NewOrder) -> PlaceOrder {
        let prices = self.0.prices.lock();
        let price = |product| prices.get(product).map_or(0, |(price, _)| *price);
        let lines = order.lines.iter().map(|line| Line {
            product: line.product.clone(),
            units: line.units,
            price: price(&line.product),
        });
        PlaceOrder {
            order: self.0.last_order.fetch_add(1, Ordering::Relaxed) + 1,
            user: order.user.clone(),
            lines: lines.collect(),
            placed_us: now_us(),
        }
    }

    /// Goes on behind the orders that are there already.
    pub fn follow(&self, last: OrderId, count: u64) {
        self.0.last_order.store(last, Ordering::Relaxed);
        self.0.accepted.store(count, Ordering::SeqCst);
    }

    /// An order's command was accepted by the bus: from here on the order must not be lost.
    pub fn count(&self) {
        self.0.accepted.fetch_add(1, Ordering::SeqCst);
    }

    /// Orders whose command was accepted.
    pub fn placed(&self) -> u64 {
        self.0.accepted.load(Ordering::SeqCst)
    }

    pub fn price(&self, product: &str) -> Option<Cents> {
        self.0.prices.lock().get(product).map(|(price, _)| *price)
    }
}
