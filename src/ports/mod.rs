//! The small traits by which lower rooms reach higher ones without importing them. `bus` wires them.

mod bridge_snapshot;
mod child;
mod dead_letter;
mod dead_letter_store;
mod deadline;
mod health;
mod interceptor;
mod lifecycle;
mod outgoing;
mod request;
mod timers;

pub use bridge_snapshot::BridgeSnapshot;
pub(crate) use child::{
    Child, ChildId, Exit, ExitReporter, Part, Report, Starting, Stop, StopFor, SuspendReason,
};
pub use dead_letter::{DeadLetter, DeadLettered, Filter};
pub(crate) use dead_letter_store::{Claim, Claims, DeadLetterStore, Wanted};
pub use dead_letter_store::{DeadLetterLedger, StoreError};
pub(crate) use deadline::Deadline;
pub(crate) use health::HealthSource;
pub use health::{Condition, Problem};
pub use interceptor::{Inbound, Interceptor, Next, Outbound, Refused};
pub(crate) use lifecycle::LifecycleSink;
pub use lifecycle::{Lifecycle, LifecycleKind};
pub use outgoing::{Bridged, Refusal, RequestError};
pub(crate) use outgoing::{Draft, Offered, Outgoing, Own};
pub(crate) use request::Awaited;
pub(crate) use timers::{TimerKey, Timers};

/// A future on one thread, boxed because it crosses a port.
pub type LocalBoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + 'a>>;
pub(crate) type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
