//! Ordering: takes orders, and leads each from state to state by what the other services say.
//!
//! Submitted → AwaitingValidation → StockConfirmed → Paid → Shipped, or Cancelled. A message for the wrong
//! state changes nothing, and is counted.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postroom::{
    Bus, CommandHandler, Context, Failure, MessageId, Outcome, SubscribeError, Subscriber,
    Subscription,
};
use serde::{Deserialize, Serialize};

use crate::journal::{self, Journaled, Journals};
use crate::messages::*;
use crate::policy::{self, BACKOFF, LANES};
use crate::stopwatch::now_us;

/// Starts the service.
pub async fn start(bus: &Bus, orders: &Orders, pace: Pace) -> Result<Subscription, SubscribeError> {
    let orders = orders.clone();
    bus.subscriber("ordering", move || Ordering {
        orders: orders.clone(),
        pace,
    })
    .command::<PlaceOrder>()
    .command::<CancelOrder>()
    .command::<StartValidation>()
    .command::<ShipOrder>()
    .command::<GetOrder>()
    .on::<StockConfirmed>()
    .on::<StockRejected>()
    .on::<PaymentSucceeded>()
    .on::<PaymentFailed>()
    .keyed(LANES)
    .intensity(policy::RESTARTS, policy::PERIOD)
    .restart_backoff(BACKOFF)
    .start()
    .await
}

/// Sends again what was to come later when the process ended: a delayed message waits in its sender's memory.
/// One that was sent after all comes twice, and the second time for the wrong state.
pub async fn resume(bus: &Bus, orders: &Orders, pace: Pace) -> Result<(), Box<dyn Error>> {
    for (order, state) in orders.unfinished() {
        let conversation = format!("order-{order}");
        match state {
            State::Submitted => {
                let command = bus.send(StartValidation { order }).key(order);
                let command = command.correlation(&conversation);
                command.delay(pace.grace).await?;
            }
            State::Paid => {
                let command = bus.send(ShipOrder { order }).key(order);
                let command = command.correlation(&conversation);
                command.delay(pace.packing).await?;
            }
            // Another service has the word.
            _ => {}
        }
    }
    Ok(())
}

/// How long an order stays where it is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The time in which a user may still cancel.
    pub grace: Duration,
    /// The time that packing takes.
    pub packing: Duration,
}

struct Ordering {
    orders: Orders,
    pace: Pace,
}

impl CommandHandler<PlaceOrder> for Ordering {
    async fn handle(
        &mut self,
        command: &PlaceOrder,
        cx: &mut Context<'_>,
    ) -> Result<Placed, Failure> {
        let lines = command
            .lines
            .iter()
            .map(|line| (line.product.as_str(), line.units));
        if let Err(why) = check(lines) {
            return Ok(Placed::Refused(why));
        }
        if !self.orders.place(command, cx.id()) {
            return Ok(Placed::Refused(format!(
                "order {} exists already",
                command.order
            )));
        }
        cx.publish(OrderStarted {
            user: command.user.clone(),
            placed_us: command.placed_us,
        })
        .key(&command.user);
        cx.publish(OrderSubmitted {
            order: command.order,
        })
        .key(command.order);
        // The grace period is a message to ourselves that comes later: no timer to lose, no table to poll.
        cx.send(StartValidation {
            order: command.order,
        })
        .key(command.order)
        .delay(self.pace.grace);
        Ok(Placed::Accepted)
    }
}

impl CommandHandler<CancelOrder> for Ordering {
    async fn handle(
        &mut self,
        command: &CancelOrder,
        cx: &mut Context<'_>,
    ) -> Result<bool, Failure> {
        // Only within the grace period: nothing is reserved and nothing is charged yet.
        Ok(self.cancel(command.order, State::Submitted, Because::Customer, cx))
    }
}

