//! The bus: the handle that users hold, and what starts and ends with it.

#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod batch;
mod builder;
mod dead_letters;
mod handle;
mod health;
mod publish;
mod receipt;
mod request;
mod schedules;
mod settle;
mod shutdown;
mod start;
mod subscribe;
mod subscribe_error;
mod subscriber_builder;
mod subscribing;
mod subscription;
mod supervise;
mod system_events;
mod threads;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod transaction;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod transactional;

#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use batch::Batch;
pub use builder::{Builder, Escalation};
pub use dead_letters::{DeadLetters, ReplayAllError, ReplayError, Replayed};
pub use handle::Bus;
pub use publish::Publish;
pub use receipt::{Local, PublishAllError, PublishError, Receipt};
pub use request::Request;
pub use schedules::Schedules;
pub use shutdown::{Abandoned, ShutdownReport};
pub use start::StartError;
pub use subscribe_error::SubscribeError;
pub use subscriber_builder::SubscriberBuilder;
pub use subscription::{StopReport, Subscription};
pub use supervise::{Supervisor, SupervisorBuilder};
pub use threads::Threads;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use transaction::{Recorded, TransactionError, TransactionRefusal};
