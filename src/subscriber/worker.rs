use std::future::Future as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::attempt::{Ended, deadline, observed, poll_in_time};
use super::context::{Context, Scratch};
use super::dispatch::{Dispatch, DispatchFailure, Message};
use super::factory::Factory;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use super::inbox::{Delivered, Transactor, commit, deliver, roll_back};
use super::lookout::Lookout;
use super::member::Member;
use super::release::{Released, release};
use super::shell::Run;
use crate::delivery::{Failure, NextStep, Reason, next_step};
use crate::mailbox::{Ending, Lease, Slot, Take};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use crate::ports::crash_point;
use crate::ports::{Caught, Exit, Guarded, Inbound, Panicked};
use crate::queue::QueueCore;

/// How long a worker runs without letting its thread do anything else.
const SLICE: Duration = Duration::from_millis(1);
/// Reading the clock costs more than a message: it is read once in so many.
const CLOCK_EVERY: u32 = 32;

/// Makes a handler and feeds it until it fails, is asked to stop, or asks to stop.
///
/// Dropping the future at any point gives back what was not settled.
pub(super) async fn work<H, F, D>(member: Arc<Member<H, F, D>>, seat: u32, run: Rc<Run>) -> Exit
where
    H: 'static,
    F: Factory<H>,
    D: Dispatch<H>,
{
    let queue = &*member.queue;
    run.set_in_the_middle(true);
    let made = Caught::new(member.factory.make()).await;
    run.set_in_the_middle(false);
    let mut handler = match made {
        Ok(Ok(handler)) => Guarded::new(handler),
        Ok(Err(why)) => return Exit::StartFailed { why },
        Err(Panicked(text)) => {
            let why = format!("the factory panicked: {text}");
            return Exit::StartFailed { why };
        }
    };
    run.has_begun();
    let mut hands = Hands {
        lease: Lease::new(Arc::clone(&member.queue)),
        scratch: Scratch::default(),
        run,
    };
    let Some(value) = handler.get() else {
        return Exit::Stopped;
    };
    // One catch around the whole loop: nothing is paid for it per message, and a panic ends the worker anyway.
    let ended = Caught::new(hands.feed(queue, &member.dispatch, value, seat)).await;
    ended.unwrap_or_else(|Panicked(text)| hands.broken(queue, format!("panicked: {text}")))
}

/// What a worker holds. An attempt that is cut off may have been the breaker's probe.
struct Hands {
    lease: Lease<QueueCore>,
    scratch: Scratch,
    run: Rc<Run>,
}

