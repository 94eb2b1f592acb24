use std::sync::Arc;

use actix::Addr;

use super::SupervisorActor;
use super::actor::{RestartAll, StopForRestart};
use crate::ports::{
    BoxFuture, Child, ExitReporter, Lifecycle, LifecycleKind, LifecycleSink, Part, SuspendReason,
};

/// A supervisor as a child of another.
pub(crate) struct NestedChild {
    pub(crate) name: Arc<str>,
    pub(crate) supervisor: Addr<SupervisorActor>,
    pub(crate) lifecycle: Arc<dyn LifecycleSink>,
}

impl NestedChild {
    fn tell(&self, kind: LifecycleKind, why: Option<String>) {
        self.lifecycle.event(Lifecycle {
            subject: self.name.to_string(),
            kind,
            why,
        });
    }
}

impl Child for NestedChild {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn start(&mut self, _: Part, exits: &ExitReporter) {
        self.supervisor.do_send(RestartAll(exits.clone()));
    }

    fn stop(&mut self) -> BoxFuture<'static, ()> {
        let supervisor = self.supervisor.clone();
        Box::pin(async move {
            // An actor that is gone has stopped.
            let _ = supervisor.send(StopForRestart).await;
        })
    }

    /// Its children have timeouts of their own.
    fn kill(&mut self) {}

    fn restarted(&mut self) {}

    fn suspended(&mut self, why: &SuspendReason) {
        self.tell(LifecycleKind::Suspended, Some(why.to_string()));
    }

    fn resumed(&mut self) {
        self.tell(LifecycleKind::Resumed, None);
    }
}
