use std::any::Any;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ReplyPort, ReplyRefusal};

/// Where a requester waits for its reply.
pub(crate) struct ReplyCell<R>(Mutex<State<R>>);

struct State<R> {
    answer: Option<Result<R, ReplyRefusal>>,
    waker: Option<Waker>,
    abandoned: bool,
}

impl<R> ReplyCell<R> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State {
            answer: None,
            waker: None,
            abandoned: false,
        }))
    }

    /// False: the requester has gone, the reply is late.
    fn fill(&self, answer: Result<R, ReplyRefusal>) -> bool {
        let waker = {
            let mut state = self.0.lock();
            if state.abandoned {
                return false;
            }
            if state.answer.is_none() {
                state.answer = Some(answer);
            }
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    pub(crate) fn abandon(&self) {
        self.0.lock().abandoned = true;
    }

    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<R, ReplyRefusal>> {
        let mut state = self.0.lock();
        if let Some(answer) = state.answer.take() {
            state.abandoned = true;
            return Poll::Ready(answer);
        }
        match &mut state.waker {
            Some(known) => known.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl<R: DeserializeOwned + Send + 'static> ReplyPort for ReplyCell<R> {
    fn cell(&self) -> &dyn Any {
        self
    }

    fn reply_json(&self, body: &[u8]) -> bool {
        match serde_json::from_slice(body) {
            Ok(reply) => self.fill(Ok(reply)),
            Err(_) => self.fill(Err(ReplyRefusal::Undecodable)),
        }
    }

    #[cfg(any(feature = "amqp", feature = "sqlite", feature = "postgres"))]
    fn is_awaited(&self) -> bool {
        !self.0.lock().abandoned
    }

    fn refuse(&self, why: ReplyRefusal) {
        self.fill(Err(why));
    }
}

/// A reply path that takes only bytes, as over AMQP.
pub(crate) struct EncodedReply(Arc<dyn ReplyPort>);

impl EncodedReply {
    pub(crate) fn port(inner: Arc<dyn ReplyPort>) -> Arc<dyn ReplyPort> {
        Arc::new(Self(inner))
    }
}

impl ReplyPort for EncodedReply {
    fn cell(&self) -> &dyn Any {
        &()
    }

    fn reply_json(&self, body: &[u8]) -> bool {
        self.0.reply_json(body)
    }

    #[cfg(any(feature = "amqp", feature = "sqlite", feature = "postgres"))]
    fn is_awaited(&self) -> bool {
        self.0.is_awaited()
    }

    fn refuse(&self, why: ReplyRefusal) {
        self.0.refuse(why);
    }
}

/// A reply made and not yet sent: it goes out after the handler's releases, with the acknowledgement.
pub(crate) trait Reply {
    /// False: nobody waits any more, or it cannot be encoded.
    fn deliver(self: Box<Self>, port: &dyn ReplyPort) -> bool;
}

pub(crate) struct TypedReply<R>(pub(crate) R);

impl<R: Serialize + Send + 'static> Reply for TypedReply<R> {
    fn deliver(self: Box<Self>, port: &dyn ReplyPort) -> bool {
        if let Some(cell) = port.cell().downcast_ref::<ReplyCell<R>>() {
            return cell.fill(Ok(self.0));
        }
        match serde_json::to_vec(&self.0) {
            Ok(body) => port.reply_json(&body),
            Err(_) => {
                port.refuse(ReplyRefusal::Undecodable);
                false
            }
        }
    }
}
