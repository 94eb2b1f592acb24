//! Messages given up: kept, listed, replayed, discarded, evicted, announced, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{
    Log, bus, bus_at_rest, check_books, dead_letters, end, eventually, poll_once, queue, soon,
};
use postroom::{
    Bus, Command, Context, DeadLetter, DeadLettered, Event, Failure, Filter, MessageId, Overflow,
    Reason, Refusal, ReplayError, Retry, Subscription,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order(u64);
impl Event for Order {
    const TOPIC: &'static str = "letters.order";
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Pay(u64);
impl Command for Pay {
    const QUEUE: &'static str = "letters.pay";
    type Reply = ();
}

/// A subscriber that rejects while `broken` is set and logs what it handles otherwise.
struct Shop {
    subscription: Subscription,
    broken: Arc<AtomicBool>,
    log: Log<(u64, MessageId, u32)>,
}

impl Shop {
    async fn open(bus: &Bus, name: &str, mailbox: usize) -> Self {
        let (broken, log) = (Arc::new(AtomicBool::new(true)), Log::new());
        let (fails, seen) = (Arc::clone(&broken), log.clone());
        let subscription = bus
            .subscribe_fn::<Order, _>(name, async move |order: &Order, cx: &mut Context<'_>| {
                if fails.load(Ordering::SeqCst) {
                    return Err(Failure::reject(format!("no {}", order.0)));
                }
                seen.push((order.0, cx.id(), cx.attempt()));
                Ok(())
            })
            .mailbox(mailbox)
            .overflow(Overflow::Wait)
            .start()
            .await
            .unwrap();
        Self {
            subscription,
            broken,
            log,
        }
    }

    fn repair(&self) {
        self.broken.store(false, Ordering::SeqCst);
    }
}

fn numbers(letters: &[DeadLetter]) -> Vec<u64> {
    letters
        .iter()
        .map(|letter| serde_json::from_slice(letter.json().unwrap()).unwrap())
        .collect()
}

async fn letters(bus: &Bus, count: u64) -> Vec<DeadLetter> {
    eventually("given up", || bus.dead_letters().ledger().kept == count).await;
    dead_letters(bus).await
}

#[tokio::test]
async fn a_dead_letter_tells_everything() {
    let (bus, clock) = bus_at_rest().await;
    bus.subscribe_fn::<Order, _>("shop", async |_: &Order, cx: &mut Context<'_>| {
        Err(Failure::retry(format!("attempt {}", cx.attempt())))
    })
    .retry(Retry::fixed(Duration::from_secs(10)).attempts(3))
    .start()
    .await
    .unwrap();
    let receipt = bus
        .publish(Order(7))
        .key("k")
        .header("h", "v")
        .await
        .unwrap();
    bus.settle().await;
    for _ in 0..2 {
        clock.advance(Duration::from_secs(10));
        bus.settle().await;
    }
    let letter = letters(&bus, 1).await.remove(0);
    assert_eq!(&*letter.queue, "shop");
    assert_eq!((letter.reason, letter.attempts), (Reason::Exhausted, 3));
    assert_eq!(letter.errors, ["attempt 3"]);
    let took = letter.last_failed_at.duration_since(letter.first_failed_at);
    assert_eq!(took.unwrap(), Duration::from_secs(20));
    let envelope = letter.envelope();
    assert_eq!(
        (envelope.id(), envelope.address()),
        (receipt.id, Order::TOPIC)
    );
    assert_eq!(
        (envelope.key(), envelope.header("h")),
        (Some("k"), Some("v"))
    );
    assert_eq!(letter.json().unwrap(), b"7");
    let same = bus.dead_letters().get(letter.id).await.unwrap().unwrap();
    assert_eq!(same.envelope().id(), receipt.id);
    let its_message = receipt.id.to_string().parse().unwrap();
    let none = bus.dead_letters().get(its_message).await.unwrap();
    assert!(none.is_none(), "the id of the message is another one");
    end(&bus).await;
}

