//! What the bridge needs on the broker: exchanges, queues and bindings.
//!
//! A [`Plan`] is made by pure code from names and subscriptions; [`apply`] declares or verifies it. Nothing here
//! removes anything, but for [`prune`] and [`delete`], which only do what they are told by name.
//!
//! ```text
//! {prefix}.events   topic  ── pattern ─► {service}.{group} ── given up by the broker ─► {service}.{group}.dead
//! {prefix}.commands direct ── queue ───►        ▲
//! {prefix}.due      topic  ── #.address ────────┘        and what it cannot route ─► {prefix}.undeliverable
//! ```

mod apply;
mod error;
mod names;
mod plan;
#[cfg(test)]
mod rabbit;
mod remove;
mod subscription;

pub use apply::TopologyMode;
pub(in crate::bridge) use apply::apply;
pub use error::TopologyError;
pub(in crate::bridge) use names::{GroupNames, Names};
pub use plan::{Argument, ExchangeKind, Plan, PlanObject};
pub use remove::DeleteOnly;
pub(in crate::bridge) use remove::{delete, prune};
pub use subscription::QueueType;
pub(in crate::bridge) use subscription::{
    NEVER, SubscriptionShape, at_least_once, base_plan, dead_letter_plan, subscription_plan,
};