impl CommandHandler<StartValidation> for Ordering {
    async fn handle(
        &mut self,
        command: &StartValidation,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        let step = (State::Submitted, State::AwaitingValidation);
        if let Some(order) = self.orders.advance(command.order, step, cx.id()) {
            let event = OrderAwaitingValidation {
                order: command.order,
                lines: order.units(),
            };
            cx.publish(event).key(command.order);
        }
        Ok(())
    }
}

impl Subscriber<StockConfirmed> for Ordering {
    async fn handle(&mut self, event: &StockConfirmed, cx: &mut Context<'_>) -> Outcome {
        let step = (State::AwaitingValidation, State::StockConfirmed);
        if let Some(order) = self.orders.advance(event.order, step, cx.id()) {
            let confirmed = OrderStockConfirmed {
                order: event.order,
                total: order.total(),
            };
            cx.publish(confirmed).key(event.order);
        }
        Ok(())
    }
}

impl Subscriber<StockRejected> for Ordering {
    async fn handle(&mut self, event: &StockRejected, cx: &mut Context<'_>) -> Outcome {
        self.cancel(event.order, State::AwaitingValidation, Because::Stock, cx);
        Ok(())
    }
}

impl Subscriber<PaymentSucceeded> for Ordering {
    async fn handle(&mut self, event: &PaymentSucceeded, cx: &mut Context<'_>) -> Outcome {
        let step = (State::StockConfirmed, State::Paid);
        if let Some(order) = self.orders.advance(event.order, step, cx.id()) {
            let paid = OrderPaid {
                order: event.order,
                lines: order.units(),
            };
            cx.publish(paid).key(event.order);
            cx.send(ShipOrder { order: event.order })
                .key(event.order)
                .delay(self.pace.packing);
        }
        Ok(())
    }
}

impl Subscriber<PaymentFailed> for Ordering {
    async fn handle(&mut self, event: &PaymentFailed, cx: &mut Context<'_>) -> Outcome {
        self.cancel(event.order, State::StockConfirmed, Because::Payment, cx);
        Ok(())
    }
}

impl CommandHandler<ShipOrder> for Ordering {
    async fn handle(&mut self, command: &ShipOrder, cx: &mut Context<'_>) -> Result<(), Failure> {
        let step = (State::Paid, State::Shipped);
        if self.orders.advance(command.order, step, cx.id()).is_some() {
            cx.publish(OrderShipped {
                order: command.order,
            })
            .key(command.order);
        }
        Ok(())
    }
}

impl CommandHandler<GetOrder> for Ordering {
    async fn handle(
        &mut self,
        command: &GetOrder,
        _cx: &mut Context<'_>,
    ) -> Result<Option<OrderView>, Failure> {
        Ok(self.orders.view(command.order))
    }
}