impl Hands {
    async fn feed<H, D: Dispatch<H>>(
        &mut self,
        queue: &QueueCore,
        dispatch: &D,
        handler: &mut H,
        seat: u32,
    ) -> Exit {
        let mut slice = Instant::now();
        let mut since_clock = 0;
        let mut lookout = Lookout::default();
        loop {
            let (take, waker) = std::future::poll_fn(|cx| {
                let lease = &mut self.lease;
                let taken = queue.mailbox.poll_take(
                    seat,
                    &mut lease.settled,
                    &mut lease.batch,
                    lookout.demand(),
                    cx.waker(),
                );
                if taken.is_pending() {
                    // Others run while this worker waits: its slice begins anew.
                    since_clock = 0;
                }
                taken.map(|take| (take, cx.waker().clone()))
            })
            .await;
            match take {
                Take::Stop => return Exit::Stopped,
                Take::Few => {
                    lookout.wait().await;
                    since_clock = 0;
                    continue;
                }
                Take::Batch => lookout.found(self.lease.batch.len()),
            }
            if since_clock == 0 {
                slice = Instant::now();
            }
            let plain = queue.is_plain() && !tracing::enabled!(tracing::Level::INFO);
            // The message in hand is tried again at once: it was looked at before its first attempt.
            let mut again = false;
            while let Some(slot) = self.lease.batch.front() {
                let simple = slot.is_simple();
                if !again {
                    if queue.mailbox.must_put_down(seat) || !queue.breaker_allows() {
                        self.lease.put_down();
                        break;
                    }
                    if !simple && self.end_unstarted(queue) {
                        continue;
                    }
                }
                #[cfg(any(feature = "sqlite", feature = "postgres"))]
                if D::TRANSACTIONAL
                    && let Some(slot) = self.lease.batch.front()
                    && let Some(transactor) = transactor_of(dispatch, slot)
                {
                    // Boxed, so that the usual case stays small.
                    let beginning = Box::pin(self.begin(queue, transactor, seat));
                    match beginning.await {
                        Delivered::Begun => {}
                        Delivered::Duplicate => {
                            again = false;
                            continue;
                        }
                        Delivered::PutDown => break,
                    }
                }
                let Lease {
                    batch,
                    started,
                    settled,
                    ..
                } = &mut self.lease;
                let Some(slot) = batch.front() else { break };
                *started = true;
                let scratch = &mut self.scratch;
                let ended = if plain {
                    let mut cx = Context {
                        slot,
                        queue,
                        scratch: &mut *scratch,
                    };
                    let message = Message(slot.parcel());
                    let mut handling = pin!(dispatch.run_typed(&mut *handler, message, &mut cx));
                    // Most handlers never wait: nothing is set up for those that do.
                    let first = handling
                        .as_mut()
                        .poll(&mut std::task::Context::from_waker(&waker));
                    let typed = match first {
                        Poll::Ready(typed) => Some(typed),
                        Poll::Pending => {
                            let mut deadline = deadline(queue, settled);
                            std::future::poll_fn(|cx| {
                                poll_in_time(handling.as_mut(), &mut deadline, cx)
                            })
                            .await
                        }
                    };
                    typed.map_or(Typed::TooLate, Typed::Ended)
                } else {
                    Typed::Ended(None)
                };
                if let Typed::Ended(Some(Ok(()))) = ended
                    && scratch.is_empty()
                {
                    queue.record(true);
                    if simple {
                        settled.acked += 1;
                        *started = false;
                        if let Some(slot) = batch.pop_front() {
                            settled.spend(slot);
                        }
                    } else {
                        self.acknowledge(queue);
                    }
                    again = false;
                } else {
                    let ended = match ended {
                        Typed::Ended(Some(result)) => Some(result),
                        Typed::TooLate => None,
                        Typed::Ended(None) => {
                            observed(queue, dispatch, handler, slot, scratch, settled).await
                        }
                    };
                    match self.conclude(queue, ended).await {
                        Next::Message => again = false,
                        Next::Again => again = true,
                        Next::Exit(exit) => return exit,
                    }
                }
                since_clock += 1;
                if since_clock >= CLOCK_EVERY {
                    since_clock = 1;
                    if slice.elapsed() > SLICE {
                        queue.mailbox.settle(&mut self.lease.settled);
                        tokio::task::yield_now().await;
                        slice = Instant::now();
                    }
                }
            }
        }
    }

    /// Ends the first message without an attempt, if it is too old, can not be settled any more or was found unfit.
    fn end_unstarted(&mut self, queue: &QueueCore) -> bool {
        let Some(slot) = self.lease.batch.front() else {
            return false;
        };
        let unfit = slot.record().history.as_deref();
        let unfit = unfit.and_then(|history| history.unfit);
        if let Some(ending) = not_to_be_started(queue, slot) {
            if let Some(slot) = self.lease.take() {
                queue.backing().end(queue, slot, ending);
            }
            return true;
        }
        if let Some(reason) = unfit {
            if let Some(slot) = self.lease.take() {
                queue.give_up_unseen(slot, reason);
            }
            return true;
        }
        false
    }

