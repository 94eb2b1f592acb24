//! Supervisors: actors that start, restart and stop others (contract, rule 8; the words are OTP's).
//!
//! They run on the control thread, where no code of the user's runs, so none can hold them up.

mod actor;
mod nested;
mod spec;

pub(crate) use actor::{AddChild, RemoveChild, ResumeChild, StopAll, SupervisorActor};
pub(crate) use nested::NestedChild;
pub(crate) use spec::{ChildSpec, OnExceeded, SupervisorSpec};
