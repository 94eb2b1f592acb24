//! A publish tells the truth: all or nothing, receipts, waiting in line (contract, rule 1).

use std::time::Duration;

use crate::common::{
    Door, Log, Oracle, PATIENCE, bus, bus_at_rest, check_books, end, eventually, poll_once, queue,
    soon,
};
use postroom::{
    Bridged, Bus, Command, Context, Event, Failure, MessageId, Overflow, Refusal, Retry, Threads,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Tick(u64);
impl Event for Tick {
    const TOPIC: &'static str = "publishing.tick";
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Tock(u64);
impl Event for Tock {
    const TOPIC: &'static str = "publishing.tock";
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Work(u64);
impl Command for Work {
    const QUEUE: &'static str = "publishing.work";
    type Reply = ();
}

/// Handles ticks with what the log keeps.
async fn logging(bus: &Bus, name: &str, mailbox: usize) -> (postroom::Subscription, Log<u64>) {
    let log = Log::new();
    let seen = log.clone();
    let subscription = bus
        .subscribe_fn::<Tick, _>(name, async move |tick: &Tick, _: &mut Context<'_>| {
            seen.push(tick.0);
            Ok(())
        })
        .mailbox(mailbox)
        .start()
        .await
        .unwrap();
    (subscription, log)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_publishers_over_three_small_queues_lose_and_double_nothing() {
    const PUBLISHERS: u64 = 8;
    const EACH: u64 = 400;
    let bus = Bus::builder("test").threads(Threads::Own(2));
    let bus = bus.start().await.unwrap();
    let oracle = Oracle::default();
    let queues = ["one", "two", "three"];
    for (name, depth) in queues.into_iter().zip([3, 1, 8]) {
        let oracle = oracle.clone();
        bus.subscribe_fn::<Tick, _>(name, async move |tick: &Tick, cx: &mut Context<'_>| {
            if tick.0.is_multiple_of(7) {
                tokio::task::yield_now().await;
            }
            oracle.handle(cx.queue(), tick.0);
            Ok(())
        })
        .mailbox(depth)
        .start()
        .await
        .unwrap();
    }
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let (bus, oracle) = (bus.clone(), oracle.clone());
            tokio::spawn(async move {
                for number in 0..EACH {
                    let id = publisher * EACH + number;
                    oracle.attempt(id);
                    let accepted = match fastrand::u32(..5) {
                        // The message comes back when one of the queues is full.
                        0 => match bus.try_publish(Tick(id)) {
                            Ok(receipt) => Some(receipt),
                            Err(error) => {
                                assert!(matches!(error.kind(), Refusal::Full { .. }), "{error:?}");
                                assert_eq!(error.into_message(), Some(Tick(id)));
                                None
                            }
                        },
                        // Dropped midway: then nothing was published.
                        1 | 2 => {
                            let wait = Duration::from_micros(fastrand::u64(..300));
                            let publish = bus.publish(Tick(id));
                            match tokio::time::timeout(wait, publish).await {
                                Ok(accepted) => Some(accepted.unwrap()),
                                Err(_) => None,
                            }
                        }
                        // Given up at its own deadline.
                        3 => {
                            let wait = Duration::from_micros(fastrand::u64(..300));
                            match bus.publish(Tick(id)).key(id % 5).timeout(wait).await {
                                Ok(receipt) => Some(receipt),
                                Err(error) => {
                                    assert!(matches!(error.kind(), Refusal::Timeout { .. }));
                                    assert_eq!(error.into_message(), Some(Tick(id)));
                                    None
                                }
                            }
                        }
                        _ => Some(bus.publish(Tick(id)).await.unwrap()),
                    };
                    if let Some(receipt) = accepted {
                        assert_eq!((receipt.local.accepted, receipt.local.dropped), (3, 0));
                        oracle.accept(id);
                    }
                }
            })
        })
        .collect();
    for publisher in publishers {
        soon("a publisher", publisher).await.unwrap();
    }
    end(&bus).await;
    let verdict = oracle.check(&queues);
    assert_eq!(verdict.attempted as u64, PUBLISHERS * EACH);
    for name in queues {
        let queue = queue(&bus, name);
        assert_eq!(queue.accepted, verdict.accepted as u64);
        assert_eq!(queue.acked, verdict.accepted as u64);
    }
}

