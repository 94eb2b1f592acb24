//! What the services say to each other: the whole of what they share.
//!
//! Every message about an order is sent with the order's number as its key, so that a keyed subscriber
//! handles the messages of one order one after another.

use std::borrow::Cow;

use postroom::{Command, Event};
use serde::{Deserialize, Serialize};

pub type OrderId = u64;
/// An amount of money, in cents.
pub type Cents = u64;

/// A product and how many of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Units {
    pub product: String,
    pub units: u32,
}

/// A line of a basket or an order: a product, how many of it, and the price of one that the user was shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub product: String,
    pub units: u32,
    pub price: Cents,
}

/// Whether a line of an order can be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineStock {
    pub product: String,
    pub has_stock: bool,
}

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum State {
    Submitted,
    AwaitingValidation,
    StockConfirmed,
    Paid,
    Shipped,
    Cancelled,
}

impl State {
    pub fn is_final(self) -> bool {
        matches!(self, Self::Shipped | Self::Cancelled)
    }
}

/// Why an order was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Because {
    Customer,
    Stock,
    Payment,
}

// ---- Commands: each has one receiver, and an answer ------------------------------------------------------

/// To Ordering: a user checks out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlaceOrder {
    pub order: OrderId,
    pub user: String,
    pub lines: Vec<Line>,
    /// When the user pressed the button, in microseconds of the Unix epoch.
    pub placed_us: u64,
}

/// A refusal that the sender is meant to see is a reply; an error would be a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placed {
    Accepted,
    Refused(String),
}

impl Command for PlaceOrder {
    const QUEUE: &'static str = "ordering.place-order";
    type Reply = Placed;

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.order.to_string().into())
    }
}

/// To Ordering: the user has second thoughts. Answers whether it was in time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CancelOrder {
    pub order: OrderId,
}

impl Command for CancelOrder {
    const QUEUE: &'static str = "ordering.cancel-order";
    type Reply = bool;

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.order.to_string().into())
    }
}

/// Ordering to itself: the grace period is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StartValidation {
    pub order: OrderId,
}

impl Command for StartValidation {
    const QUEUE: &'static str = "ordering.start-validation";
    type Reply = ();

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.order.to_string().into())
    }
}

/// Ordering to itself: a paid order is packed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShipOrder {
    pub order: OrderId,
}

impl Command for ShipOrder {
    const QUEUE: &'static str = "ordering.ship-order";
    type Reply = ();

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.order.to_string().into())
    }
}

/// To Ordering: what is known of an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetOrder {
    pub order: OrderId,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OrderView {
    pub order: OrderId,
    pub user: String,
    pub state: State,
    pub cancelled_because: Option<Because>,
    pub lines: Vec<Line>,
    pub total: Cents,
}

impl Command for GetOrder {
    const QUEUE: &'static str = "ordering.get-order";
    type Reply = Option<OrderView>;

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.order.to_string().into())
    }
}

/// To Basket: this is what the user's basket holds now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FillBasket {
    pub user: String,
    pub lines: Vec<Line>,
    /// When the user filled it, in microseconds of the Unix epoch.
    pub filled_us: u64,
}

impl Command for FillBasket {
    const QUEUE: &'static str = "basket.fill";
    type Reply = ();

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.user.as_str().into())
    }
}

/// To Catalog: a product costs something else from now on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChangePrice {
    pub product: String,
    pub price: Cents,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PriceChange {
    Changed {
        old: Cents,
        new: Cents,
    },
    /// A later change has been made already.
    Outdated,
    UnknownProduct,
}

impl Command for ChangePrice {
    const QUEUE: &'static str = "catalog.change-price";
    type Reply = PriceChange;

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.product.as_str().into())
    }
}

// ---- Events: what happened, to whom it may concern --------------------------------------------------------

/// Keyed by the user: it is about the user's basket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OrderStarted {
    pub user: String,
    /// As in [`PlaceOrder`]. What was in the basket until then is ordered.
    pub placed_us: u64,
}

impl Event for OrderStarted {
    const TOPIC: &'static str = "ordering.order-started";

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.user.as_str().into())
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OrderSubmitted {
    pub order: OrderId,
}

impl Event for OrderSubmitted {
    const TOPIC: &'static str = "ordering.order-submitted";

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.order.to_string().into())
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OrderAwaitingValidation {
    pub order: OrderId,
    pub lines: Vec<Units>,
}

impl Event for OrderAwaitingValidation {
    const TOPIC: &'static str = "ordering.order-awaiting-validation";

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.order.to_string().into())
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StockConfirmed {
    pub order: OrderId,
}

impl Event for StockConfirmed {
    const TOPIC: &'static str = "catalog.stock-confirmed";

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.order.to_string().into())
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StockRejected {
    pub order: OrderId,
    pub lines: Vec<LineStock>,
}

impl Event for StockRejected {
    const TOPIC: &'static str = "catalog.stock-rejected";

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.order.to_string().into())
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OrderStockConfirmed {
    pub order: OrderId,
    pub total: Cents,
}

impl Event for OrderStockConfirmed {
    const TOPIC: &'static str = "ordering.order-stock-confirmed";

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.order.to_string().into())
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PaymentSucceeded {
    pub order: OrderId,
}

impl Event for PaymentSucceeded {
    const TOPIC: &'static str = "payment.succeeded";

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.order.to_string().into())
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PaymentFailed {
    pub order: OrderId,
}

impl Event for PaymentFailed {
    const TOPIC: &'static str = "payment.failed";

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.order.to_string().into())
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OrderPaid {
    pub order: OrderId,
    pub lines: Vec<Units>,
}

impl Event for OrderPaid {
    const TOPIC: &'static str = "ordering.order-paid";

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.order.to_string().into())
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OrderShipped {
    pub order: OrderId,
}

impl Event for OrderShipped {
    const TOPIC: &'static str = "ordering.order-shipped";

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.order.to_string().into())
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OrderCancelled {
    pub order: OrderId,
    pub because: Because,
}

impl Event for OrderCancelled {
    const TOPIC: &'static str = "ordering.order-cancelled";

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.order.to_string().into())
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProductPriceChanged {
    pub product: String,
    pub old: Cents,
    pub new: Cents,
}

impl Event for ProductPriceChanged {
    const TOPIC: &'static str = "catalog.product-price-changed";

    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.product.as_str().into())
    }
}
