//! Notifications: tells users how their orders do, cancellations included, each thing once.

use std::collections::BTreeSet;
use std::marker::PhantomData;

use postroom::{Bus, Outcome, SubscribeError, Subscription, TxContext, TxSubscriber};
use serde::{Deserialize, Serialize};

use crate::database::{self, DataError, Database, Shelf};
use crate::messages::*;
use crate::policy::{self, BACKOFF, LANES};

/// Starts the service.
pub async fn start<S: Shelf>(bus: &Bus) -> Result<Subscription, SubscribeError> {
    bus.subscriber("notifications", || Teller::<S>(PhantomData))
        .transactional::<OrderSubmitted, S>()
        .transactional::<OrderPaid, S>()
        .transactional::<OrderShipped, S>()
        .transactional::<OrderCancelled, S>()
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

struct Teller<S>(PhantomData<fn(S)>);

const TOLD: &str = "told";

impl<S: Shelf> Teller<S> {
    /// Tells it. An event that another one repeats has another id, and so is not known to the inbox: what it tells is
    /// the same document.
    async fn tell(&self, order: OrderId, news: News, cx: &mut TxContext<'_, S>) -> Outcome {
        let id = format!("{order}/{news:?}");
        database::put(cx.tx(), TOLD, id, "told", &(order, news)).await?;
        Ok(())
    }
}

impl<S: Shelf> TxSubscriber<OrderSubmitted, S> for Teller<S> {
    async fn handle(&mut self, event: &OrderSubmitted, cx: &mut TxContext<'_, S>) -> Outcome {
        self.tell(event.order, News::Submitted, cx).await
    }
}

impl<S: Shelf> TxSubscriber<OrderPaid, S> for Teller<S> {
    async fn handle(&mut self, event: &OrderPaid, cx: &mut TxContext<'_, S>) -> Outcome {
        self.tell(event.order, News::Paid, cx).await
    }
}

impl<S: Shelf> TxSubscriber<OrderShipped, S> for Teller<S> {
    async fn handle(&mut self, event: &OrderShipped, cx: &mut TxContext<'_, S>) -> Outcome {
        self.tell(event.order, News::Shipped, cx).await
    }
}

impl<S: Shelf> TxSubscriber<OrderCancelled, S> for Teller<S> {
    async fn handle(&mut self, event: &OrderCancelled, cx: &mut TxContext<'_, S>) -> Outcome {
        self.tell(event.order, News::Cancelled, cx).await
    }
}

/// What was told, for the report.
pub async fn told(database: &Database) -> Result<BTreeSet<(OrderId, News)>, DataError> {
    let told = database.all(TOLD).await?;
    Ok(told.into_iter().map(|(_, told)| told).collect())
}