#[tokio::test]
async fn a_message_has_the_id_that_it_was_given() {
    let bus = bus().await;
    let ids = Log::new();
    let seen = ids.clone();
    let ticks = bus.subscribe_fn::<Tick, _>("ids", async move |_: &Tick, cx: &mut Context<'_>| {
        seen.push((cx.id(), cx.envelope().correlation_id()));
        Ok(())
    });
    let ticks = ticks.mailbox(1).start().await.unwrap();
    let id = MessageId::new();
    // One that finds room, one that waits for it, and one that is refused first.
    ticks.pause();
    assert_eq!(bus.publish(Tick(1)).id(id).await.unwrap().id, id);
    let refused = bus.publish(Tick(1)).id(id).try_now().unwrap_err();
    assert!(refused.kind().is_transient() && !refused.kind().may_have_happened());
    let waits = bus.publish(Tick(1)).id(id);
    let (waited, ()) = tokio::join!(waits, ticks.resume());
    assert_eq!(waited.unwrap().id, id);
    let tick = refused.into_message().unwrap();
    assert_eq!(bus.publish(tick).id(id).await.unwrap().id, id);
    end(&bus).await;
    // A conversation of its own, under its id.
    assert_eq!(ids.all(), vec![(id, id.to_string()); 3]);
}

#[tokio::test]
async fn a_receipt_says_how_many_queues_took_it() {
    let bus = bus().await;
    let receipt = bus.publish(Tick(0)).await.unwrap();
    assert_eq!((receipt.local.accepted, receipt.local.dropped), (0, 0));
    let (_, first) = logging(&bus, "first", 8).await;
    let (_, second) = logging(&bus, "second", 8).await;
    let ids = Log::new();
    let seen = ids.clone();
    bus.subscribe_fn::<Tick, _>("ids", async move |_: &Tick, cx: &mut Context<'_>| {
        seen.push((cx.id(), cx.envelope().correlation_id()));
        Ok(())
    })
    .start()
    .await
    .unwrap();
    let receipt = bus.publish(Tick(1)).correlation("order 7").await.unwrap();
    assert_eq!((receipt.local.accepted, receipt.local.dropped), (3, 0));
    assert_eq!(receipt.bridged, Bridged::NotExported);
    assert!(receipt.schedule.is_none());
    end(&bus).await;
    assert_eq!((first.all(), second.all()), (vec![1], vec![1]));
    assert_eq!(ids.all(), [(receipt.id, "order 7".to_owned())]);
}

#[tokio::test]
async fn a_full_queue_stops_the_publish_at_all_of_them() {
    let bus = bus().await;
    let (_, free) = logging(&bus, "free", 8).await;
    let (full, _) = logging(&bus, "full", 1).await;
    full.pause();
    bus.publish(Tick(0)).await.unwrap();
    let error = bus.try_publish(Tick(1)).unwrap_err();
    assert_eq!(
        *error.kind(),
        Refusal::Full {
            queue: "full".into()
        }
    );
    assert_eq!(error.into_message(), Some(Tick(1)));
    let mut waiting = bus.publish(Tick(2));
    assert!(poll_once(&mut waiting).is_pending());
    bus.settle().await;
    assert_eq!(queue(&bus, "free").accepted, 1, "nothing of the others");
    full.resume().await;
    assert_eq!(
        soon("the publish", waiting).await.unwrap().local.accepted,
        2
    );
    end(&bus).await;
    assert_eq!(free.all(), [0, 2]);
}

