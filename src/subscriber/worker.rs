use std::future::Future as _;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::attempt::{Ended, deadline, observed, poll_in_time};
use super::conclude::Next;
use super::context::{Context, Scratch};
use super::dispatch::{Dispatch, Message};
use super::factory::Factory;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use super::inbox::{Delivered, Transactor};
use super::lookout::Lookout;
use super::member::Member;
use super::shell::Run;
use crate::mailbox::{Ending, Lease, Slot, Take};
use crate::ports::{Caught, Exit, Guarded, Panicked};
use crate::queue::QueueCore;

/// How long a worker runs without letting its thread do anything else.
const SLICE: Duration = Duration::from_millis(1);
/// Reading the clock costs more than a message: it is read once in so many.
const CLOCK_EVERY: u32 = 32;

/// Makes a handler and feeds it until it fails, is asked to stop, or asks to stop.
///
/// Dropping the future at any point gives back what was not settled.
#[allow(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice, and each idle worker these bytes"
)]
pub(super) fn work<H, F, D>(
    member: Arc<Member<H, F, D>>,
    seat: u32,
    run: Rc<Run>,
) -> impl Future<Output = Exit>
where
    H: 'static,
    F: Factory<H>,
    D: Dispatch<H>,
{
    async move {
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
}

/// What a worker holds. An attempt that is cut off may have been the breaker's probe.
pub(super) struct Hands {
    pub(super) lease: Lease<QueueCore>,
    pub(super) scratch: Scratch,
    run: Rc<Run>,
}

impl Hands {
    #[allow(clippy::manual_async_fn, reason = "as above")]
    fn feed<H, D: Dispatch<H>>(
        &mut self,
        queue: &QueueCore,
        dispatch: &D,
        handler: &mut H,
        seat: u32,
    ) -> impl Future<Output = Exit> {
        async move {
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
                        lookout.demand(lease.waits),
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
                        self.lease.waits = false;
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
                    self.lease.started = true;
                    // None: not by the short way, or no handler takes it by its type alone.
                    let mut ended: Option<Ended> = None;
                    if plain {
                        let Some((slot, beside)) = self.lease.in_hand() else {
                            break;
                        };
                        let mut cx = Context {
                            slot,
                            queue,
                            scratch: &mut self.scratch,
                        };
                        let message = Message(slot.parcel());
                        let mut handling =
                            pin!(dispatch.run_typed(&mut *handler, message, &mut cx));
                        // Most handlers never wait: nothing is set up for those that do.
                        let first = handling
                            .as_mut()
                            .poll(&mut std::task::Context::from_waker(&waker));
                        ended = match first {
                            Poll::Ready(typed) => typed.map(Some),
                            Poll::Pending => {
                                let mut deadline = deadline(queue, beside);
                                let mut polled = Some(&waker);
                                let typed = std::future::poll_fn(|cx| {
                                    let handling = handling.as_mut();
                                    poll_in_time(handling, &mut polled, &mut deadline, cx)
                                });
                                match typed.await {
                                    Some(typed) => typed.map(Some),
                                    None => Some(None),
                                }
                            }
                        };
                    }
                    if let Some(Some(Ok(()))) = ended
                        && self.scratch.is_empty()
                    {
                        queue.record(true);
                        if simple {
                            self.lease.settled.acked += 1;
                            if let Some(slot) = self.lease.take() {
                                self.lease.settled.spend(slot);
                            }
                        } else {
                            self.acknowledge(queue);
                        }
                        again = false;
                    } else {
                        let ended = match ended {
                            Some(ended) => ended,
                            None => {
                                let Some((slot, beside)) = self.lease.in_hand() else {
                                    break;
                                };
                                let scratch = &mut self.scratch;
                                observed(queue, dispatch, handler, slot, scratch, beside).await
                            }
                        };
                        self.lease.close_up();
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
    if !queue.may_start(slot) {
        return Some(Ending::Returned);
    }
    let expires = slot.parcel().envelope().expires_ms()?;
    (queue.services.clock.wall_ms() >= expires).then_some(Ending::Expired)
}
