use std::pin::Pin;
use std::task::Poll;

use futures_core::Stream;
use lapin::Consumer;
use lapin::message::Delivery;

use super::explained;

/// The most deliveries taken in at once.
const BATCH: usize = 64;
const CANCELLED: &str = "RabbitMQ cancelled the consumer: its queue was deleted, or its node went";

/// What a consumer waits for.
pub(super) enum Next {
    Deliveries(Vec<Delivery>),
    /// Why, and what came before.
    Ended(String, Vec<Delivery>),
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
        // lapin tells the end of a consumer once.
        let mut ended = None;
        while deliveries.len() < BATCH {
            match Pin::new(&mut *consumer).poll_next(cx) {
                Poll::Ready(Some(Ok(delivery))) => {
                    deliveries.push(delivery);
                    continue;
                }
                Poll::Ready(Some(Err(error))) => ended = Some(explained(error)),
                Poll::Ready(None) => ended = Some(CANCELLED.to_owned()),
                Poll::Pending if deliveries.is_empty() => return Poll::Pending,
                Poll::Pending => {}
            }
            break;
        }
        let deliveries = std::mem::take(&mut deliveries);
        Poll::Ready(match ended {
            Some(why) => Next::Ended(why, deliveries),
            None => Next::Deliveries(deliveries),
        })
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