#[tokio::test]
async fn waiting_publishers_are_served_in_order() {
    let bus = bus().await;
    let (subscription, log) = logging(&bus, "narrow", 1).await;
    subscription.pause();
    bus.publish(Tick(0)).await.unwrap();
    let publishers: Vec<_> = (1..20)
        .map(|id| {
            let bus = bus.clone();
            // On this one thread they are polled first in the order in which they are made.
            tokio::spawn(async move { bus.publish(Tick(id)).await.map(|_| ()) })
        })
        .collect();
    tokio::task::yield_now().await;
    assert!(publishers.iter().all(|publisher| !publisher.is_finished()));
    subscription.resume().await;
    for publisher in publishers {
        soon("a publisher", publisher).await.unwrap().unwrap();
    }
    end(&bus).await;
    assert_eq!(log.all(), (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_newcomer_does_not_overtake_those_who_wait() {
    let bus = bus().await;
    let (subscription, log) = logging(&bus, "narrow", 1).await;
    subscription.pause();
    bus.publish(Tick(0)).await.unwrap();
    let mut first = bus.publish(Tick(1));
    assert!(poll_once(&mut first).is_pending());
    let mut second = bus.publish(Tick(2));
    assert!(poll_once(&mut second).is_pending());
    subscription.resume().await;
    eventually("the first is handled", || log.len() == 1).await;
    // The free place belongs to the first in line, though it has not fetched it.
    bus.settle().await;
    let error = bus.try_publish(Tick(3)).unwrap_err();
    assert!(matches!(error.kind(), Refusal::Full { .. }));
    assert!(poll_once(&mut second).is_pending());
    soon("the first in line", first).await.unwrap();
    soon("the second in line", second).await.unwrap();
    end(&bus).await;
    assert_eq!(log.all(), [0, 1, 2]);
}

#[tokio::test]
async fn at_its_deadline_a_waiting_publish_gives_the_message_back() {
    let (bus, clock) = bus_at_rest().await;
    let (subscription, log) = logging(&bus, "narrow", 1).await;
    subscription.pause();
    bus.publish(Tick(0)).await.unwrap();
    let mut publish = bus.publish(Tick(1)).timeout(Duration::from_secs(5));
    assert!(poll_once(&mut publish).is_pending());
    clock.advance(Duration::from_millis(4_999));
    assert!(poll_once(&mut publish).is_pending());
    clock.advance(Duration::from_millis(1));
    let error = soon("the deadline", publish).await.unwrap_err();
    let narrow = "narrow".to_owned();
    assert_eq!(*error.kind(), Refusal::Timeout { queue: narrow });
    assert_eq!(error.into_message(), Some(Tick(1)));
    subscription.resume().await;
    end(&bus).await;
    assert_eq!(log.all(), [0]);
}

#[tokio::test]
async fn a_waiting_publish_that_is_dropped_publishes_nothing_and_leaves_the_line() {
    let bus = bus().await;
    let (subscription, log) = logging(&bus, "narrow", 1).await;
    subscription.pause();
    bus.publish(Tick(0)).await.unwrap();
    let mut in_line = bus.publish(Tick(1));
    let mut granted = bus.publish(Tick(2));
    let mut last = bus.publish(Tick(3));
    for publish in [&mut in_line, &mut granted, &mut last] {
        assert!(poll_once(publish).is_pending());
    }
    drop(in_line);
    subscription.resume().await;
    // The place that came free is granted to the second, which goes away without fetching it.
    eventually("the first is handled", || log.len() == 1).await;
    bus.settle().await;
    drop(granted);
    soon("the last in line", last).await.unwrap();
    end(&bus).await;
    assert_eq!(log.all(), [0, 3]);
    assert_eq!(queue(&bus, "narrow").accepted, 2);
}

#[tokio::test]
async fn publishes_from_inside_a_handler_are_immediate() {
    let bus = bus().await;
    let log = Log::new();
    let seen = log.clone();
    bus.subscribe_fn::<Tock, _>("tocks", async move |tock: &Tock, _: &mut Context<'_>| {
        seen.push(tock.0);
        Ok(())
    })
    .start()
    .await
    .unwrap();
    let inner = bus.clone();
    bus.subscribe_fn::<Tick, _>("ticks", async move |tick: &Tick, _: &mut Context<'_>| {
        inner.publish(Tock(tick.0)).await.map_err(Failure::from)?;
        Err(Failure::retry("after the publish"))
    })
    .retry(Retry::fixed(Duration::ZERO).attempts(3).immediate(2))
    .start()
    .await
    .unwrap();
    bus.publish(Tick(7)).await.unwrap();
    eventually("given up", || bus.dead_letters().ledger().kept == 1).await;
    end(&bus).await;
    assert_eq!(log.all(), [7, 7, 7], "not undone by the failures");
}

#[tokio::test]
async fn a_publish_to_the_handlers_own_full_queue_ends_at_its_deadline() {
    let bus = bus().await;
    let log = Log::new();
    let (inner, seen) = (bus.clone(), log.clone());
    bus.subscribe_fn::<Tick, _>("own", async move |tick: &Tick, _: &mut Context<'_>| {
        let again = inner.publish(Tick(tick.0 + 1));
        let error = again.timeout(Duration::from_millis(5)).await.unwrap_err();
        assert!(matches!(error.kind(), Refusal::Timeout { .. }));
        seen.push(error.into_message().unwrap().0);
        Ok(())
    })
    .mailbox(1)
    .start()
    .await
    .unwrap();
    bus.publish(Tick(1)).await.unwrap();
    eventually("handled", || log.len() == 1).await;
    end(&bus).await;
    assert_eq!(log.all(), [2]);
}

