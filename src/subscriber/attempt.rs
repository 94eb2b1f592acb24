use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use tracing::Instrument;

use super::context::{Context, Scratch};
use super::dispatch::{Dispatch, DispatchFailure, Message};
use crate::delivery::{Outcome, Reason};
use crate::mailbox::{Beside, Slot};
use crate::ports::Deadline;
use crate::ports::{Inbound, Interceptor, LocalBoxFuture, Next};
use crate::queue::QueueCore;

/// How one attempt ended, short of a panic; none if it did not finish in time.
pub(super) type Ended = Option<Result<(), DispatchFailure>>;

/// The time that an attempt may take, for one whose handler waits. The wait may be long: what was finished before it is
/// settled, and what is behind it is left to others.
#[cold]
pub(super) fn deadline(queue: &QueueCore, beside: Beside<'_>) -> Option<Deadline> {
    queue.mailbox.settle_waiting(beside);
    let timeout = queue.spec.timeout?;
    Some(Deadline::new(Arc::clone(&queue.services.timers), timeout))
}

/// Polls an attempt whose handler waits; none if it did not finish by the deadline. Once it is passed over, if it was
/// `polled` in this turn: a handler that yields would be asked again before anyone else.
pub(super) fn poll_in_time<T>(
    future: Pin<&mut impl Future<Output = T>>,
    polled: &mut Option<&Waker>,
    deadline: &mut Option<Deadline>,
    cx: &mut std::task::Context<'_>,
) -> Poll<Option<T>> {
    let output = match polled.take() {
        Some(waker) if waker.will_wake(cx.waker()) => Poll::Pending,
        _ => future.poll(cx),
    };
    match (output, deadline) {
        (Poll::Ready(output), _) => Poll::Ready(Some(output)),
        (Poll::Pending, None) => Poll::Pending,
        (Poll::Pending, Some(deadline)) => Pin::new(deadline).poll(cx).map(|()| None),
    }
}

/// Everything but the usual case: interceptors, a span, a message of another Rust type. Boxed, so that the
/// usual case stays small.
pub(super) fn observed<'a, H, D: Dispatch<H>>(
    queue: &'a QueueCore,
    dispatch: &'a D,
    handler: &'a mut H,
    slot: &'a Slot,
    scratch: &'a mut Scratch,
    beside: Beside<'a>,
) -> LocalBoxFuture<'a, Ended> {
    let attempt = slot.attempt();
    let inbound = Inbound {
        message: slot.raw(),
        queue: &queue.name,
        attempt,
    };
    let span = delivery_span(queue, slot, attempt);
    let around = around(inbound, queue, dispatch, handler, slot, scratch).instrument(span);
    Box::pin(async move {
        let mut around = pin!(around);
        let first = std::future::poll_fn(|cx| match around.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => Poll::Ready(Err(cx.waker().clone())),
        });
        let waker = match first.await {
            Ok(output) => return Some(output),
            Err(waker) => waker,
        };
        let mut polled = Some(&waker);
        let mut deadline = deadline(queue, beside);
        std::future::poll_fn(|cx| poll_in_time(around.as_mut(), &mut polled, &mut deadline, cx))
            .await
    })
}

/// Runs the handler once on a message. What it sends is recorded in `scratch`.
async fn invoke<H, D: Dispatch<H>>(
    queue: &QueueCore,
    dispatch: &D,
    handler: &mut H,
    slot: &Slot,
    scratch: &mut Scratch,
) -> Result<(), DispatchFailure> {
    let message = Message(slot.parcel());
    let mut cx = Context {
        slot,
        queue,
        scratch,
    };
    if let Some(result) = dispatch.run_typed(handler, message, &mut cx).await {
        return result;
    }
    match dispatch.select(message) {
        Some(found) => dispatch.run(found.place, handler, message, &mut cx).await,
        None => Err(DispatchFailure::unknown_type(
            slot.parcel().envelope().address(),
        )),
    }
}

/// The handler within its interceptors, the first declared outermost.
async fn around<'a, H, D: Dispatch<H>>(
    inbound: Inbound<'a>,
    queue: &'a QueueCore,
    dispatch: &'a D,
    handler: &'a mut H,
    slot: &'a Slot,
    scratch: &'a mut Scratch,
) -> Result<(), DispatchFailure> {
    // What was wrong besides an error of the handler's; interceptors see only the failure.
    let kind = Rc::new(Cell::new(Reason::Exhausted));
    let found = Rc::clone(&kind);
    let inner: Box<dyn FnOnce() -> LocalBoxFuture<'a, Outcome> + 'a> = Box::new(move || {
        Box::pin(async move {
            invoke(queue, dispatch, handler, slot, scratch)
                .await
                .map_err(|failed| {
                    let (failure, reason) = *failed.0;
                    found.set(reason);
                    failure
                })
        })
    });
    chain(&queue.services.interceptors, inbound, inner)
        .await
        .map_err(|failure| DispatchFailure(Box::new((failure, kind.get()))))
}

fn chain<'a>(
    interceptors: &'a [Arc<dyn Interceptor>],
    inbound: Inbound<'a>,
    inner: Box<dyn FnOnce() -> LocalBoxFuture<'a, Outcome> + 'a>,
) -> LocalBoxFuture<'a, Outcome> {
    match interceptors.split_first() {
        None => inner(),
        Some((first, rest)) => first.handle(
            inbound,
            Next {
                run: Box::new(move || chain(rest, inbound, inner)),
            },
        ),
    }
}

/// Named as the OpenTelemetry semantic conventions for messaging name it.
fn delivery_span(queue: &QueueCore, slot: &Slot, attempt: u32) -> tracing::Span {
    let envelope = slot.parcel().envelope();
    tracing::info_span!(
        "process",
        otel.name = format_args!("process {}", envelope.address()),
        messaging.system = "postroom",
        messaging.operation.r#type = "process",
        messaging.destination.name = envelope.address(),
        messaging.consumer.group.name = &*queue.name,
        messaging.message.id = %envelope.id,
        messaging.message.conversation_id = envelope.correlation_id(),
        postroom.attempt = attempt,
    )
}
