use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::attempt::{Ended, attempt};
use super::caught::{Broken, Guarded, caught};
use super::context::Scratch;
use super::dispatch::Dispatch;
use super::factory::Factory;
use super::member::Member;
use crate::delivery::{Failure, NextStep, Reason, next_step};
use crate::mailbox::{Ending, Lease, Slot, Take};
use crate::message::RawMessage;
use crate::ports::{Exit, Inbound, Own, Refusal};
use crate::queue::{Failed, QueueCore};
use crate::time::Deadline;

/// How long a worker runs without letting its thread do anything else.
const SLICE: Duration = Duration::from_millis(1);
/// Reading the clock costs more than a message: it is read once in so many.
const CLOCK_EVERY: u32 = 8;
/// The wait before a release is tried again that failed for another reason than a full mailbox.
const RELEASE_AGAIN: Duration = Duration::from_millis(50);

/// Makes a handler and feeds it until it fails, is asked to stop, or asks to stop.
///
/// Dropping the future at any point gives back what was not settled.
pub(super) async fn work<H, F, D>(member: Arc<Member<H, F, D>>, seat: u32) -> Exit
where
    H: 'static,
    F: Factory<H>,
    D: Dispatch<H>,
{
    let queue = &*member.queue;
    let made = match caught(member.factory.make(), None).await {
        Ok(made) => made,
        Err(Broken::Panicked(text)) => Err(format!("the factory panicked: {text}")),
        Err(Broken::TimedOut) => Err("the factory did not finish in time".to_owned()),
    };
    let mut handler = match made {
        Ok(handler) => Guarded::new(handler),
        Err(why) => return Exit::StartFailed { why },
    };
    let mut hands = Hands {
        lease: Lease::new(Arc::clone(&member.queue)),
        scratch: Scratch::default(),
    };
    let mut slice = Instant::now();
    let mut since_clock = 0;
    loop {
        let take = std::future::poll_fn(|cx| {
            let lease = &mut hands.lease;
            let taken =
                queue
                    .mailbox
                    .poll_take(seat, &mut lease.settled, &mut lease.batch, cx.waker());
            if taken.is_pending() {
                // Others run while this worker waits: its slice begins anew.
                since_clock = 0;
            }
            taken
        })
        .await;
        match take {
            Take::Stop => return Exit::Stopped,
            Take::Batch => {}
        }
        if since_clock == 0 {
            slice = Instant::now();
        }
        while let Some(slot) = hands.lease.batch.pop_front() {
            if queue.mailbox.must_put_down(seat) || !queue.breaker_allows() {
                hands.lease.batch.push_front(slot);
                hands.lease.put_down();
                break;
            }
            if is_expired(queue, &slot) {
                queue.backing.end(queue, slot, Ending::Expired);
                continue;
            }
            let Some(handler) = handler.get() else {
                return Exit::Stopped;
            };
            if let Some(exit) = hands.deliver(queue, &member.dispatch, handler, slot).await {
                return exit;
            }
            since_clock += 1;
            if since_clock >= CLOCK_EVERY {
                since_clock = 1;
                if slice.elapsed() > SLICE {
                    tokio::task::yield_now().await;
                    slice = Instant::now();
                }
            }
        }
    }
}

fn is_expired(queue: &QueueCore, slot: &Slot) -> bool {
    match slot.parcel.envelope().expires_ms() {
        Some(expires) => queue.services.clock.wall_ms() >= expires,
        None => false,
    }
}

/// What a worker holds. An attempt that is cut off may have been the breaker's probe.
struct Hands {
    lease: Lease<QueueCore>,
    scratch: Scratch,
}