impl Ordering {
    fn cancel(&self, id: OrderId, from: State, because: Because, cx: &mut Context<'_>) -> bool {
        let cancelled = self.orders.cancel(id, from, because, cx.id());
        if cancelled {
            cx.publish(OrderCancelled { order: id, because }).key(id);
        }
        cancelled
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

/// Ordering's database: it outlives every handler value, which is made anew after a panic or a timeout.
///
/// In this version it is a table in memory, with a [journal](crate::journal) when the services are processes. With
/// the store feature it is a real database, and the change here, the messages sent and the record that this message
/// was handled are one transaction of it.
#[derive(Clone)]
pub struct Orders(Arc<Mutex<Journaled<Tables>>>);

#[derive(Default)]
struct Tables {
    orders: BTreeMap<OrderId, Order>,
    finished: u64,
    misplaced: u64,
}

#[derive(Serialize, Deserialize)]
enum Change {
    Placed {
        command: PlaceOrder,
        by: MessageId,
    },
    Advanced {
        order: OrderId,
        to: State,
        because: Option<Because>,
        by: MessageId,
        at_us: u64,
    },
}

impl journal::Tables for Tables {
    type Change = Change;

    fn apply(&mut self, change: Change) {
        match change {
            Change::Placed { command, by } => {
                let order = Order {
                    user: command.user,
                    lines: command.lines,
                    state: State::Submitted,
                    because: None,
                    placed_us: command.placed_us,
                    finished_us: None,
                    steps: vec![(State::Submitted, by)],
                };
                self.orders.insert(command.order, order);
            }
            Change::Advanced {
                order,
                to,
                because,
                by,
                at_us,
            } => {
                let Some(order) = self.orders.get_mut(&order) else {
                    return;
                };
                order.state = to;
                order.because = because;
                order.steps.push((to, by));
                if to.is_final() {
                    order.finished_us = Some(at_us);
                    self.finished += 1;
                }
            }
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    pub user: String,
    pub lines: Vec<Line>,
    pub state: State,
    pub because: Option<Because>,
    pub placed_us: u64,
    pub finished_us: Option<u64>,
    /// Which message made which step. A redelivered message finds its own step here, and then its outgoing
    /// messages are sent again: those of the failed attempt never left.
    steps: Vec<(State, MessageId)>,
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
}

impl Orders {
    pub fn open(journals: &Journals) -> io::Result<Self> {
        let tables = journals.open("ordering")?;
        Ok(Self(Arc::new(Mutex::new(tables))))
    }

    /// False if the number is taken by another order.
    fn place(&self, command: &PlaceOrder, by: MessageId) -> bool {
        let mut tables = self.0.lock();
        match tables.orders.get(&command.order) {
            Some(order) => order.steps.contains(&(State::Submitted, by)),
            None => {
                let command = command.clone();
                tables.change(Change::Placed { command, by });
                true
            }
        }
    }

    fn advance(&self, id: OrderId, step: (State, State), by: MessageId) -> Option<Order> {
        self.step(id, step, None, by)
    }

    fn cancel(&self, id: OrderId, from: State, because: Because, by: MessageId) -> bool {
        let step = (from, State::Cancelled);
        self.step(id, step, Some(because), by).is_some()
    }

    /// Makes the step, or finds that this very message made it before. None: a message for the wrong state.
    fn step(
        &self,
        id: OrderId,
        (from, to): (State, State),
        because: Option<Because>,
        by: MessageId,
    ) -> Option<Order> {
        let mut tables = self.0.lock();
        match tables.orders.get(&id) {
            Some(order) if order.steps.contains(&(to, by)) => {}
            Some(order) if order.state == from => tables.change(Change::Advanced {
                order: id,
                to,
                because,
                by,
                at_us: now_us(),
            }),
            _ => {
                tables.misplaced += 1;
                return None;
            }
        }
        tables.orders.get(&id).cloned()
    }

    fn view(&self, id: OrderId) -> Option<OrderView> {
        let tables = self.0.lock();
        let order = tables.orders.get(&id)?;
        Some(OrderView {
            order: id,
            user: order.user.clone(),
            state: order.state,
            cancelled_because: order.because,
            lines: order.lines.clone(),
            total: order.total(),
        })
    }

    /// Orders that are shipped or cancelled.
    pub fn finished(&self) -> u64 {
        self.0.lock().finished
    }

    /// Messages that came for the wrong state.
    pub fn misplaced(&self) -> u64 {
        self.0.lock().misplaced
    }

    /// Everything, for the report.
    pub fn all(&self) -> BTreeMap<OrderId, Order> {
        self.0.lock().orders.clone()
    }

    fn unfinished(&self) -> Vec<(OrderId, State)> {
        let tables = self.0.lock();
        let orders = tables.orders.iter();
        let states = orders.map(|(id, order)| (*id, order.state));
        states.filter(|(_, state)| !state.is_final()).collect()
    }

    /// The highest number of an order, and how many there are.
    #[cfg(feature = "amqp")]
    pub fn taken(&self) -> (OrderId, u64) {
        let tables = self.0.lock();
        let last = tables.orders.last_key_value().map_or(0, |(id, _)| *id);
        (last, tables.orders.len() as u64)
    }
}
