//! The small traits by which lower rooms reach higher ones without importing them. `bus` wires them.

mod bridge_snapshot;
mod caught;
mod child;
#[cfg(any(feature = "amqp", feature = "sqlite", feature = "postgres"))]
mod crash;
mod dead_letter;
mod dead_letter_id;
mod dead_letter_store;
mod deadline;
mod durable_snapshot;
mod health;
mod interceptor;
mod lifecycle;
mod outbox_snapshot;
mod outgoing;
mod request;
mod schedule_store;
mod timers;
#[cfg(any(feature = "amqp", feature = "sqlite", feature = "postgres"))]
mod when_down;

pub use bridge_snapshot::BridgeSnapshot;
pub(crate) use caught::{Caught, Guarded, Panicked, drop_caught};
pub(crate) use child::{
    Child, ChildId, Exit, ExitReporter, Part, Report, Starting, Stop, StopFor, SuspendReason,
};
#[cfg(any(feature = "amqp", feature = "sqlite", feature = "postgres"))]
pub(crate) use crash::crash_point;
pub use dead_letter::{DeadLetter, DeadLettered, Filter};
pub use dead_letter_id::DeadLetterId;
pub(crate) use dead_letter_store::{Claim, Claims, DeadLetterSink, DeadLetterStore, Wanted};
pub use dead_letter_store::{DeadLetterLedger, StoreError};
pub(crate) use deadline::Deadline;
pub use durable_snapshot::DurableSnapshot;
pub(crate) use health::HealthSource;
pub use health::{Condition, Problem};
pub use interceptor::{Finished, Inbound, Interceptor, Next, Outbound, Refused};
pub(crate) use lifecycle::LifecycleSink;
pub use lifecycle::{Lifecycle, LifecycleKind};
pub use outbox_snapshot::OutboxSnapshot;
pub use outgoing::{Bridged, Refusal, RequestError};
pub(crate) use outgoing::{Draft, Offered, Outgoing, Own};
pub(crate) use request::Awaited;
pub(crate) use schedule_store::ScheduleStore;
pub use schedule_store::ScheduledMessage;
pub(crate) use timers::{TimerKey, Timers};
#[cfg(any(feature = "amqp", feature = "sqlite", feature = "postgres"))]
pub use when_down::WhenDown;

/// A future on one thread, boxed because it crosses a port.
pub type LocalBoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + 'a>>;
/// A future that may be moved between threads, boxed because it crosses a port.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
