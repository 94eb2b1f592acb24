//! No buffer is unbounded: the four policies, what a bound counts, stalls (contract, rule 2).

use std::time::Duration;

use crate::common::{Door, Log, bus, bus_at_rest, end, eventually, poll_once, queue, soon};
use postroom::{Bus, Context, Event, Failure, Overflow, Refusal, Retry, Subscription};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Drip(u64);
impl Event for Drip {
    const TOPIC: &'static str = "overflow.drip";
}

const MINUTE: Duration = Duration::from_secs(60);

/// A paused subscriber that keeps what it handles.
async fn paused(
    bus: &Bus,
    name: &str,
    mailbox: usize,
    overflow: Overflow,
) -> (Subscription, Log<u64>) {
    let log = Log::new();
    let seen = log.clone();
    let subscription = bus
        .subscribe_fn::<Drip, _>(name, async move |drip: &Drip, _: &mut Context<'_>| {
            seen.push(drip.0);
            Ok(())
        })
        .mailbox(mailbox)
        .overflow(overflow)
        .start()
        .await
        .unwrap();
    subscription.pause();
    (subscription, log)
}

#[tokio::test]
async fn wait_is_the_default_and_drops_nothing() {
    let bus = bus().await;
    let (subscription, log) = paused(&bus, "waits", 2, Overflow::default()).await;
    bus.publish_all([Drip(0), Drip(1)]).await.unwrap();
    let mut publish = bus.publish(Drip(2));
    assert!(poll_once(&mut publish).is_pending());
    let error = bus.try_publish(Drip(3)).unwrap_err();
    assert_eq!(
        *error.kind(),
        Refusal::Full {
            queue: "waits".into()
        }
    );
    subscription.resume().await;
    soon("the publish", publish).await.unwrap();
    end(&bus).await;
    assert_eq!(log.all(), [0, 1, 2]);
    assert_eq!(queue(&bus, "waits").dropped, 0);
}

#[tokio::test]
async fn fail_gives_the_message_back_at_once() {
    let bus = bus().await;
    let (subscription, log) = paused(&bus, "fails", 2, Overflow::Fail).await;
    bus.publish_all([Drip(0), Drip(1)]).await.unwrap();
    let error = bus.publish(Drip(2)).await.unwrap_err();
    let full = Refusal::Full {
        queue: "fails".into(),
    };
    assert_eq!(error.into_parts(), (full, Some(Drip(2))));
    subscription.resume().await;
    end(&bus).await;
    assert_eq!(log.all(), [0, 1]);
    let books = queue(&bus, "fails");
    assert_eq!((books.accepted, books.dropped), (2, 0));
}

#[tokio::test]
async fn drop_newest_keeps_what_is_queued() {
    let bus = bus().await;
    let (subscription, log) = paused(&bus, "newest", 2, Overflow::DropNewest).await;
    let receipts = bus.publish_all((0..5).map(Drip)).await.unwrap();
    let local: Vec<_> = receipts
        .iter()
        .map(|receipt| (receipt.local.accepted, receipt.local.dropped))
        .collect();
    assert_eq!(local, [(1, 0), (1, 0), (0, 1), (0, 1), (0, 1)]);
    subscription.resume().await;
    end(&bus).await;
    assert_eq!(log.all(), [0, 1]);
    let books = queue(&bus, "newest");
    assert_eq!((books.accepted, books.acked, books.dropped), (5, 2, 3));
}

#[tokio::test]
async fn drop_oldest_keeps_the_newest() {
    let bus = bus().await;
    let (subscription, log) = paused(&bus, "oldest", 2, Overflow::DropOldest).await;
    let receipts = bus.publish_all((0..5).map(Drip)).await.unwrap();
    let local: Vec<_> = receipts
        .iter()
        .map(|receipt| (receipt.local.accepted, receipt.local.dropped))
        .collect();
    assert_eq!(local, [(1, 0), (1, 0), (1, 1), (1, 1), (1, 1)]);
    subscription.resume().await;
    end(&bus).await;
    assert_eq!(log.all(), [3, 4]);
    let books = queue(&bus, "oldest");
    assert_eq!((books.accepted, books.acked, books.dropped), (5, 2, 3));
}

#[tokio::test]
async fn drop_oldest_drops_the_new_one_where_none_is_queued() {
    let bus = bus().await;
    let (door, log) = (Door::closed(), Log::new());
    let (passing, seen) = (door.clone(), log.clone());
    bus.subscribe_fn::<Drip, _>("oldest", async move |drip: &Drip, _: &mut Context<'_>| {
        seen.push(drip.0);
        passing.pass().await;
        Ok(())
    })
    .mailbox(1)
    .overflow(Overflow::DropOldest)
    .start()
    .await
    .unwrap();
    bus.publish(Drip(0)).await.unwrap();
    eventually("in hand", || log.len() == 1).await;
    let receipt = bus.publish(Drip(1)).await.unwrap();
    assert_eq!((receipt.local.accepted, receipt.local.dropped), (0, 1));
    door.open();
    end(&bus).await;
    assert_eq!(log.all(), [0], "what is in hand is never dropped");
}

#[tokio::test]
async fn nothing_is_dropped_for_a_message_that_another_queue_refuses() {
    let bus = bus().await;
    let (oldest, kept) = paused(&bus, "oldest", 1, Overflow::DropOldest).await;
    let (newest, _) = paused(&bus, "newest", 1, Overflow::DropNewest).await;
    let (fails, _) = paused(&bus, "fails", 1, Overflow::Fail).await;
    bus.publish(Drip(0)).await.unwrap();
    let error = bus.publish(Drip(1)).await.unwrap_err();
    assert_eq!(error.into_message(), Some(Drip(1)));
    for name in ["oldest", "newest", "fails"] {
        let books = queue(&bus, name);
        assert_eq!(
            (books.accepted, books.dropped, books.queued),
            (1, 0, 1),
            "{name}"
        );
    }
    for subscription in [oldest, newest, fails] {
        subscription.resume().await;
    }
    end(&bus).await;
    assert_eq!(kept.all(), [0]);
}

