//! Ordering: takes orders, and leads each from state to state by what the other services say.
//!
//! Submitted → AwaitingValidation → StockConfirmed → Paid → Shipped, or Cancelled. A message for the wrong
//! state changes nothing, and is counted.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Atomic};
use std::time::Duration;

use postroom::{
    Bus, CommandHandler, Context, Failure, Outcome, SubscribeError, Subscription, TxCommandHandler,
    TxContext, TxSubscriber,
};
use serde::{Deserialize, Serialize};

use crate::database::{self, DataError, Database, Documents, Shelf};
use crate::messages::*;
use crate::policy::{self, BACKOFF, LANES};
use crate::stopwatch::now_us;

/// Starts the service.
pub async fn start<S: Shelf>(
    bus: &Bus,
    database: &Database,
    misplaced: &Misplaced,
    pace: Pace,
) -> Result<Subscription, SubscribeError> {
    let (database, misplaced) = (database.clone(), misplaced.clone());
    bus.subscriber("ordering", move || Ordering::<S> {
        database: database.clone(),
        misplaced: misplaced.clone(),
        pace,
        over: PhantomData,
    })
    .transactional_command::<PlaceOrder, S>()
    .transactional_command::<CancelOrder, S>()
    .transactional_command::<StartValidation, S>()
    .transactional_command::<ShipOrder, S>()
    .command::<GetOrder>()
    .transactional::<StockConfirmed, S>()
    .transactional::<StockRejected, S>()
    .transactional::<PaymentSucceeded, S>()
    .transactional::<PaymentFailed, S>()
    .keyed(LANES)
    .intensity(policy::RESTARTS, policy::PERIOD)
    .restart_backoff(BACKOFF)
    .start()
    .await
}

/// How long an order stays where it is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The time in which a user may still cancel.
    pub grace: Duration,
    /// The time that packing takes.
    pub packing: Duration,
}

struct Ordering<S> {
    database: Database,
    misplaced: Misplaced,
    pace: Pace,
    over: PhantomData<fn(S)>,
}

impl<S: Shelf> TxCommandHandler<PlaceOrder, S> for Ordering<S> {
    async fn handle(
        &mut self,
        command: &PlaceOrder,
        cx: &mut TxContext<'_, S>,
    ) -> Result<Placed, Failure> {
        let id = command.order;
        let lines = command
            .lines
            .iter()
            .map(|line| (line.product.as_str(), line.units));
        if let Err(why) = check(lines) {
            return Ok(Placed::Refused(why));
        }
        if database::get::<Order>(cx.tx(), ORDER, id).await?.is_some() {
            return Ok(Placed::Refused(format!("order {id} exists already")));
        }
        let order = Order {
            user: command.user.clone(),
            lines: command.lines.clone(),
            state: State::Submitted,
            because: None,
            placed_us: command.placed_us,
            finished_us: None,
        };
        order.keep(id, cx.tx()).await?;
        cx.publish(OrderStarted {
            user: command.user.clone(),
            placed_us: command.placed_us,
        });
        cx.publish(OrderSubmitted { order: id });
        // The grace period is a message to ourselves that comes later: no timer to lose, no table to poll.
        cx.send(StartValidation { order: id })
            .delay(self.pace.grace);
        Ok(Placed::Accepted)
    }
}

impl<S: Shelf> TxCommandHandler<CancelOrder, S> for Ordering<S> {
    async fn handle(
        &mut self,
        command: &CancelOrder,
        cx: &mut TxContext<'_, S>,
    ) -> Result<bool, Failure> {
        // Only within the grace period: nothing is reserved and nothing is charged yet.
        self.cancel(command.order, State::Submitted, Because::Customer, cx)
            .await
    }
}

impl<S: Shelf> TxCommandHandler<StartValidation, S> for Ordering<S> {
    async fn handle(
        &mut self,
        command: &StartValidation,
        cx: &mut TxContext<'_, S>,
    ) -> Result<(), Failure> {
        let step = (State::Submitted, State::AwaitingValidation);
        if let Some(order) = self.advance(command.order, step, cx).await? {
            let event = OrderAwaitingValidation {
                order: command.order,
                lines: order.units(),
            };
            cx.publish(event);
        }
        Ok(())
    }
}

impl<S: Shelf> TxSubscriber<StockConfirmed, S> for Ordering<S> {
    async fn handle(&mut self, event: &StockConfirmed, cx: &mut TxContext<'_, S>) -> Outcome {
        let step = (State::AwaitingValidation, State::StockConfirmed);
        if let Some(order) = self.advance(event.order, step, cx).await? {
            let confirmed = OrderStockConfirmed {
                order: event.order,
                total: order.total(),
            };
            cx.publish(confirmed);
        }
        Ok(())
    }
}

impl<S: Shelf> TxSubscriber<StockRejected, S> for Ordering<S> {
    async fn handle(&mut self, event: &StockRejected, cx: &mut TxContext<'_, S>) -> Outcome {
        self.cancel(event.order, State::AwaitingValidation, Because::Stock, cx)
            .await?;
        Ok(())
    }
}

impl<S: Shelf> TxSubscriber<PaymentSucceeded, S> for Ordering<S> {
    async fn handle(&mut self, event: &PaymentSucceeded, cx: &mut TxContext<'_, S>) -> Outcome {
        let step = (State::StockConfirmed, State::Paid);
        if let Some(order) = self.advance(event.order, step, cx).await? {
            let paid = OrderPaid {
                order: event.order,
                lines: order.units(),
            };
            cx.publish(paid);
            cx.send(ShipOrder { order: event.order })
                .delay(self.pace.packing);
        }
        Ok(())
    }
}

