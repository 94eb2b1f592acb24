//! Supervisors: actors that start, restart and stop others (contract, rule 8; the words are OTP's).
//!
//! They run on the control thread, where no code of the user's runs, so none can hold them up.

mod actor;
mod again;
mod exits;
mod nested;
#[cfg(any(feature = "amqp", feature = "sqlite", feature = "postgres"))]
mod part;
mod spec;
mod stop;

pub(crate) use actor::{AddChild, RemoveChild, ResumeChild, SupervisorActor};
pub(crate) use nested::NestedChild;
#[cfg(any(feature = "amqp", feature = "sqlite", feature = "postgres"))]
pub(crate) use part::{Life, PartChild, Stop};
pub(crate) use spec::{ChildSpec, OnExceeded, SupervisorSpec};
pub(crate) use stop::StopAll;
