use std::sync::Arc;
use std::time::Duration;

use super::request::HandlerRequest;
use crate::mailbox::Slot;
use crate::message::{
    Address, AddressKind, Command, CorrelationId, Envelope, Event, MessageId, Metadata, Name,
    Reply, parcel,
};
use crate::ports::{Draft, drop_caught};
use crate::queue::QueueCore;

/// What a handler leaves behind for its worker.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) drafts: Vec<Draft>,
    pub(crate) reply: Option<Box<dyn Reply>>,
    /// What few handlers need: a worker's loop, which every idle subscriber holds, stays small.
    seldom: Option<Box<Seldom>>,
}

#[derive(Default)]
struct Seldom {
    stop: bool,
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    inbox: super::inbox::Inbox,
}

impl Scratch {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.drafts.is_empty() && self.reply.is_none() && !self.has_seldom()
    }

    /// A failed attempt leaves nothing.
    pub(crate) fn clear(&mut self) {
        drop_caught("a message", self.drafts.drain(..));
        drop_caught("a reply", self.reply.take());
        if let Some(seldom) = &mut self.seldom {
            seldom.stop = false;
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            seldom.inbox.give_up();
        }
    }

    #[inline]
    fn has_seldom(&self) -> bool {
        match &self.seldom {
            None => false,
            Some(seldom) => seldom.is_in_use(),
        }
    }

    /// Whether the handler asked its worker to end; asked once.
    pub(crate) fn take_stop(&mut self) -> bool {
        let seldom = self.seldom.as_mut();
        seldom.is_some_and(|seldom| std::mem::take(&mut seldom.stop))
    }

    /// Of a worker that handles in transactions.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) fn inbox(&mut self) -> Option<&mut super::inbox::Inbox> {
        self.seldom.as_mut().map(|seldom| &mut seldom.inbox)
    }

    /// The same, made where there is none yet.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) fn make_inbox(&mut self) -> &mut super::inbox::Inbox {
        &mut self.seldom.get_or_insert_default().inbox
    }
}

impl Seldom {
    fn is_in_use(&self) -> bool {
        #[cfg(any(feature = "sqlite", feature = "postgres"))]
        if self.inbox.is_open() {
            return true;
        }
        self.stop
    }
}

/// The delivery in hand, and what the handler may do besides handling it.
///
/// Messages sent here are recorded, and released in order only when the handler has succeeded, before the
/// delivery is acknowledged (contract, rule 9). A failed attempt sends nothing. They carry on the correlation
/// id and the trace context of the message in hand, and its id as their causation.
///
/// A release that meets a full mailbox waits, and holds the worker, up to the bus's `release_timeout`; then
/// the attempt has failed, and what had been released by then may be sent again.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct OrderPaid { order: u64 }
/// # impl Event for OrderPaid { const TOPIC: &'static str = "ordering.order-paid"; }
/// # #[derive(Serialize, Deserialize)] struct ReceiptSent { order: u64 }
/// # impl Event for ReceiptSent { const TOPIC: &'static str = "mailer.receipt-sent"; }
/// use postroom::{Context, Event, Outcome, Subscriber};
///
/// struct Mailer;
/// impl Subscriber<OrderPaid> for Mailer {
///     async fn handle(&mut self, paid: &OrderPaid, cx: &mut Context<'_>) -> Outcome {
///         let order = paid.order;
///         cx.publish(ReceiptSent { order }).key(order);
///         if cx.attempt() > 1 {
///             println!("message {} again", cx.id());
///         }
///         Ok(()) // only now, and before the acknowledgement, the receipt is published
///     }
/// }
/// ```
pub struct Context<'a> {
    pub(crate) slot: &'a Slot,
    pub(crate) queue: &'a QueueCore,
    pub(crate) scratch: &'a mut Scratch,
}

