use std::sync::Arc;
use std::time::Duration;

use super::context::Scratch;
use crate::mailbox::Slot;
use crate::ports::{BoxFuture, Deadline, Draft, Offered, Outgoing, Own, Refusal};
use crate::queue::QueueCore;

/// The wait before a release is tried again that failed for another reason than a full mailbox.
const RELEASE_AGAIN: Duration = Duration::from_millis(50);

/// Sends what the handler recorded, in order. True: the credit of the message in hand went with one.
///
/// What was already released stays released when a later one fails, and may repeat (contract, rule 9).
///
/// Only what has to wait is boxed, so that a worker's loop, which every idle subscriber holds, stays small.
pub(super) fn release<'a>(
    queue: &'a QueueCore,
    scratch: &'a mut Scratch,
    slot: &Slot,
) -> Released<'a> {
    let Some(outgoing) = queue.services.outgoing() else {
        return Released::Done(Err(Refusal::Closed));
    };
    let mut release = Release {
        queue,
        outgoing,
        drafts: &mut scratch.drafts,
        // Only of a message that has not been continued by an earlier attempt.
        may_reuse: slot.record().token == 0,
        sent: 0,
        reused: false,
    };
    match release.offer_all() {
        Err(refusal) if !is_final(&refusal) => Released::Waits(Box::pin(release.wait())),
        result => Released::Done(release.end(result)),
    }
}

/// How far a release came without waiting.
pub(super) enum Released<'a> {
    Done(Result<bool, Refusal>),
    Waits(BoxFuture<'a, Result<bool, Refusal>>),
}

struct Release<'a> {
    queue: &'a QueueCore,
    outgoing: Arc<dyn Outgoing>,
    drafts: &'a mut Vec<Draft>,
    may_reuse: bool,
    sent: usize,
    reused: bool,
}

impl Release<'_> {
    /// The first send to the handler's own queue may have the credit.
    fn own(&self) -> Option<Own> {
        (self.may_reuse && !self.reused).then_some(Own {
            queue: self.queue.id,
        })
    }

    fn count(&mut self, offered: &Offered) {
        self.reused |= offered.reused_own;
        self.sent += 1;
    }

    /// Offers one after another, up to the first that is refused.
    fn offer_all(&mut self) -> Result<(), Refusal> {
        while self.sent < self.drafts.len() {
            let own = self.own();
            let offered = self.outgoing.offer(&mut self.drafts[self.sent], own)?;
            self.count(&offered);
        }
        Ok(())
    }

    async fn wait(mut self) -> Result<bool, Refusal> {
        let result = self.offer_all_waiting().await;
        self.end(result)
    }

    async fn offer_all_waiting(&mut self) -> Result<(), Refusal> {
        let timers = &self.queue.services.timers;
        let begun = timers.now();
        let time_left = || {
            let used = timers.now().saturating_duration_since(begun);
            self.queue.spec.release_timeout.saturating_sub(used)
        };
        while self.sent < self.drafts.len() {
            let own = self.own();
            let draft = &mut self.drafts[self.sent];
            let offered = loop {
                let patience = time_left();
                let refusal = match self.outgoing.offer_waiting(draft, own, patience).await {
                    Ok(offered) => break offered,
                    Err(refusal) => refusal,
                };
                let left = time_left();
                if is_final(&refusal) || left.is_zero() {
                    return Err(refusal);
                }
                Deadline::new(Arc::clone(timers), RELEASE_AGAIN.min(left)).await;
            };
            self.count(&offered);
            match self.offer_all() {
                Err(refusal) if is_final(&refusal) => return Err(refusal),
                // The next one waits.
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn end(mut self, result: Result<(), Refusal>) -> Result<bool, Refusal> {
        result?;
        self.drafts.clear();
        Ok(std::mem::take(&mut self.reused))
    }
}

/// Failed, cut off or panicked: the message in hand stays, and what went on its credit needs one of its own.
impl Drop for Release<'_> {
    fn drop(&mut self) {
        if self.reused {
            self.queue.mailbox.take_over_bound();
        }
    }
}

/// Refusals that waiting does not mend.
fn is_final(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Name(_)
            | Refusal::TooLarge { .. }
            | Refusal::HeadersTooLarge { .. }
            | Refusal::Codec(_)
            | Refusal::Intercepted(_)
            | Refusal::Closed
    )
}
