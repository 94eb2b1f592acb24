//! An existing actix actor as a subscriber: its answer acknowledges, under the same rules.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::common::{Log, bus, bus_at_rest, dead_letters, end, eventually, queue};
use actix::{Actor, ActorContext, ResponseFuture};
use postroom::{Bus, Delivery, Event, Failure, Outcome, Reason, Retry};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Debug, Serialize, Deserialize)]
struct Click(u64);
impl Event for Click {
    const TOPIC: &'static str = "actix.click";
}

const SECOND: Duration = Duration::from_secs(1);

/// A user's own actor, which keeps a count as its state.
struct Counter {
    count: u64,
    log: Log<(u64, u32, u64)>,
}

impl Actor for Counter {
    type Context = actix::Context<Self>;
}

impl actix::Handler<Delivery<Click>> for Counter {
    type Result = Outcome;

    fn handle(&mut self, click: Delivery<Click>, ctx: &mut Self::Context) -> Outcome {
        self.count += 1;
        self.log.push((click.0, click.attempt(), self.count));
        match (click.0, click.attempt()) {
            (1, 1) => Err(Failure::retry("not yet")),
            (2, _) => Err(Failure::reject("never")),
            (3, 1) => panic!("planned"),
            (4, 1) => {
                ctx.stop();
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

struct Started {
    log: Log<(u64, u32, u64)>,
    actors: Arc<AtomicU32>,
}

async fn start(bus: &Bus, retry: Retry) -> Started {
    let (log, actors) = (Log::new(), Arc::new(AtomicU32::new(0)));
    let (kept, counted) = (log.clone(), Arc::clone(&actors));
    let make = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Counter {
            count: 0,
            log: kept.clone(),
        }
        .start()
    };
    let clicks = bus.subscribe_actor::<Click, Counter, _>("clicks", make);
    clicks.retry(retry).start().await.unwrap();
    Started { log, actors }
}

#[tokio::test]
async fn its_answer_acknowledges() {
    let bus = bus().await;
    let retry = Retry::fixed(Duration::ZERO).attempts(3).immediate(2);
    let started = start(&bus, retry).await;
    bus.publish_all((0..3).map(Click)).await.unwrap();
    // A message of another Rust type is decoded for it.
    bus.publish_raw(Click::TOPIC, json!(9)).await.unwrap();
    end(&bus).await;
    assert_eq!(
        started.log.all(),
        [(0, 1, 1), (1, 1, 2), (1, 2, 3), (2, 1, 4), (9, 1, 5)]
    );
    assert_eq!(
        started.actors.load(Ordering::SeqCst),
        1,
        "its state lives on"
    );
    let books = queue(&bus, "clicks");
    assert_eq!((books.acked, books.dead_lettered, books.retried), (3, 1, 1));
    let letter = dead_letters(&bus).await.remove(0);
    assert_eq!(
        (letter.reason, &*letter.errors[0]),
        (Reason::Rejected, "never")
    );
}

#[tokio::test]
async fn one_that_panics_is_replaced_and_the_message_tried_again() {
    let bus = bus().await;
    let retry = Retry::fixed(Duration::ZERO).attempts(2).immediate(1);
    let started = start(&bus, retry).await;
    bus.publish_all([Click(0), Click(3), Click(5)])
        .await
        .unwrap();
    end(&bus).await;
    assert_eq!(
        started.log.all(),
        [(0, 1, 1), (3, 1, 2), (3, 2, 1), (5, 1, 2)]
    );
    assert_eq!(started.actors.load(Ordering::SeqCst), 2);
    assert_eq!(queue(&bus, "clicks").acked, 3);
}

#[tokio::test]
async fn one_that_has_stopped_is_replaced_without_an_attempt() {
    let bus = bus().await;
    let started = start(&bus, Retry::none()).await;
    bus.publish(Click(4)).await.unwrap();
    eventually("stopped", || started.log.len() == 1).await;
    bus.settle().await;
    bus.publish(Click(5)).await.unwrap();
    end(&bus).await;
    assert_eq!(started.log.all(), [(4, 1, 1), (5, 1, 1)]);
    assert_eq!(started.actors.load(Ordering::SeqCst), 2);
    assert!(bus.dead_letters().is_empty().await.unwrap());
}

/// An actor whose first delivery never ends.
struct Stuck(Arc<AtomicU32>);

impl Actor for Stuck {
    type Context = actix::Context<Self>;
}

impl actix::Handler<Delivery<Click>> for Stuck {
    type Result = ResponseFuture<Outcome>;

    fn handle(&mut self, _: Delivery<Click>, _: &mut Self::Context) -> Self::Result {
        let first = self.0.fetch_add(1, Ordering::SeqCst) == 0;
        Box::pin(async move {
            if first {
                std::future::pending::<()>().await;
            }
            Ok(())
        })
    }
}

#[tokio::test]
async fn one_that_does_not_answer_in_time_is_replaced() {
    let (bus, clock) = bus_at_rest().await;
    let (handled, actors) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (count, counted) = (Arc::clone(&handled), Arc::clone(&actors));
    let make = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Stuck(Arc::clone(&count)).start()
    };
    bus.subscribe_actor::<Click, Stuck, _>("stuck", make)
        .timeout(SECOND)
        .retry(Retry::fixed(SECOND).attempts(2))
        .start()
        .await
        .unwrap();
    bus.publish(Click(0)).await.unwrap();
    // Step by step: moved while the second attempt is under way, the clock would end that one too.
    eventually("the first is asked", || handled.load(Ordering::SeqCst) == 1).await;
    clock.advance(SECOND);
    eventually("it waits for its retry", || {
        queue(&bus, "stuck").waiting == 1
    })
    .await;
    clock.advance(SECOND);
    eventually("handled", || queue(&bus, "stuck").acked == 1).await;
    end(&bus).await;
    assert_eq!(
        (
            handled.load(Ordering::SeqCst),
            actors.load(Ordering::SeqCst)
        ),
        (2, 2)
    );
}

#[tokio::test]
async fn several_workers_have_an_actor_each() {
    let bus = bus().await;
    let (log, actors) = (Log::new(), Arc::new(AtomicU32::new(0)));
    let (kept, counted) = (log.clone(), Arc::clone(&actors));
    let make = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Counter {
            count: 0,
            log: kept.clone(),
        }
        .start()
    };
    bus.subscribe_actor::<Click, Counter, _>("clicks", make)
        .workers(3)
        .start()
        .await
        .unwrap();
    bus.publish_all((10..40).map(Click)).await.unwrap();
    end(&bus).await;
    assert_eq!(actors.load(Ordering::SeqCst), 3);
    let mut clicks: Vec<_> = log.all().iter().map(|entry| entry.0).collect();
    clicks.sort_unstable();
    assert_eq!(clicks, (10..40).collect::<Vec<_>>());
}
