//! The bus: the handle that users hold, and what starts and ends with it.

mod builder;
mod dead_letters;
mod handle;
mod health;
mod publish;
mod request;
mod schedules;
mod settle;
mod shutdown;
mod subscribe;
mod subscription;
mod supervise;
mod threads;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod transaction;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod transactional;

pub use builder::{Builder, Escalation, StartError};
pub use dead_letters::{DeadLetters, ReplayError};
pub use handle::Bus;
pub use publish::{Local, Publish, PublishAllError, PublishError, Receipt};
pub use request::Request;
pub use schedules::Schedules;
pub use shutdown::{Abandoned, ShutdownReport};
pub use subscribe::{SubscribeError, SubscriberBuilder};
pub use subscription::{StopReport, Subscription};
pub use supervise::{Supervisor, SupervisorBuilder};
pub use threads::Threads;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use transaction::{Recorded, TransactionError, TransactionRefusal};