#[tokio::test]
async fn lists_are_filtered_and_oldest_first() {
    let bus = bus().await;
    let _shop = Shop::open(&bus, "shop", 8).await;
    bus.handle_fn::<Pay, _>("bank", async |_: &Pay, _: &mut Context<'_>| {
        Err(Failure::retry("broke"))
    })
    .retry(Retry::none())
    .start()
    .await
    .unwrap();
    for id in 0..3 {
        bus.publish(Order(id)).await.unwrap();
        letters(&bus, id + 1).await;
    }
    bus.send(Pay(9)).await.unwrap();
    letters(&bus, 4).await;
    let list = async |filter: Filter| numbers(&bus.dead_letters().list(&filter).await.unwrap());
    assert_eq!(list(Filter::all()).await, [0, 1, 2, 9]);
    assert_eq!(list(Filter::all().limit(2)).await, [0, 1]);
    assert_eq!(list(Filter::all().queue("bank")).await, [9]);
    assert_eq!(list(Filter::all().address(Order::TOPIC)).await, [0, 1, 2]);
    assert_eq!(list(Filter::all().address(Pay::QUEUE)).await, [9]);
    assert_eq!(
        list(Filter::all().reason(Reason::Rejected).limit(1)).await,
        [0]
    );
    assert_eq!(list(Filter::all().reason(Reason::Exhausted)).await, [9]);
    let none = list(Filter::all().queue("bank").reason(Reason::Rejected));
    assert!(none.await.is_empty());
    end(&bus).await;
}

#[tokio::test]
async fn a_replay_goes_to_its_queue_alone_with_the_same_id_and_attempts_from_one() {
    let bus = bus().await;
    let shop = Shop::open(&bus, "shop", 8).await;
    let other = Shop::open(&bus, "other", 8).await;
    other.repair();
    let receipt = bus.publish(Order(1)).await.unwrap();
    let letter = letters(&bus, 1).await.remove(0);
    bus.dead_letters().replay(letter.id).await.unwrap();
    let again = letters(&bus, 1).await.remove(0);
    assert_ne!(again.id, letter.id, "a dead letter of its own");
    assert_eq!(again.envelope().id(), receipt.id);
    shop.repair();
    bus.dead_letters().replay(again.id).await.unwrap();
    eventually("handled", || shop.log.len() == 1).await;
    assert_eq!(shop.log.all(), [(1, receipt.id, 1)]);
    assert_eq!(other.log.len(), 1, "handled once, by the publish");
    let gone = bus.dead_letters().replay(again.id).await;
    assert_eq!(gone, Err(ReplayError::NotFound(again.id)));
    end(&bus).await;
    let books = queue(&bus, "shop");
    assert_eq!(
        (books.accepted, books.dead_lettered, books.acked),
        (3, 2, 1)
    );
    let ledger = bus.dead_letters().ledger();
    assert_eq!((ledger.made, ledger.replayed, ledger.kept), (2, 2, 0));
}

#[tokio::test]
async fn replay_all_takes_what_the_filter_admits() {
    let bus = bus().await;
    let shop = Shop::open(&bus, "shop", 2).await;
    let other = Shop::open(&bus, "other", 8).await;
    bus.publish_all((0..5).map(Order)).await.unwrap();
    letters(&bus, 10).await;
    shop.repair();
    other.repair();
    let filter = Filter::all().queue("shop");
    let done = bus.dead_letters().replay_all(&filter).await.unwrap();
    assert_eq!((done.replayed, done.refused), (5, vec![]));
    eventually("handled", || shop.log.len() == 5).await;
    let order: Vec<_> = shop.log.all().iter().map(|entry| entry.0).collect();
    assert_eq!(order, [0, 1, 2, 3, 4]);
    assert_eq!(
        (other.log.len(), bus.dead_letters().len().await.unwrap()),
        (0, 5)
    );
    end(&bus).await;
}

