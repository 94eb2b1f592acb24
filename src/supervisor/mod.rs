//! Supervisors: actors that start, restart and stop others (contract, rule 8; the words are OTP's).
//!
//! They run on the control thread, where no code of the user's runs, so none can hold them up.

mod actor;
mod again;
mod exits;
mod nested;
mod spec;
mod stop;

pub(crate) use actor::{AddChild, RemoveChild, ResumeChild, SupervisorActor};
pub(crate) use nested::NestedChild;
pub(crate) use spec::{ChildSpec, OnExceeded, SupervisorSpec};
pub(crate) use stop::StopAll;
