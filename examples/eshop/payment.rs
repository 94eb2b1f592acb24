//! Payment: charges each order once, however often it is asked.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use postroom::{Bus, Context, Outcome, SubscribeError, Subscriber, Subscription};
use serde::{Deserialize, Serialize};

use crate::journal::{self, Journaled, Journals};
use crate::messages::*;
use crate::policy::{self, BACKOFF, LANES};

/// Starts the service. Orders of more than `limit` are not paid.
pub async fn start(
    bus: &Bus,
    charges: &Charges,
    limit: Cents,
) -> Result<Subscription, SubscribeError> {
    let charges = charges.clone();
    bus.subscriber("payment", move || Till {
        charges: charges.clone(),
        limit,
    })
    .on::<OrderStockConfirmed>()
    .keyed(LANES)
    .intensity(policy::RESTARTS, policy::PERIOD)
    .restart_backoff(BACKOFF)
    .start()
    .await
}

struct Till {
    charges: Charges,
    limit: Cents,
}

impl Subscriber<OrderStockConfirmed> for Till {
    async fn handle(&mut self, event: &OrderStockConfirmed, cx: &mut Context<'_>) -> Outcome {
        let order = event.order;
        if self.charges.charge(order, event.total, self.limit) {
            cx.publish(PaymentSucceeded { order }).key(order);
        } else {
            cx.publish(PaymentFailed { order }).key(order);
        }
        Ok(())
    }
}

/// Payment's database (see [`Orders`](crate::ordering::Orders) for what becomes of it with the store feature).
#[derive(Clone)]
pub struct Charges(Arc<Mutex<Journaled<Tables>>>);

#[derive(Default)]
struct Tables {
    /// Which orders were asked for, and whether they were charged.
    answered: HashMap<OrderId, bool>,
    income: Cents,
}

#[derive(Serialize, Deserialize)]
struct Answered {
    order: OrderId,
    total: Cents,
    charged: bool,
}

impl journal::Tables for Tables {
    type Change = Answered;

    fn apply(&mut self, change: Answered) {
        if change.charged {
            self.income = self.income.saturating_add(change.total);
        }
        self.answered.insert(change.order, change.charged);
    }
}

impl Charges {
    pub fn open(journals: &Journals) -> io::Result<Self> {
        let tables = journals.open("payment")?;
        Ok(Self(Arc::new(Mutex::new(tables))))
    }

    /// Charges, unless it was done before; the answer stays the same.
    fn charge(&self, order: OrderId, total: Cents, limit: Cents) -> bool {
        let mut tables = self.0.lock();
        if let Some(charged) = tables.answered.get(&order) {
            return *charged;
        }
        let charged = total <= limit;
        tables.change(Answered {
            order,
            total,
            charged,
        });
        charged
    }

    /// All the money taken.
    pub fn income(&self) -> Cents {
        self.0.lock().income
    }
}
