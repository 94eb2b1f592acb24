//! Notifications: tells users how their orders do, cancellations included, each thing once.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use postroom::{Bus, Context, Outcome, SubscribeError, Subscriber, Subscription};
use serde::{Deserialize, Serialize};

use crate::journal::{self, Journaled, Journals};
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
#[derive(Clone)]
pub struct Told(Arc<Mutex<Journaled<Tables>>>);

#[derive(Default)]
struct Tables(BTreeSet<(OrderId, News)>);

impl journal::Tables for Tables {
    type Change = (OrderId, News);

    fn apply(&mut self, change: Self::Change) {
        self.0.insert(change);
    }
}

impl Told {
    pub fn open(journals: &Journals) -> io::Result<Self> {
        let tables = journals.open("notifications")?;
        Ok(Self(Arc::new(Mutex::new(tables))))
    }

    /// Tells, unless it was told before.
    fn tell(&self, order: OrderId, news: News) {
        let mut tables = self.0.lock();
        if !tables.0.contains(&(order, news)) {
            tables.change((order, news));
        }
    }

    /// Everything, for the report.
    pub fn all(&self) -> BTreeSet<(OrderId, News)> {
        self.0.lock().0.clone()
    }
}
