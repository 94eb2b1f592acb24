use std::pin::Pin;
use std::task::Poll;

use super::context::Context;
use crate::delivery::{Failure, Outcome, Reason};
use crate::message::{CodecError, Parcel};

/// Why a delivery did not succeed: the handler said so, or its body could not be read.
pub struct DispatchFailure(pub(crate) Box<(Failure, Reason)>);

impl DispatchFailure {
    pub(super) fn handler(failure: Failure) -> Self {
        Self(Box::new((failure, Reason::Exhausted)))
    }

    pub(super) fn undecodable(error: CodecError) -> Self {
        Self(Box::new((Failure::from(error), Reason::Undecodable)))
    }

    pub(crate) fn unknown_type(address: &str) -> Self {
        let failure = Failure::reject(format!("no handler takes `{address}`"));
        Self(Box::new((failure, Reason::UnknownType)))
    }
}

/// Which handler of a subscriber takes a message.
///
/// Built by the subscriber builder as a chain of types, so that the handler's future is run in place,
/// without a box, however many types one subscriber handles.
pub trait Dispatch<H>: Send + Sync + 'static {
    /// Whether any of its handlers is transactional. Known when it is compiled: others do not pay for it.
    #[doc(hidden)]
    const TRANSACTIONAL: bool;

    /// Runs the handler of the message's own Rust type, the usual case. None: there is no such handler.
    ///
    /// A plain combinator around the user's future and not an `async fn`: each of those would copy its
    /// arguments once more at every message.
    #[doc(hidden)]
    fn run_typed<'a>(
        &'a self,
        handler: &'a mut H,
        message: Message<'a>,
        cx: &'a mut Context<'_>,
    ) -> impl Future<Output = Option<Result<(), DispatchFailure>>>;

    /// The place in the chain of the handler that takes the message by its address: an exact one before a
    /// pattern.
    #[doc(hidden)]
    fn select(&self, message: Message<'_>) -> Option<Selected>;

    /// Runs the handler at a place in the chain, on a decoded message.
    #[doc(hidden)]
    fn run(
        &self,
        place: usize,
        handler: &mut H,
        message: Message<'_>,
        cx: &mut Context<'_>,
    ) -> impl Future<Output = Result<(), DispatchFailure>>;

    /// The place in the chain of the handler of the message's own Rust type.
    #[doc(hidden)]
    fn typed_place(&self, message: Message<'_>) -> Option<usize>;

    /// How the handler at a place in the chain gets its transaction; none: it has none.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    #[doc(hidden)]
    fn transactor_at(&self, place: usize) -> Option<super::inbox::Transactor>;
}

pin_project_lite::pin_project! {
    /// The handler at the head of a chain, or the rest of it.
    #[project = EitherPinned]
    enum Either<Head, Rest> {
        Head { #[pin] future: Head },
        Rest { #[pin] future: Rest },
    }
}

impl<Head, Rest> Future for Either<Head, Rest>
where
    Head: Future,
    Head::Output: IntoDispatched,
    Rest: Future<Output = Option<Result<(), DispatchFailure>>>,
{
    type Output = Option<Result<(), DispatchFailure>>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            EitherPinned::Head { future } => {
                future.poll(cx).map(|output| Some(output.into_dispatched()))
            }
            EitherPinned::Rest { future } => future.poll(cx),
        }
    }
}

/// What the head of a chain ends with.
pub trait IntoDispatched {
    #[doc(hidden)]
    fn into_dispatched(self) -> Result<(), DispatchFailure>;
}

impl IntoDispatched for Outcome {
    #[inline]
    fn into_dispatched(self) -> Result<(), DispatchFailure> {
        self.map_err(DispatchFailure::handler)
    }
}

impl IntoDispatched for Result<(), DispatchFailure> {
    fn into_dispatched(self) -> Result<(), DispatchFailure> {
        self
    }
}

/// A message as the chain sees it.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Message<'a>(pub(crate) &'a Parcel);

/// A handler found by [`Dispatch::select`].
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Selected {
    pub(crate) place: usize,
    pub(crate) exact: bool,
}

/// The end of a chain.
#[doc(hidden)]
pub struct Empty;

/// One more handler before the rest of the chain.
#[doc(hidden)]
pub struct Chain<First, Rest> {
    pub(crate) first: First,
    pub(crate) rest: Rest,
}

impl<H: 'static> Dispatch<H> for Empty {
    const TRANSACTIONAL: bool = false;

    #[inline]
    fn run_typed<'a>(
        &'a self,
        _: &'a mut H,
        _: Message<'a>,
        _: &'a mut Context<'_>,
    ) -> impl Future<Output = Option<Result<(), DispatchFailure>>> {
        std::future::ready(None)
    }

    fn select(&self, _: Message<'_>) -> Option<Selected> {
        None
    }

    async fn run(
        &self,
        _: usize,
        _: &mut H,
        _: Message<'_>,
        _: &mut Context<'_>,
    ) -> Result<(), DispatchFailure> {
        Err(DispatchFailure::unknown_type(""))
    }

    fn typed_place(&self, _: Message<'_>) -> Option<usize> {
        None
    }

    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    fn transactor_at(&self, _: usize) -> Option<super::inbox::Transactor> {
        None
    }
}