#[tokio::test]
async fn a_replay_that_is_refused_or_dropped_keeps_the_letter_in_its_place() {
    let (bus, clock) = bus_at_rest().await;
    let shop = Shop::open(&bus, "shop", 1).await;
    for id in 0..3 {
        bus.publish(Order(id)).await.unwrap();
        letters(&bus, id + 1).await;
    }
    shop.subscription.pause();
    bus.publish(Order(3)).await.unwrap();
    let all = dead_letters(&bus).await;
    let letters = bus.dead_letters();
    let mut dropped = Box::pin(letters.replay(all[0].id));
    assert!(poll_once(&mut dropped).is_pending());
    let in_the_making = letters.replay(all[0].id).await;
    assert_eq!(
        in_the_making,
        Err(ReplayError::NotFound(all[0].id)),
        "not twice at a time"
    );
    drop(dropped);
    assert_eq!(
        numbers(&letters.list(&Filter::all()).await.unwrap()),
        [0, 1, 2]
    );
    let mut refused = Box::pin(letters.replay(all[1].id));
    assert!(poll_once(&mut refused).is_pending());
    clock.advance(Duration::from_secs(30));
    let full = Refusal::Timeout {
        queue: "shop".into(),
    };
    assert_eq!(
        soon("the replay", refused).await,
        Err(ReplayError::Refused(full))
    );
    assert_eq!(
        numbers(&letters.list(&Filter::all()).await.unwrap()),
        [0, 1, 2]
    );
    check_books(&bus);
    assert_eq!(letters.ledger().replayed, 0);
    shop.repair();
    shop.subscription.resume().await;
    let done = letters.replay_all(&Filter::all()).await.unwrap();
    assert_eq!(done.replayed, 3);
    end(&bus).await;
}

#[tokio::test]
async fn replay_all_names_those_that_were_refused_and_goes_on_behind_them() {
    let bus = bus().await;
    let shop = Shop::open(&bus, "shop", 8).await;
    let other = Shop::open(&bus, "other", 8).await;
    bus.publish_all((0..2).map(Order)).await.unwrap();
    letters(&bus, 4).await;
    other.subscription.stop(crate::common::PATIENCE).await;
    shop.repair();
    let all = bus.dead_letters();
    let gone = all.list(&Filter::all().queue("other")).await.unwrap();
    let refused: Vec<_> = gone
        .iter()
        .map(|letter| (letter.id, ReplayError::NoQueue("other".into())))
        .collect();
    let done = all.replay_all(&Filter::all()).await.unwrap();
    assert_eq!((done.replayed, &done.refused), (2, &refused));
    eventually("handled", || shop.log.len() == 2).await;
    assert_eq!(all.len().await.unwrap(), 2);
    end(&bus).await;
}

#[tokio::test]
async fn a_letter_put_back_into_a_full_store_is_still_the_oldest() {
    let bus = Bus::builder("test").dead_letter_capacity(2);
    let bus = bus.start().await.unwrap();
    let shop = Shop::open(&bus, "shop", 1).await;
    let bank = bus.handle_fn::<Pay, _>("bank", async |_: &Pay, _: &mut Context<'_>| {
        Err(Failure::reject("broke"))
    });
    bank.start().await.unwrap();
    bus.publish(Order(0)).await.unwrap();
    let oldest = letters(&bus, 1).await.remove(0);
    bus.send(Pay(1)).await.unwrap();
    letters(&bus, 2).await;
    shop.subscription.pause();
    bus.publish(Order(9)).await.unwrap();
    let store = bus.dead_letters();
    let mut replay = Box::pin(store.replay(oldest.id));
    assert!(poll_once(&mut replay).is_pending());
    bus.send(Pay(2)).await.unwrap();
    letters(&bus, 2).await;
    drop(replay);
    assert_eq!(numbers(&store.list(&Filter::all()).await.unwrap()), [1, 2]);
    assert_eq!(store.ledger().evicted, 1);
    shop.repair();
    shop.subscription.resume().await;
    end(&bus).await;
}

