use std::sync::Arc;
use std::time::Duration;

use super::context::Scratch;
use crate::mailbox::Slot;
use crate::ports::Deadline;
use crate::ports::{Own, Refusal};
use crate::queue::QueueCore;

/// The wait before a release is tried again that failed for another reason than a full mailbox.
const RELEASE_AGAIN: Duration = Duration::from_millis(50);

/// Sends what the handler recorded, in order. True: the credit of the message in hand went with one.
///
/// What was already released stays released when a later one fails, and may repeat (contract, rule 9).
pub(super) async fn release(
    queue: &QueueCore,
    scratch: &mut Scratch,
    slot: &Slot,
) -> Result<bool, Refusal> {
    let mut reused = false;
    let released = release_drafts(queue, scratch, slot, &mut reused).await;
    if released.is_err() && reused {
        queue.mailbox.take_over_bound();
    }
    released.map(|()| reused)
}

async fn release_drafts(
    queue: &QueueCore,
    scratch: &mut Scratch,
    slot: &Slot,
    reused: &mut bool,
) -> Result<(), Refusal> {
    let Some(outgoing) = queue.services.outgoing() else {
        return Err(Refusal::Closed);
    };
    let timers = &queue.services.timers;
    let begun = timers.now();
    let time_left = || {
        let used = timers.now().saturating_duration_since(begun);
        queue.spec.release_timeout.saturating_sub(used)
    };
    for draft in &mut scratch.drafts {
        // Only the first send to the handler's own queue may have the credit, and only of a message that
        // has not been continued by an earlier attempt.
        let own = (!*reused && slot.token == 0).then_some(Own { queue: queue.id });
        let offered = match outgoing.offer(draft, own) {
            Ok(offered) => offered,
            Err(refusal) if is_final(&refusal) => return Err(refusal),
            Err(_) => {
                let mut last;
                loop {
                    let patience = time_left();
                    match outgoing.offer_waiting(draft, own, patience).await {
                        Ok(offered) => break offered,
                        Err(refusal) => last = refusal,
                    }
                    let left = time_left();
                    if is_final(&last) || left.is_zero() {
                        return Err(last);
                    }
                    Deadline::new(Arc::clone(timers), RELEASE_AGAIN.min(left)).await;
                }
            }
        };
        *reused |= offered.reused_own;
    }
    scratch.drafts.clear();
    Ok(())
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