#[tokio::test]
async fn the_bound_counts_what_is_queued_in_flight_and_waiting() {
    let (bus, clock) = bus_at_rest().await;
    let (door, log) = (Door::closed(), Log::new());
    let (passing, seen) = (door.clone(), log.clone());
    bus.subscribe_fn::<Drip, _>("bound", async move |drip: &Drip, cx: &mut Context<'_>| {
        seen.push(drip.0);
        if drip.0 == 0 && cx.attempt() == 1 {
            return Err(Failure::retry_after(MINUTE, "wait"));
        }
        passing.pass().await;
        Ok(())
    })
    .mailbox(4)
    .no_timeout()
    .start()
    .await
    .unwrap();
    bus.publish(Drip(0)).await.unwrap();
    eventually("one waits", || queue(&bus, "bound").waiting == 1).await;
    bus.publish(Drip(1)).await.unwrap();
    eventually("one is in hand", || log.len() == 2).await;
    bus.publish_all([Drip(2), Drip(3)]).await.unwrap();
    let books = queue(&bus, "bound");
    assert_eq!((books.queued, books.in_flight, books.waiting), (2, 1, 1));
    assert_eq!((books.depth, books.accepted), (4, 4));
    assert!(bus.try_publish(Drip(4)).is_err());
    door.let_through(1);
    eventually("one is done", || queue(&bus, "bound").acked == 1).await;
    bus.try_publish(Drip(5)).unwrap();
    assert!(bus.try_publish(Drip(6)).is_err());
    door.open();
    crate::common::advance_until(&clock, MINUTE, "all done", || {
        queue(&bus, "bound").acked == 5
    })
    .await;
    end(&bus).await;
    assert_eq!(log.all(), [0, 1, 2, 3, 5, 0]);
}

#[tokio::test]
async fn waiting_retries_hold_at_most_half_of_the_credits() {
    let (bus, clock) = bus_at_rest().await;
    let log = Log::new();
    let seen = log.clone();
    bus.subscribe_fn::<Drip, _>("half", async move |drip: &Drip, cx: &mut Context<'_>| {
        seen.push(drip.0);
        match cx.attempt() {
            1 => Err(Failure::retry("first")),
            _ => Ok(()),
        }
    })
    .mailbox(8)
    .retry(Retry::fixed(MINUTE).attempts(2))
    .start()
    .await
    .unwrap();
    bus.publish_all((0..8).map(Drip)).await.unwrap();
    bus.settle().await;
    let books = queue(&bus, "half");
    assert_eq!(
        (books.waiting, books.queued, books.stalls),
        (4, 4, 1),
        "{books:?}"
    );
    assert_eq!(log.all(), [0, 1, 2, 3], "no new message is handed out");
    clock.advance(MINUTE);
    bus.settle().await;
    assert_eq!(
        log.all(),
        [0, 1, 2, 3, 4, 5, 6, 7],
        "all returned, behind the next four, which failed"
    );
    let books = queue(&bus, "half");
    assert_eq!((books.waiting, books.queued), (4, 4), "{books:?}");
    assert!(books.stalls >= 2);
    crate::common::advance_until(&clock, MINUTE, "all done", || {
        queue(&bus, "half").acked == 8
    })
    .await;
    end(&bus).await;
    assert_eq!(queue(&bus, "half").retried, 8);
}

#[tokio::test]
async fn with_several_workers_too_at_most_half_waits() {
    let (bus, clock) = bus_at_rest().await;
    bus.subscribe_fn::<Drip, _>("half", async |_: &Drip, cx: &mut Context<'_>| {
        tokio::task::yield_now().await;
        match cx.attempt() {
            1 => Err(Failure::retry("first")),
            _ => Ok(()),
        }
    })
    .mailbox(16)
    .workers(4)
    .retry(Retry::fixed(MINUTE).attempts(2))
    .start()
    .await
    .unwrap();
    bus.publish_all((0..16).map(Drip)).await.unwrap();
    bus.settle().await;
    let books = queue(&bus, "half");
    assert!((5..=8).contains(&books.waiting), "{books:?}");
    assert!(books.stalls >= 1);
    // At rest, as the clock is that of an attempt under way too. Each time some four return.
    for _ in 0..16 {
        clock.advance(MINUTE);
        bus.settle().await;
    }
    end(&bus).await;
    assert_eq!(queue(&bus, "half").acked, 16);
}

#[tokio::test]
async fn a_mailbox_of_one_still_retries() {
    let (bus, clock) = bus_at_rest().await;
    let log = Log::new();
    let seen = log.clone();
    bus.subscribe_fn::<Drip, _>("one", async move |drip: &Drip, cx: &mut Context<'_>| {
        seen.push((drip.0, cx.attempt()));
        match cx.attempt() {
            3 => Ok(()),
            _ => Err(Failure::retry("again")),
        }
    })
    .mailbox(1)
    .retry(Retry::fixed(MINUTE).attempts(3))
    .start()
    .await
    .unwrap();
    for id in 0..2 {
        bus.publish(Drip(id)).await.unwrap();
        for _ in 0..2 {
            bus.settle().await;
            clock.advance(MINUTE);
        }
        bus.settle().await;
    }
    assert_eq!(log.all(), [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]);
    end(&bus).await;
}