impl<S: Shelf> TxSubscriber<PaymentFailed, S> for Ordering<S> {
    async fn handle(&mut self, event: &PaymentFailed, cx: &mut TxContext<'_, S>) -> Outcome {
        self.cancel(event.order, State::StockConfirmed, Because::Payment, cx)
            .await?;
        Ok(())
    }
}

impl<S: Shelf> TxCommandHandler<ShipOrder, S> for Ordering<S> {
    async fn handle(
        &mut self,
        command: &ShipOrder,
        cx: &mut TxContext<'_, S>,
    ) -> Result<(), Failure> {
        let step = (State::Paid, State::Shipped);
        if self.advance(command.order, step, cx).await?.is_some() {
            cx.publish(OrderShipped {
                order: command.order,
            });
        }
        Ok(())
    }
}

/// Only looks, and so needs no transaction.
impl<S: Shelf> CommandHandler<GetOrder> for Ordering<S> {
    async fn handle(
        &mut self,
        command: &GetOrder,
        _cx: &mut Context<'_>,
    ) -> Result<Option<OrderView>, Failure> {
        let order = self.database.get::<Order>(ORDER, command.order).await?;
        Ok(order.map(|order| OrderView {
            order: command.order,
            total: order.total(),
            user: order.user,
            state: order.state,
            cancelled_because: order.because,
            lines: order.lines,
        }))
    }
}

impl<S: Shelf> Ordering<S> {
    async fn advance(
        &self,
        id: OrderId,
        step: (State, State),
        cx: &mut TxContext<'_, S>,
    ) -> Result<Option<Order>, DataError> {
        self.step(id, step, None, cx.tx()).await
    }

    async fn cancel(
        &self,
        id: OrderId,
        from: State,
        because: Because,
        cx: &mut TxContext<'_, S>,
    ) -> Result<bool, Failure> {
        let step = (from, State::Cancelled);
        let cancelled = self.step(id, step, Some(because), cx.tx()).await?;
        if cancelled.is_some() {
            cx.publish(OrderCancelled { order: id, because });
        }
        Ok(cancelled.is_some())
    }

    /// Makes the step. None: a message for the wrong state, which changes nothing. One that comes twice is none: the
    /// inbox knows it.
    async fn step(
        &self,
        id: OrderId,
        (from, to): (State, State),
        because: Option<Because>,
        documents: &mut impl Documents,
    ) -> Result<Option<Order>, DataError> {
        let order = database::get::<Order>(documents, ORDER, id).await?;
        let Some(mut order) = order.filter(|order| order.state == from) else {
            self.misplaced.count();
            return Ok(None);
        };
        order.state = to;
        order.because = because;
        order.finished_us = to.is_final().then(now_us);
        order.keep(id, documents).await?;
        Ok(Some(order))
    }
}

/// Whether an order can be taken at all. An unknown product is not ours to judge: Catalog does that.
pub fn check<'a>(lines: impl IntoIterator<Item = (&'a str, u32)>) -> Result<(), String> {
    let mut count = 0;
    for (product, units) in lines {
        if units == 0 || product.is_empty() {
            return Err(format!("a line of {units} units of `{product}`"));
        }
        count += 1;
    }
    if count == 0 {
        return Err("an order without a line".to_owned());
    }
    Ok(())
}

const ORDER: &str = "order";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    pub user: String,
    pub lines: Vec<Line>,
    pub state: State,
    pub because: Option<Because>,
    pub placed_us: u64,
    pub finished_us: Option<u64>,
}

impl Order {
    pub fn total(&self) -> Cents {
        self.lines.iter().fold(0, |total: Cents, line| {
            total.saturating_add(line.price.saturating_mul(Cents::from(line.units)))
        })
    }

    pub fn units(&self) -> Vec<Units> {
        let units = |line: &Line| Units {
            product: line.product.clone(),
            units: line.units,
        };
        self.lines.iter().map(units).collect()
    }

    async fn keep(&self, id: OrderId, documents: &mut impl Documents) -> Result<(), DataError> {
        let state = if self.state.is_final() {
            FINISHED
        } else {
            OPEN
        };
        database::put(documents, ORDER, id, state, self).await
    }
}

const FINISHED: &str = "finished";
const OPEN: &str = "open";

/// Counts messages that came for the wrong state; since the process started.
#[derive(Clone, Default)]
pub struct Misplaced(Arc<AtomicU64>);

impl Misplaced {
    fn count(&self) {
        self.0.fetch_add(1, Atomic::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Atomic::Relaxed)
    }
}

/// Orders that are shipped or cancelled.
pub async fn finished(database: &Database) -> Result<u64, DataError> {
    let counts = database.count(ORDER).await?;
    Ok(counts.get(FINISHED).copied().unwrap_or_default())
}

/// Everything, for the report.
pub async fn all(database: &Database) -> Result<BTreeMap<OrderId, Order>, DataError> {
    let orders = database.all::<Order>(ORDER).await?.into_iter();
    let numbered = orders.filter_map(|(id, order)| Some((id.parse().ok()?, order)));
    Ok(numbered.collect())
}

/// The highest number of an order, and how many there are.
pub async fn taken(database: &Database) -> Result<(OrderId, u64), DataError> {
    let orders = all(database).await?;
    let last = orders.last_key_value().map_or(0, |(id, _)| *id);
    Ok((last, orders.len() as u64))
}
