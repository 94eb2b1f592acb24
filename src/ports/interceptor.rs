use super::{DeadLetter, LocalBoxFuture};
use crate::delivery::Outcome;
use crate::message::{Envelope, Metadata, RawMessage};

/// Code around every publish and every handling of a bus, in the order in which it was declared.
///
/// The first added to the [`Builder`](crate::Builder::intercept) is the outermost. It sees every message
/// published, sent, requested or released by a handler, once; and every attempt of every delivery. A replay
/// of a dead letter is not published again, only handled.
///
/// A panic in an interceptor is survived: at publish it refuses the message, around a handler it is a
/// failed delivery like the handler's own.
///
/// ```
/// use postroom::{Inbound, Interceptor, LocalBoxFuture, Next, Outbound, Outcome, Refused};
///
/// struct Tenants;
///
/// impl Interceptor for Tenants {
///     fn publish(&self, message: &mut Outbound<'_>) -> Result<(), Refused> {
///         match message.envelope().header("tenant") {
///             Some(_) => Ok(()),
///             None => Err(Refused("a message needs a tenant".to_owned())),
///         }
///     }
///
///     fn handle<'a>(&'a self, delivery: Inbound<'a>, next: Next<'a>) -> LocalBoxFuture<'a, Outcome> {
///         Box::pin(async move {
///             let outcome = next.run().await;
///             println!("{} attempt {}: {}", delivery.queue(), delivery.attempt(), outcome.is_ok());
///             outcome
///         })
///     }
/// }
/// ```
pub trait Interceptor: Send + Sync + 'static {
    /// Sees a message before it is accepted; may add headers, or refuse it.
    ///
    /// # Errors
    /// Whatever it refuses with reaches the publisher, together with the message.
    fn publish(&self, message: &mut Outbound<'_>) -> Result<(), Refused> {
        let _ = message;
        Ok(())
    }

    /// Sees a message when it is accepted: every queue of its address has room or has said what it drops, and
    /// nothing can refuse it any more. Called before a handler of a queue in memory can see the message, and after RabbitMQ
    /// and the store have confirmed what goes there, where a handler may be sooner. On every way in: a
    /// publish, a command, a request, what a handler released, a scheduled message when it is due; an event
    /// that nobody subscribes to is accepted too. Not called for the replay of a dead letter, which was
    /// accepted before.
    ///
    /// A panic in it is logged, and changes nothing.
    fn accepted(&self, message: RawMessage<'_>) {
        let _ = message;
    }

    /// Runs around a handler. `next.run()` runs what is inside; not to call it skips the handler, and the
    /// returned outcome then counts as the delivery's.
    fn handle<'a>(&'a self, delivery: Inbound<'a>, next: Next<'a>) -> LocalBoxFuture<'a, Outcome> {
        let _ = delivery;
        next.run()
    }

    /// Sees how an attempt ended, before its message is settled: for recorders and metrics. Not called for an attempt that
    /// a stop or a sibling's restart cut off, which does not count.
    ///
    /// A panic in it is logged, and changes nothing.
    fn finished(&self, attempt: Finished<'_>) {
        let _ = attempt;
    }

    /// Sees a dead letter when it has been stored. A panic in it is logged, and changes nothing.
    fn dead_lettered(&self, letter: &DeadLetter) {
        let _ = letter;
    }
}

/// Why an interceptor refuses a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

/// A message on its way into the broker.
pub struct Outbound<'a> {
    pub(crate) envelope: &'a mut Envelope,
}

impl Outbound<'_> {
    /// The envelope as it stands.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        self.envelope
    }

    /// Adds a header; the first one of a name is the one that [`Envelope::header`] finds.
    pub fn header(&mut self, name: &str, value: &str) {
        self.metadata().headers.push((name.into(), value.into()));
    }

    /// Sets the W3C trace context.
    pub fn traceparent(&mut self, traceparent: &str) {
        self.metadata().traceparent = Some(traceparent.into());
    }

    fn metadata(&mut self) -> &mut Metadata {
        self.envelope.metadata.get_or_insert_default()
    }
}

/// A delivery as an interceptor sees it.
#[derive(Clone, Copy, Debug)]
pub struct Inbound<'a> {
    pub(crate) message: RawMessage<'a>,
    pub(crate) queue: &'a str,
    pub(crate) attempt: u32,
}

impl<'a> Inbound<'a> {
    /// The message.
    #[must_use]
    pub fn message(&self) -> RawMessage<'a> {
        self.message
    }

    /// The queue that it is handed over from.
    #[must_use]
    pub fn queue(&self) -> &'a str {
        self.queue
    }

    /// 1 for the first attempt.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

/// An attempt that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a> {
    pub(crate) delivery: Inbound<'a>,
    pub(crate) error: Option<&'a str>,
}

impl<'a> Finished<'a> {
    /// What was handled, of which queue, and which attempt it was.
    #[must_use]
    pub fn delivery(&self) -> Inbound<'a> {
        self.delivery
    }

    /// Why it failed; none: it succeeded.
    #[must_use]
    pub fn error(&self) -> Option<&'a str> {
        self.error
    }
}

/// What an interceptor wraps: the next interceptor, and at the end the handler.
pub struct Next<'a> {
    pub(crate) run: Box<dyn FnOnce() -> LocalBoxFuture<'a, Outcome> + 'a>,
}

impl<'a> Next<'a> {
    /// Runs the rest of the chain.
    #[must_use]
    pub fn run(self) -> LocalBoxFuture<'a, Outcome> {
        (self.run)()
    }
}

impl std::fmt::Debug for Outbound<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbound")
            .field("envelope", &self.envelope)
            .finish()
    }
}

impl std::fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}