#[tokio::test]
async fn a_letter_of_a_queue_that_is_gone_stays_until_the_queue_is_back() {
    let bus = bus().await;
    let shop = Shop::open(&bus, "shop", 8).await;
    bus.publish(Order(1)).await.unwrap();
    let letter = letters(&bus, 1).await.remove(0);
    shop.subscription.stop(crate::common::PATIENCE).await;
    let replayed = bus.dead_letters().replay(letter.id).await;
    assert_eq!(replayed, Err(ReplayError::NoQueue("shop".into())));
    assert_eq!(bus.dead_letters().len().await.unwrap(), 1);
    let back = Shop::open(&bus, "shop", 8).await;
    back.repair();
    bus.dead_letters().replay(letter.id).await.unwrap();
    end(&bus).await;
    assert_eq!(back.log.len(), 1);
}

#[tokio::test]
async fn a_discarded_letter_is_gone_and_counted() {
    let bus = bus().await;
    let _shop = Shop::open(&bus, "shop", 8).await;
    bus.publish_all((0..2).map(Order)).await.unwrap();
    let all = letters(&bus, 2).await;
    assert!(bus.dead_letters().discard(all[0].id).await.unwrap());
    assert!(!bus.dead_letters().discard(all[0].id).await.unwrap());
    assert_eq!(numbers(&dead_letters(&bus).await), [1]);
    let ledger = bus.dead_letters().ledger();
    assert_eq!((ledger.made, ledger.discarded, ledger.kept), (2, 1, 1));
    assert_eq!(bus.snapshot().dead_letters, ledger);
    end(&bus).await;
}

#[tokio::test]
async fn a_full_store_evicts_its_oldest_and_counts_it() {
    let bus = Bus::builder("test").dead_letter_capacity(3);
    let bus = bus.start().await.unwrap();
    let _shop = Shop::open(&bus, "shop", 8).await;
    bus.publish_all((0..5).map(Order)).await.unwrap();
    eventually("evicted", || bus.dead_letters().ledger().evicted == 2).await;
    assert_eq!(numbers(&dead_letters(&bus).await), [2, 3, 4]);
    let ledger = bus.dead_letters().ledger();
    assert_eq!((ledger.made, ledger.kept), (5, 3));
    end(&bus).await;
}

#[tokio::test]
async fn a_dead_letter_is_announced_once_and_announcements_beget_none() {
    let bus = bus().await;
    let _shop = Shop::open(&bus, "shop", 8).await;
    let log = Log::new();
    let seen = log.clone();
    bus.subscribe_fn::<DeadLettered, _>(
        "watch",
        async move |told: &DeadLettered, _: &mut Context<'_>| {
            seen.push(told.clone());
            Err(Failure::reject("the watcher fails too"))
        },
    )
    .start()
    .await
    .unwrap();
    let receipt = bus.publish(Order(5)).await.unwrap();
    let all = letters(&bus, 2).await;
    bus.settle().await;
    end(&bus).await;
    let announced = DeadLettered {
        id: all[0].id,
        message: receipt.id,
        address: Order::TOPIC.into(),
        queue: "shop".into(),
        reason: Reason::Rejected,
        attempts: 1,
        error: Some("no 5".into()),
    };
    assert_eq!(log.all(), [announced]);
    assert_eq!(
        &*all[1].queue, "watch",
        "its own failure is kept, and not announced"
    );
    assert_eq!(bus.dead_letters().len().await.unwrap(), 2);
}

#[tokio::test]
async fn an_announcement_that_a_full_subscriber_misses_is_counted() {
    let bus = bus().await;
    let _shop = Shop::open(&bus, "shop", 8).await;
    let watch = bus
        .subscribe_fn::<DeadLettered, _>("watch", async |_: &DeadLettered, _: &mut Context<'_>| {
            Ok(())
        });
    let watch = watch.mailbox(1).start().await.unwrap();
    let other = bus
        .subscribe_fn::<DeadLettered, _>("other", async |_: &DeadLettered, _: &mut Context<'_>| {
            Ok(())
        });
    other.start().await.unwrap();
    watch.pause();
    bus.publish_all((0..3).map(Order)).await.unwrap();
    letters(&bus, 3).await;
    eventually("missed", || bus.snapshot().missed_events == 2).await;
    eventually("by one only", || queue(&bus, "other").acked == 3).await;
    watch.resume().await;
    end(&bus).await;
}
