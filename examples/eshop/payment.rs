//! Payment: charges each order once, however often it is asked.
//!
//! It does not look whether it has charged an order before: the inbox does, since the charge and the record that the
//! message was handled are one transaction. That each payment was taken once is what the report shows.

use std::marker::PhantomData;

use postroom::{Bus, MessageId, Outcome, SubscribeError, Subscription, TxContext, TxSubscriber};
use serde::{Deserialize, Serialize};

use crate::database::{self, DataError, Database, Shelf};
use crate::messages::*;
use crate::policy::{self, BACKOFF, LANES};

/// Starts the service. Orders of more than `limit` are not paid.
pub async fn start<S: Shelf>(bus: &Bus, limit: Cents) -> Result<Subscription, SubscribeError> {
    bus.subscriber("payment", move || Till::<S> {
        limit,
        over: PhantomData,
    })
    .transactional::<OrderStockConfirmed, S>()
    .keyed(LANES)
    .intensity(policy::RESTARTS, policy::PERIOD)
    .restart_backoff(BACKOFF)
    .start()
    .await
}

struct Till<S> {
    limit: Cents,
    over: PhantomData<fn(S)>,
}

/// A request to charge, and what came of it. Its id is the message's.
#[derive(Serialize, Deserialize)]
struct Charge {
    order: OrderId,
    total: Cents,
    is_paid: bool,
}

const CHARGE: &str = "charge";

impl<S: Shelf> TxSubscriber<OrderStockConfirmed, S> for Till<S> {
    async fn handle(&mut self, event: &OrderStockConfirmed, cx: &mut TxContext<'_, S>) -> Outcome {
        let (order, total, id): (_, _, MessageId) = (event.order, event.total, cx.id());
        let is_paid = total <= self.limit;
        let charge = Charge {
            order,
            total,
            is_paid,
        };
        let state = if is_paid { "paid" } else { "refused" };
        database::put(cx.tx(), CHARGE, id, state, &charge).await?;
        if is_paid {
            cx.publish(PaymentSucceeded { order });
        } else {
            cx.publish(PaymentFailed { order });
        }
        Ok(())
    }
}

/// What Payment has taken.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Income {
    pub money: Cents,
    pub payments: u64,
    /// Orders that were asked for more than once.
    pub asked_again: u64,
}

/// All the money taken, for the report.
pub async fn income(database: &Database) -> Result<Income, DataError> {
    let charges = database.all::<Charge>(CHARGE).await?;
    let mut orders = std::collections::HashSet::new();
    let mut income = Income::default();
    for (_, charge) in &charges {
        if !orders.insert(charge.order) {
            income.asked_again += 1;
        }
        if charge.is_paid {
            income.money = income.money.saturating_add(charge.total);
            income.payments += 1;
        }
    }
    Ok(income)
}
