//! Notifications: tells users how their orders do, cancellations included, each thing once.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use postroom::{Bus, Context, Outcome, SubscribeError, Subscriber, Subscription};

use crate::messages::*;
use crate::policy::{self, BACKOFF, LANES};

/// Starts the service.
pub async fn start(bus: &Bus, told: &Told) -> Result<Subscription, SubscribeError> {
    let told = told.clone();
    bus.subscriber("notifications", move || Teller { told: told.clone() })
        .on::<OrderSubmitted>()
        .on::<OrderPaid>()
        .on::<OrderShipped>()
        .on::<OrderCancelled>()
        .keyed(LANES)
        .intensity(policy::RESTARTS, policy::PERIOD)
        .restart_backoff(BACKOFF)
        .start()
        .await
}

/// What a user is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum News {
    Submitted,
    Paid,
    Shipped,
    Cancelled,
}

struct Teller {
    told: Told,
}

impl Subscriber<OrderSubmitted> for Teller {
    async fn handle(&mut self, event: &OrderSubmitted, _cx: &mut Context<'_>) -> Outcome {
        self.told.tell(event.order, News::Submitted);
        Ok(())
    }
}

impl Subscriber<OrderPaid> for Teller {
    async fn handle(&mut self, event: &OrderPaid, _cx: &mut Context<'_>) -> Outcome {
        self.told.tell(event.order, News::Paid);
        Ok(())
    }
}

impl Subscriber<OrderShipped> for Teller {
    async fn handle(&mut self, event: &OrderShipped, _cx: &mut Context<'_>) -> Outcome {
        self.told.tell(event.order, News::Shipped);
        Ok(())
    }
}

impl Subscriber<OrderCancelled> for Teller {
    async fn handle(&mut self, event: &OrderCancelled, _cx: &mut Context<'_>) -> Outcome {
        self.told.tell(event.order, News::Cancelled);
        Ok(())
    }
}

/// What was told (see [`Orders`](crate::ordering::Orders) for what becomes of it with the store feature).
#[derive(Clone, Default)]
pub struct Told(Arc<Mutex<HashSet<(OrderId, News)>>>);

impl Told {
    /// Tells, unless it was told before.
    fn tell(&self, order: OrderId, news: News) {
        self.0.lock().insert((order, news));
    }

    pub fn has(&self, order: OrderId, news: News) -> bool {
        self.0.lock().contains(&(order, news))
    }

    /// How often each was told.
    pub fn counts(&self) -> BTreeMap<News, u64> {
        let mut counts = BTreeMap::new();
        for (_, news) in self.0.lock().iter() {
            *counts.entry(*news).or_default() += 1;
        }
        counts
    }
}
