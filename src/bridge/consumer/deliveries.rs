use std::pin::Pin;
use std::task::Poll;

use futures_core::Stream;
use lapin::Consumer;
use lapin::message::Delivery;

use super::explained;

/// The most deliveries taken in at once.
const BATCH: usize = 64;

/// What a consumer waits for.
pub(super) enum Next {
    Deliveries(Vec<Delivery>),
    Ended(String),
    Look,
    Stop,
}

/// At least one delivery, and what else is there already.
pub(super) async fn next_deliveries(consumer: Option<&mut Consumer>) -> Next {
    let Some(consumer) = consumer else {
        return Next::Look;
    };
    let mut deliveries = Vec::new();
    std::future::poll_fn(|cx| {
        while deliveries.len() < BATCH {
            match Pin::new(&mut *consumer).poll_next(cx) {
                Poll::Ready(Some(Ok(delivery))) => deliveries.push(delivery),
                // What came before the end is taken in first; the end is told again.
                Poll::Ready(_) if !deliveries.is_empty() => break,
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Next::Ended(explained(error)));
                }
                Poll::Ready(None) => {
                    let why =
                        "RabbitMQ cancelled the consumer: its queue was deleted, or its node went";
                    return Poll::Ready(Next::Ended(why.to_owned()));
                }
                Poll::Pending if deliveries.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Next::Deliveries(std::mem::take(&mut deliveries)))
    })
    .await
}

/// A delivery that is there already.
pub(super) async fn ready(consumer: &mut Consumer) -> Option<Delivery> {
    std::future::poll_fn(|cx| match Pin::new(&mut *consumer).poll_next(cx) {
        Poll::Ready(Some(Ok(delivery))) => Poll::Ready(Some(delivery)),
        _ => Poll::Ready(None),
    })
    .await
}