    /// Begins the transaction in which the first message is handled; what is known as handled is acknowledged.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    async fn begin(&mut self, queue: &QueueCore, transactor: Transactor, seat: u32) -> Delivered {
        let inbox = self.scratch.make_inbox();
        let delivered = deliver(queue, &mut self.lease, inbox, transactor, seat).await;
        if matches!(delivered, Delivered::Duplicate) {
            // It may have been let through as the breaker's probe, and was not tried.
            queue.abandon_probe();
            self.acknowledge(queue);
        }
        delivered
    }

    /// Commits the transaction of an attempt that succeeded, or rolls it back.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    async fn end_transaction(&mut self, queue: &QueueCore, mut ended: Ended) -> Ended {
        if matches!(ended, Some(Ok(())))
            && let Some(slot) = self.lease.batch.front()
            && let Err(failed) = commit(queue, &mut self.scratch, slot).await
        {
            ended = Some(Err(DispatchFailure(Box::new(failed))));
        }
        if let Some(inbox) = self.scratch.inbox() {
            roll_back(queue, inbox).await;
        }
        ended
    }

    /// Everything after an attempt that is not the plain success: releases, failures, replies.
    async fn conclude(&mut self, queue: &QueueCore, mut ended: Ended) -> Next {
        #[cfg(any(feature = "sqlite", feature = "postgres"))]
        if self.scratch.inbox().is_some_and(|inbox| inbox.is_open()) {
            ended = Box::pin(self.end_transaction(queue, ended)).await;
        }
        if matches!(ended, Some(Ok(()))) && !self.scratch.drafts.is_empty() {
            // A release may wait for room.
            queue.mailbox.settle(&mut self.lease.settled);
            if let Some(slot) = self.lease.batch.front() {
                let released = match release(queue, &mut self.scratch, slot) {
                    Released::Done(result) => result,
                    Released::Waits(rest) => rest.await,
                };
                match released {
                    Ok(reused) => self.lease.settled.reused += usize::from(reused),
                    Err(refusal) => {
                        let why = format!("its messages were not released: {refusal}");
                        let failure = (Failure::retry(why), Reason::ReleaseFailed);
                        ended = Some(Err(DispatchFailure(Box::new(failure))));
                    }
                }
            }
        }
        match ended {
            Some(Ok(())) => {
                if let Some(slot) = self.lease.batch.front() {
                    report(queue, slot, None);
                }
                #[cfg(any(feature = "sqlite", feature = "postgres"))]
                crash_point("before-ack");
                self.acknowledge(queue);
                #[cfg(any(feature = "sqlite", feature = "postgres"))]
                crash_point("after-ack");
                match self.scratch.take_stop() {
                    true => Next::Exit(Exit::Normal),
                    false => Next::Message,
                }
            }
            Some(Err(failed)) => self.failed(queue, *failed.0),
            None => {
                let timeout = queue.spec.timeout.unwrap_or_default();
                Next::Exit(self.broken(queue, format!("did not finish within {timeout:?}")))
            }
        }
    }

    fn acknowledge(&mut self, queue: &QueueCore) {
        let Some(slot) = self.lease.take() else {
            return;
        };
        self.lease.settled.acked += 1;
        let token = slot.record().token;
        if token != 0 {
            queue.backing().acked(token);
        }
        if let Some(metadata) = &slot.parcel().envelope().metadata {
            if let Some(key) = queue.lane_of(&slot) {
                queue.mailbox.lane_settled(key);
            }
            if let Some(port) = &metadata.reply
                && let Some(reply) = self.scratch.reply.take()
                && !reply.deliver(&**port)
            {
                queue.services.late_replies.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Settles a failed attempt whose handler lives on.
    fn failed(&mut self, queue: &QueueCore, (failure, kind): (Failure, Reason)) -> Next {
        self.scratch.clear();
        let Some(current) = self.lease.batch.front() else {
            return Next::Message;
        };
        // What is the user's (the error's texts, and its drop) runs before anything is told or counted: a panic in it is
        // the end of this same attempt.
        let step = next_step(
            &queue.spec.retry,
            current.attempt(),
            &failure,
            fastrand::f64(),
        );
        let text = failure.to_string();
        let errors = failure.chain();
        drop(failure);
        report(queue, current, Some(&text));
        let Some(slot) = self.lease.batch.pop_front() else {
            return Next::Message;
        };
        let now = queue.now();
        let slot = slot.noted(|record| record.failed(errors, now));
        // With a breaker it goes back to the queue, whose hand-over the breaker governs.
        if step == NextStep::Immediate && queue.breaker.is_none() {
            self.lease.batch.push_front(slot);
            queue.mailbox.count_retry_in_hand();
            return Next::Again;
        }
        self.lease.started = false;
        queue.settle_failed(slot, step, kind);
        Next::Message
    }

    /// Settles an attempt that took the handler with it.
    fn broken(&mut self, queue: &QueueCore, why: String) -> Exit {
        self.scratch.clear();
        let in_hand = if self.lease.started {
            self.lease.take()
        } else {
            None
        };
        let Some(slot) = in_hand else {
            return Exit::Failed { message: None, why };
        };
        report(queue, &slot, Some(&why));
        let failure = Failure::retry(why.clone());
        let step = next_step(&queue.spec.retry, slot.attempt(), &failure, fastrand::f64());
        let message = Some(slot.parcel().envelope().id);
        // Before it, so that a retry at once comes before what was behind it.
        self.lease.put_down();
        let now = queue.now();
        let slot = slot.noted(|record| record.failed(failure.chain(), now));
        queue.settle_failed(slot, step, Reason::Exhausted);
        Exit::Failed { message, why }
    }
}

/// How the handler of a message's own type ended; none: there is no such handler.
enum Typed {
    Ended(Option<Result<(), DispatchFailure>>),
    TooLate,
}

/// What follows an attempt.
enum Next {
    Message,
    /// The same message at once.
    Again,
    Exit(Exit),
}

impl Drop for Hands {
    fn drop(&mut self) {
        if self.lease.started
            && let Some(slot) = self.lease.batch.front()
        {
            self.run.set_in_the_middle(true);
            let queue = self.lease.queue();
            tracing::debug!(queue = %queue.name, id = %slot.parcel().envelope().id, "an attempt was cut off");
            queue.abandon_probe();
        }
    }
}

/// How the handler of a message gets its transaction; none: it has none.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
fn transactor_of<H, D: Dispatch<H>>(dispatch: &D, slot: &Slot) -> Option<Transactor> {
    let message = Message(slot.parcel());
    let place = dispatch.typed_place(message);
    let place = place.or_else(|| dispatch.select(message).map(|found| found.place));
    dispatch.transactor_at(place?)
}

/// How a message ends that is too old, or whose delivery must not be started any more.
#[inline]
fn not_to_be_started(queue: &QueueCore, slot: &Slot) -> Option<Ending> {
    let token = slot.record().token;
    if token != 0 && !queue.backing().may_start(token) {
        return Some(Ending::Returned);
    }
    let expires = slot.parcel().envelope().expires_ms()?;
    (queue.services.clock.wall_ms() >= expires).then_some(Ending::Expired)
}

/// Tells the breaker, the log and the interceptors how an attempt ended.
fn report(queue: &QueueCore, slot: &Slot, error: Option<&str>) {
    queue.record(error.is_none());
    if let Some(error) = error {
        tracing::warn!(
            queue = %queue.name,
            messaging.message.id = %slot.parcel().envelope().id,
            postroom.attempt = slot.attempt(),
            error,
            "an attempt failed"
        );
    }
    for interceptor in queue.services.interceptors.iter() {
        let delivery = Inbound {
            message: slot.raw(),
            queue: &queue.name,
            attempt: slot.attempt(),
        };
        let outcome = error.map_or(Ok(()), Err);
        let told = catch_unwind(AssertUnwindSafe(|| {
            interceptor.finished(delivery, outcome);
        }));
        if told.is_err() {
            tracing::error!(queue = %queue.name, "an interceptor panicked in `finished`");
        }
    }
}
