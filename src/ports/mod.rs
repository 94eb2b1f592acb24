//! The small traits by which lower rooms reach higher ones without importing them. `bus` wires them.

mod child;
mod interceptor;
mod lifecycle;
mod outgoing;
mod request;
mod timers;

pub(crate) use child::{Child, ChildId, Exit, ExitReporter, Part, Report, SuspendReason};
pub use interceptor::{Inbound, Interceptor, Next, Outbound, Refused};
pub(crate) use lifecycle::LifecycleSink;
pub use lifecycle::{Lifecycle, LifecycleKind};
pub(crate) use outgoing::{Draft, Offered, Outgoing, Own};
pub use outgoing::{Refusal, RequestError};
pub(crate) use request::Awaited;
pub(crate) use timers::{TimerKey, Timers};

/// A future on one thread, boxed because it crosses a port.
pub type LocalBoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + 'a>>;
pub(crate) type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