#[tokio::test]
async fn publish_all_stops_at_the_first_that_is_refused() {
    let bus = bus().await;
    let (subscription, log) = {
        let log = Log::new();
        let seen = log.clone();
        let subscription = bus
            .subscribe_fn::<Tick, _>("three", async move |tick: &Tick, _: &mut Context<'_>| {
                seen.push(tick.0);
                Ok(())
            })
            .mailbox(3)
            .overflow(Overflow::Fail);
        (subscription.start().await.unwrap(), log)
    };
    subscription.pause();
    assert_eq!(bus.publish_all((0..2).map(Tick)).await.unwrap().len(), 2);
    let error = bus.publish_all((2..6).map(Tick)).await.unwrap_err();
    assert_eq!(error.receipts.len(), 1);
    assert_eq!(
        error.why,
        Refusal::Full {
            queue: "three".into()
        }
    );
    assert_eq!(error.rest, [Tick(3), Tick(4), Tick(5)]);
    subscription.resume().await;
    end(&bus).await;
    assert_eq!(log.all(), [0, 1, 2]);
}

#[tokio::test]
async fn a_command_without_a_queue_is_refused_and_given_back() {
    let bus = bus().await;
    let error = bus.send(Work(1)).await.unwrap_err();
    let missing = Refusal::NoQueue {
        queue: Work::QUEUE.into(),
    };
    assert_eq!(error.into_parts(), (missing.clone(), Some(Work(1))));
    let error = bus.try_send(Work(2)).unwrap_err();
    assert_eq!(error.into_parts(), (missing.clone(), Some(Work(2))));
    let handler = bus
        .handle_fn::<Work, _>("worker", async |_: &Work, _: &mut Context<'_>| Ok(()))
        .mailbox(1)
        .start()
        .await
        .unwrap();
    // A queue without a live worker is a queue.
    handler.pause();
    bus.send(Work(3)).await.unwrap();
    let mut waiting = bus.send(Work(4));
    assert!(poll_once(&mut waiting).is_pending());
    handler.stop(Duration::ZERO).await;
    let error = soon("the publish", waiting).await.unwrap_err();
    assert_eq!(error.into_parts(), (missing, Some(Work(4))));
    end(&bus).await;
}

#[tokio::test]
async fn a_place_that_was_granted_at_a_queue_that_has_stopped_is_worth_nothing() {
    let bus = bus().await;
    let door = Door::closed();
    let passing = door.clone();
    let subscription = bus
        .subscribe_fn::<Tick, _>("closing", async move |_: &Tick, _: &mut Context<'_>| {
            passing.pass().await;
            Ok(())
        })
        .mailbox(1)
        .start()
        .await
        .unwrap();
    bus.publish(Tick(0)).await.unwrap();
    let mut publish = bus.publish(Tick(1));
    assert!(poll_once(&mut publish).is_pending());
    door.let_through(1);
    eventually("the place is free", || subscription.snapshot().acked == 1).await;
    bus.settle().await;
    let report = subscription.stop(PATIENCE).await;
    assert!(report.abandoned.is_empty());
    // The topic has no queue now: that is what the receipt must say.
    let receipt = soon("the publish", publish).await.unwrap();
    assert_eq!(receipt.local.accepted, 0, "{:?}", subscription.snapshot());
    assert_eq!(subscription.snapshot().accepted, 1);
    end(&bus).await;
}

#[tokio::test]
async fn a_publish_that_waits_at_the_shutdown_gets_its_message_back() {
    let bus = bus().await;
    let (subscription, _) = logging(&bus, "narrow", 1).await;
    subscription.pause();
    bus.publish(Tick(0)).await.unwrap();
    let mut publish = bus.publish(Tick(1));
    assert!(poll_once(&mut publish).is_pending());
    let report = bus.shutdown(Duration::from_millis(50)).await;
    assert_eq!(report.abandoned.len(), 1, "{report:?}");
    let error = soon("the publish", publish).await.unwrap_err();
    assert_eq!(error.into_parts(), (Refusal::Closed, Some(Tick(1))));
    let error = bus.publish(Tick(2)).await.unwrap_err();
    assert_eq!(error.into_parts(), (Refusal::Closed, Some(Tick(2))));
    let error = bus.try_send(Work(3)).unwrap_err();
    assert_eq!(error.into_parts(), (Refusal::Closed, Some(Work(3))));
    check_books(&bus);
}