impl Hands {
    /// Runs a message through its attempts in hand and settles it. Some: the worker ends.
    async fn deliver<H, D: Dispatch<H>>(
        &mut self,
        queue: &QueueCore,
        dispatch: &D,
        handler: &mut H,
        slot: Slot,
    ) -> Option<Exit> {
        // In the lease, so that it is given back if this future is dropped.
        let current = self.lease.current.insert(slot);
        loop {
            let mut ended = attempt(queue, dispatch, handler, current, &mut self.scratch).await;
            if matches!(ended, Ended::Succeeded) && !self.scratch.drafts.is_empty() {
                match release(queue, &mut self.scratch, current).await {
                    Ok(reused) => self.lease.settled.reused += usize::from(reused),
                    Err(refusal) => {
                        let failure =
                            Failure::retry(format!("its messages were not released: {refusal}"));
                        ended = Ended::Failed {
                            failure,
                            kind: Reason::ReleaseFailed,
                        };
                    }
                }
            }
            report(queue, current, &ended);
            let (failure, kind, broken) = match ended {
                Ended::Succeeded => {
                    let slot = self.lease.current.take()?;
                    self.lease.settled.acked += 1;
                    acknowledge(queue, &mut self.scratch, slot);
                    return std::mem::take(&mut self.scratch.stop).then_some(Exit::Normal);
                }
                Ended::Failed { failure, kind } => (failure, kind, None),
                Ended::Broken { failure, why } => (failure, Reason::Exhausted, Some(why)),
            };
            self.scratch.clear();
            current.attempts += 1;
            let step = next_step(
                &queue.spec.retry,
                current.attempts,
                &failure,
                fastrand::f64(),
            );
            if step == NextStep::Immediate && broken.is_none() {
                queue.remember(current, &failure);
                queue.mailbox.count_retry_in_hand();
                continue;
            }
            let slot = self.lease.current.take()?;
            let message = Some(slot.parcel.envelope().id);
            queue.settle_failed(
                Failed {
                    slot,
                    failure,
                    kind,
                },
                step,
            );
            return broken.map(|why| Exit::Failed { message, why });
        }
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        if let Some(current) = &self.lease.current {
            let queue = self.lease.queue();
            tracing::debug!(queue = %queue.name, id = %current.parcel.envelope().id, "an attempt was cut off");
            queue.abandon_probe();
        }
    }
}

fn acknowledge(queue: &QueueCore, scratch: &mut Scratch, slot: Slot) {
    if slot.token != 0 {
        queue.backing.acked(slot.token);
    }
    if let Some(key) = slot.key() {
        queue.mailbox.lane_settled(key);
    }
    if let Some(metadata) = &slot.parcel.envelope().metadata
        && let Some(port) = &metadata.reply
        && let Some(reply) = scratch.reply.take()
        && !reply.deliver(&**port)
    {
        queue.services.late_replies.fetch_add(1, Ordering::Relaxed);
    }
}

fn report(queue: &QueueCore, slot: &Slot, ended: &Ended) {
    if queue.breaker.is_some() {
        queue.record(matches!(ended, Ended::Succeeded));
    }
    let text = match ended {
        Ended::Succeeded => None,
        Ended::Failed { failure, .. } => Some(failure.to_string()),
        Ended::Broken { why, .. } => Some(why.clone()),
    };
    if let Some(error) = &text {
        tracing::warn!(
            queue = %queue.name,
            messaging.message.id = %slot.parcel.envelope().id,
            postroom.attempt = slot.attempts + 1,
            %error,
            "an attempt failed"
        );
    }
    for interceptor in queue.services.interceptors.iter() {
        let delivery = Inbound {
            message: RawMessage::new(&slot.parcel),
            queue: &queue.name,
            attempt: slot.attempts + 1,
        };
        let outcome = text.as_deref().map_or(Ok(()), Err);
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            interceptor.finished(delivery, outcome);
        }));
        if told.is_err() {
            tracing::error!(queue = %queue.name, "an interceptor panicked in `finished`");
        }
    }
}

/// Sends what the handler recorded, in order. True: the credit of the message in hand went with one.
///
/// What was already released stays released when a later one fails, and may repeat (contract, rule 9).
async fn release(queue: &QueueCore, scratch: &mut Scratch, slot: &Slot) -> Result<bool, Refusal> {
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
    let deadline = timers.now() + queue.spec.release_timeout;
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
                    let patience = deadline.saturating_duration_since(timers.now());
                    match outgoing.offer_waiting(draft, own, patience).await {
                        Ok(offered) => break offered,
                        Err(refusal) => last = refusal,
                    }
                    let left = deadline.saturating_duration_since(timers.now());
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
            | Refusal::Codec(_)
            | Refusal::Intercepted(_)
            | Refusal::Closed
    )
}
