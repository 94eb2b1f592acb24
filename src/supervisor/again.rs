use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use actix::Context;

use super::SupervisorActor;
use super::actor::State;
use crate::delivery::Restart;
use crate::ports::{ChildId, Deadline, LifecycleKind, Part, Starting};

/// Children that were stopped, to be started again in order: each when the one before it has begun, as what it
/// depends on may be that one.
pub(super) struct Again {
    /// With the incarnations that they were stopped as: whatever happens to one meanwhile goes before this.
    pub(super) waiting: VecDeque<(ChildId, u64)>,
    /// Those of them whose restart was told and counted.
    pub(super) told: Vec<ChildId>,
    /// Why the others are restarted.
    pub(super) why: String,
    pub(super) not_before: Instant,
    /// Dropped when the last of them has begun, or the rest is taken over.
    pub(super) starting: Starting,
}

impl SupervisorActor {
    /// Starts the next one, and goes on when it has begun; one that takes longer than its `stop_timeout` for that
    /// holds up the others no more.
    pub(super) fn start_next(&mut self, mut again: Again, ctx: &mut Context<Self>) {
        while let Some((id, incarnation)) = again.waiting.pop_front() {
            if !self.still_waits(id, incarnation) {
                continue;
            }
            if again.waiting.is_empty() {
                self.start_again(id, &again, &again.starting, ctx);
                return;
            }
            let (starting, begun) = Starting::watched();
            self.start_again(id, &again, &starting, ctx);
            drop(starting);
            again.told.retain(|told| *told != id);
            let Some(entry) = self.children.get(&id) else {
                continue;
            };
            let mut patience = Deadline::new(Arc::clone(&self.timers), entry.spec.stop_timeout);
            let begun = async move {
                patience.bound(begun.wait()).await;
                // One that could not begin has said so before: that is handled first, and may take this over.
                tokio::task::yield_now().await;
            };
            let (told, not_before) = (again.told.clone(), again.not_before);
            self.begin(begun, told, not_before, ctx, |supervisor, ctx| {
                supervisor.start_next(again, ctx);
            });
            return;
        }
    }

    /// Starts a child that was stopped for another one's failure, or for its own. One that is temporary has ended
    /// with another one's.
    fn start_again(
        &mut self,
        id: ChildId,
        again: &Again,
        starting: &Starting,
        ctx: &Context<Self>,
    ) {
        let Some(entry) = self.children.get_mut(&id) else {
            return;
        };
        if !entry.resuming && !again.told.contains(&id) {
            if entry.spec.restart == Restart::Temporary {
                self.ended(id, again.why.clone());
                return;
            }
            let name = Arc::clone(entry.child.name());
            entry.incarnation += 1;
            entry.child.restarted();
            self.tell(&name, LifecycleKind::Restarted, Some(again.why.clone()));
        }
        self.start_part(id, Part::All, starting, ctx);
    }

    /// Whether nothing else has happened to the child since it was stopped.
    pub(super) fn still_waits(&self, id: ChildId, incarnation: u64) -> bool {
        let waits = self.children.get(&id).is_some_and(|entry| {
            entry.state == State::Restarting && entry.incarnation == incarnation
        });
        waits && !self.stopping
    }
}