/// Picks between the handler at the head of a chain and what the rest of it found.
fn prefer(head: Option<bool>, rest: impl FnOnce() -> Option<Selected>) -> Option<Selected> {
    if head == Some(true) {
        return Some(Selected {
            place: 0,
            exact: true,
        });
    }
    let rest = rest().map(|found| Selected {
        place: found.place + 1,
        ..found
    });
    match (head, rest) {
        (Some(_), Some(rest)) if rest.exact => Some(rest),
        (Some(_), _) => Some(Selected {
            place: 0,
            exact: false,
        }),
        (None, rest) => rest,
    }
}

/// One handler of a chain.
pub trait Link<H>: Send + Sync + 'static {
    /// Whether it is transactional.
    #[doc(hidden)]
    const TRANSACTIONAL: bool;

    /// The type whose own values it handles.
    #[doc(hidden)]
    type Body: 'static;

    /// The message's body, if it is a value of that type.
    #[doc(hidden)]
    #[inline]
    fn own<'a>(&self, message: Message<'a>) -> Option<&'a Self::Body> {
        message.0.body_as()
    }

    /// Whether it takes the message by its address, and if so, by its exact one.
    #[doc(hidden)]
    fn claims(&self, message: Message<'_>) -> Option<bool>;

    /// Handles a value of its type. A plain combinator too: see [`Dispatch::run_typed`].
    #[doc(hidden)]
    fn handle<'a>(
        &'a self,
        handler: &'a mut H,
        body: &'a Self::Body,
        message: Message<'a>,
        cx: &'a mut Context<'_>,
    ) -> impl Future<Output: IntoDispatched>;

    /// Decodes the message and handles it.
    #[doc(hidden)]
    fn decode(
        &self,
        handler: &mut H,
        message: Message<'_>,
        cx: &mut Context<'_>,
    ) -> impl Future<Output = Result<(), DispatchFailure>>;

    /// How it gets its transaction; none: it has none.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    #[doc(hidden)]
    fn transactor(&self) -> Option<super::inbox::Transactor> {
        None
    }
}

impl<H, First: Link<H>, Rest: Dispatch<H>> Dispatch<H> for Chain<First, Rest> {
    const TRANSACTIONAL: bool = First::TRANSACTIONAL || Rest::TRANSACTIONAL;

    #[inline]
    fn run_typed<'a>(
        &'a self,
        handler: &'a mut H,
        message: Message<'a>,
        cx: &'a mut Context<'_>,
    ) -> impl Future<Output = Option<Result<(), DispatchFailure>>> {
        match self.first.own(message) {
            Some(body) => Either::Head {
                future: self.first.handle(handler, body, message, cx),
            },
            None => Either::Rest {
                future: self.rest.run_typed(handler, message, cx),
            },
        }
    }

    fn select(&self, message: Message<'_>) -> Option<Selected> {
        prefer(self.first.claims(message), || self.rest.select(message))
    }

    async fn run(
        &self,
        place: usize,
        handler: &mut H,
        message: Message<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), DispatchFailure> {
        match place {
            0 => self.first.decode(handler, message, cx).await,
            place => self.rest.run(place - 1, handler, message, cx).await,
        }
    }

    fn typed_place(&self, message: Message<'_>) -> Option<usize> {
        match self.first.own(message) {
            Some(_) => Some(0),
            None => self.rest.typed_place(message).map(|place| place + 1),
        }
    }

    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    fn transactor_at(&self, place: usize) -> Option<super::inbox::Transactor> {
        match place {
            0 => self.first.transactor(),
            place => self.rest.transactor_at(place - 1),
        }
    }
}
