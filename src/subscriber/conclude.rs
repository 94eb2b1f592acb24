//! What becomes of a message after an attempt.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use super::attempt::Ended;
use super::dispatch::DispatchFailure;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use super::inbox::{Delivered, Transactor, commit, deliver, roll_back};
use super::release::{Released, release};
use super::worker::Hands;
use crate::delivery::{Failure, NextStep, Reason, next_step};
use crate::mailbox::Slot;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use crate::ports::crash_point;
use crate::ports::{Exit, Finished, Inbound};
use crate::queue::QueueCore;

/// What follows an attempt.
pub(super) enum Next {
    Message,
    /// The same message at once.
    Again,
    Exit(Exit),
}

impl Hands {
    /// Begins the transaction in which the first message is handled; what is known as handled is acknowledged.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) async fn begin(
        &mut self,
        queue: &QueueCore,
        transactor: Transactor,
        seat: u32,
    ) -> Delivered {
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
    pub(super) async fn conclude(&mut self, queue: &QueueCore, mut ended: Ended) -> Next {
        #[cfg(any(feature = "sqlite", feature = "postgres"))]
        if self.scratch.inbox().is_some_and(|inbox| inbox.is_open()) {
            ended = Box::pin(self.end_transaction(queue, ended)).await;
        }
        if matches!(ended, Some(Ok(()))) && !self.scratch.drafts.is_empty() {
            // A release needs room, and may wait for it.
            queue.mailbox.settle(&mut self.lease.settled);
            if let Some(slot) = self.lease.batch.front() {
                let released = match release(queue, &mut self.scratch, slot) {
                    Released::Done(result) => result,
                    Released::Waits(rest) => {
                        self.lease.leave_rest();
                        rest.await
                    }
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

    pub(super) fn acknowledge(&mut self, queue: &QueueCore) {
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
        // With a breaker it goes back to the queue, whose hand-over the breaker governs; and so does what is not to be
        // started here any more.
        if step == NextStep::Immediate && queue.breaker.is_none() && queue.may_start(&slot) {
            self.lease.batch.push_front(slot);
            queue.mailbox.count_retry_in_hand();
            return Next::Again;
        }
        self.lease.started = false;
        if step == NextStep::Immediate {
            // Before it, so that it comes before what was behind it.
            self.lease.put_down();
        }
        queue.settle_failed(slot, step, kind);
        Next::Message
    }

    /// Settles an attempt that took the handler with it.
    pub(super) fn broken(&mut self, queue: &QueueCore, why: String) -> Exit {
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
        let told = catch_unwind(AssertUnwindSafe(|| {
            interceptor.finished(Finished { delivery, error });
        }));
        if told.is_err() {
            tracing::error!(queue = %queue.name, "an interceptor panicked in `finished`");
        }
    }
}