impl<'a> Context<'a> {
    /// The message's id, the same over all of its attempts.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.slot.parcel().envelope().id
    }

    /// The message's envelope.
    #[must_use]
    pub fn envelope(&self) -> &'a Envelope {
        self.slot.parcel().envelope()
    }

    /// Which attempt this is; 1 for the first. Attempts cut off by a stop or a sibling's restart do not count.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.slot.attempt()
    }

    /// The name of the subscriber's queue.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.queue.name
    }

    /// Records an event, to be published if this handler succeeds. Never waits and never fails: what is wrong
    /// with it fails the attempt at its release.
    pub fn publish<E: Event>(&mut self, event: E) -> Sending<'_> {
        let key = event.key().map(Arc::from);
        self.record(AddressKind::Topic, E::TOPIC, key, event)
    }

    /// Records a command, to be sent if this handler succeeds; as [`publish`](Self::publish). A queue that does
    /// not exist fails the attempt.
    pub fn send<C: Command>(&mut self, command: C) -> Sending<'_> {
        let key = command.key().map(Arc::from);
        self.record(AddressKind::Queue, C::QUEUE, key, command)
    }

    /// Asks this worker to end normally after this message. Its restart type decides what follows.
    pub fn stop(&mut self) {
        self.scratch.seldom.get_or_insert_default().stop = true;
    }

    /// Sends a command at once and waits for its reply, for room and for the reply together no longer than its
    /// [timeout](HandlerRequest::timeout). Options are chained before it is awaited, see [`HandlerRequest`].
    ///
    /// This is outside of rule 9: the command is not undone when the handler fails later.
    ///
    /// # Errors
    /// See [`RequestError`](crate::RequestError).
    ///
    /// # Cancel safety
    /// Dropped after the command was accepted, the command is handled and its reply counted as late.
    pub fn request<C: Command>(&self, command: C) -> HandlerRequest<'a, C> {
        let envelope = self.follows(AddressKind::Queue, C::QUEUE, command.key().map(Arc::from));
        HandlerRequest::new(self.queue, envelope, command)
    }

    fn record<M>(
        &mut self,
        kind: AddressKind,
        address: &'static str,
        key: Option<Arc<str>>,
        body: M,
    ) -> Sending<'_>
    where
        M: serde::Serialize + Send + Sync + 'static,
    {
        let envelope = self.follows(kind, address, key);
        let drafts = &mut self.scratch.drafts;
        drafts.push(Draft {
            parcel: parcel(envelope, body),
            delay: None,
            checked: false,
        });
        let last = drafts.len() - 1;
        Sending {
            draft: &mut drafts[last],
        }
    }

    /// The envelope of what follows from the message in hand, and belongs to its conversation.
    fn follows(&self, kind: AddressKind, address: &'static str, key: Option<Arc<str>>) -> Envelope {
        let envelope = self.envelope();
        let known = envelope.metadata.as_ref();
        let metadata = Metadata {
            key,
            correlation: Some(
                known
                    .and_then(|metadata| metadata.correlation.clone())
                    .unwrap_or(CorrelationId::Message(envelope.id)),
            ),
            causation: Some(envelope.id),
            traceparent: known.and_then(|metadata| metadata.traceparent.clone()),
            ..Metadata::default()
        };
        Envelope {
            id: self.queue.services.clock.new_id(),
            address: Address {
                kind,
                name: Name::Static(address),
            },
            metadata: Some(Box::new(metadata)),
        }
    }
}

/// A recorded message, to which options can be added. Dropping it changes nothing: it is recorded.
pub struct Sending<'a> {
    draft: &'a mut Draft,
}

impl Sending<'_> {
    /// The id that the message will have.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.draft.parcel.envelope().id
    }

    /// The ordering key, for keyed subscribers. Default: the message's own, [`Event::key`] or [`Command::key`].
    #[expect(
        clippy::return_self_not_must_use,
        reason = "the message is recorded already"
    )]
    pub fn key(self, key: impl ToString) -> Self {
        self.change(|metadata| metadata.key = Some(key.to_string().into()))
    }

    /// Adds a header.
    #[expect(
        clippy::return_self_not_must_use,
        reason = "the message is recorded already"
    )]
    pub fn header(self, name: &str, value: &str) -> Self {
        self.change(|metadata| metadata.headers.push((name.into(), value.into())))
    }

    /// Publishes only after `delay`, counted from the release.
    #[expect(
        clippy::return_self_not_must_use,
        reason = "the message is recorded already"
    )]
    pub fn delay(self, delay: Duration) -> Self {
        self.draft.delay = Some(delay).filter(|delay| !delay.is_zero());
        self
    }

    /// The message is not handed over later than this after now.
    #[expect(
        clippy::return_self_not_must_use,
        reason = "the message is recorded already"
    )]
    pub fn expires_in(self, time: Duration) -> Self {
        let now = self.draft.parcel.envelope().id.millis();
        self.change(|metadata| metadata.expire_in(now, time))
    }

    fn change(self, change: impl FnOnce(&mut Metadata)) -> Self {
        // Not shared with anyone until it is released.
        if let Some(parcel) = Arc::get_mut(&mut self.draft.parcel) {
            change(parcel.envelope_mut().metadata.get_or_insert_default());
        }
        self
    }
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("queue", &self.queue())
            .field("id", &self.id())
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Sending<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sending")
            .field("envelope", self.draft.parcel.envelope())
            .finish_non_exhaustive()
    }
}
