use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tracing::Instrument;

use super::caught::{Broken, caught};
use super::context::{Context, Scratch};
use super::dispatch::{Dispatch, DispatchFailure, Message};
use crate::delivery::{Failure, Outcome, Reason};
use crate::mailbox::Slot;
use crate::message::RawMessage;
use crate::ports::{Inbound, Interceptor, LocalBoxFuture, Next};
use crate::queue::QueueCore;

/// How one attempt ended.
pub(super) enum Ended {
    Succeeded,
    /// The handler lives on.
    Failed {
        failure: Failure,
        kind: Reason,
    },
    /// The handler must be replaced.
    Broken {
        failure: Failure,
        why: String,
    },
}

/// Runs the handler once on a message. Its releases are recorded in `scratch`.
pub(super) async fn attempt<H, D: Dispatch<H>>(
    queue: &QueueCore,
    dispatch: &D,
    handler: &mut H,
    slot: &Slot,
    scratch: &mut Scratch,
) -> Ended {
    let number = slot.attempts + 1;
    let services = &queue.services;
    let timeout = queue
        .spec
        .timeout
        .map(|timeout| (timeout, &services.timers));
    let cx = Context {
        parcel: &slot.parcel,
        attempt: number,
        queue,
        scratch,
    };
    let result = if services.interceptors.is_empty() && !tracing::enabled!(tracing::Level::INFO) {
        caught(invoke(dispatch, handler, &slot.parcel, cx), timeout).await
    } else {
        let inbound = Inbound {
            message: RawMessage::new(&slot.parcel),
            queue: &queue.name,
            attempt: number,
        };
        let around = around(&services.interceptors, inbound, dispatch, handler, cx);
        let span = delivery_span(queue, slot, number);
        caught(around.instrument(span), timeout).await
    };
    match result {
        Ok(Ok(())) => Ended::Succeeded,
        Ok(Err((failure, kind))) => Ended::Failed { failure, kind },
        Err(Broken::Panicked(text)) => {
            let why = format!("panicked: {text}");
            Ended::Broken {
                failure: Failure::retry(why.clone()),
                why,
            }
        }
        Err(Broken::TimedOut) => {
            let why = format!(
                "did not finish within {:?}",
                queue.spec.timeout.unwrap_or_default()
            );
            Ended::Broken {
                failure: Failure::retry(why.clone()),
                why,
            }
        }
    }
}

async fn invoke<H, D: Dispatch<H>>(
    dispatch: &D,
    handler: &mut H,
    parcel: &crate::message::SharedParcel,
    mut cx: Context<'_>,
) -> Result<(), (Failure, Reason)> {
    let message = Message(parcel);
    let result = match dispatch.select(&message) {
        Some(found) => dispatch.run(found.place, handler, &message, &mut cx).await,
        None => Err(DispatchFailure::UnknownType),
    };
    result.map_err(|failure| match failure {
        DispatchFailure::Handler(failure) => (failure, Reason::Exhausted),
        DispatchFailure::Undecodable(error) => (Failure::from(error), Reason::Undecodable),
        DispatchFailure::UnknownType => {
            let address = parcel.envelope().address();
            (
                Failure::reject(format!("no handler takes `{address}`")),
                Reason::UnknownType,
            )
        }
    })
}

/// The handler within its interceptors, the first declared outermost.
async fn around<'a, H, D: Dispatch<H>>(
    interceptors: &'a [Arc<dyn Interceptor>],
    inbound: Inbound<'a>,
    dispatch: &'a D,
    handler: &'a mut H,
    cx: Context<'a>,
) -> Result<(), (Failure, Reason)> {
    // What was wrong besides an error of the handler's; interceptors see only the failure.
    let kind = Rc::new(Cell::new(Reason::Exhausted));
    let found = Rc::clone(&kind);
    let parcel = cx.parcel;
    let inner: Box<dyn FnOnce() -> LocalBoxFuture<'a, Outcome> + 'a> = Box::new(move || {
        Box::pin(async move {
            invoke(dispatch, handler, parcel, cx)
                .await
                .map_err(|(failure, reason)| {
                    found.set(reason);
                    failure
                })
        })
    });
    chain(interceptors, inbound, inner)
        .await
        .map_err(|failure| (failure, kind.get()))
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
    let envelope = slot.parcel.envelope();
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
