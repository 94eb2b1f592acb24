//! Each part of a program has its own Rust type for a topic (contract, at the edges).

use std::time::Duration;

use crate::common::{Log, bus, dead_letters, end, eventually, queue};
use postroom::{
    Command, CommandHandler, Context, Event, Failure, Filter, Outcome, RawMessage, RawSubscriber,
    Reason, RequestError, Retry, Subscriber, Verdict,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The orders' own type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct OrderPlaced {
    id: u64,
    total: u64,
    note: String,
}
impl Event for OrderPlaced {
    const TOPIC: &'static str = "types.order";
}

/// What the warehouse knows of it: less.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct ToPack {
    id: u64,
}
impl Event for ToPack {
    const TOPIC: &'static str = "types.order";
}

/// What an old part of the program believes it to be.
#[derive(Debug, Serialize, Deserialize)]
struct Outdated {
    id: String,
}
impl Event for Outdated {
    const TOPIC: &'static str = "types.order";
}

fn order(id: u64) -> OrderPlaced {
    OrderPlaced {
        id,
        total: 5,
        note: "fast".into(),
    }
}

struct Both(Log<String>);

impl Subscriber<OrderPlaced> for Both {
    async fn handle(&mut self, order: &OrderPlaced, _: &mut Context<'_>) -> Outcome {
        self.0.push(format!("order {}", order.id));
        Ok(())
    }
}

impl Subscriber<ToPack> for Both {
    async fn handle(&mut self, pack: &ToPack, _: &mut Context<'_>) -> Outcome {
        self.0.push(format!("pack {}", pack.id));
        Ok(())
    }
}

impl RawSubscriber for Both {
    async fn handle(&mut self, message: RawMessage<'_>, _: &mut Context<'_>) -> Outcome {
        let own = message.downcast_ref::<OrderPlaced>().is_some();
        let pack: ToPack = message.decode()?;
        self.0.push(format!("raw {} {own}", pack.id));
        Ok(())
    }
}

#[tokio::test]
async fn every_part_reads_the_message_as_its_own_type() {
    let bus = bus().await;
    let (orders, packs, raws) = (Log::new(), Log::new(), Log::new());
    let seen = orders.clone();
    bus.subscribe_fn::<OrderPlaced, _>(
        "orders",
        async move |order: &OrderPlaced, _: &mut Context<'_>| {
            seen.push(order.clone());
            Ok(())
        },
    )
    .start()
    .await
    .unwrap();
    let seen = packs.clone();
    bus.subscribe_fn::<ToPack, _>(
        "warehouse",
        async move |pack: &ToPack, _: &mut Context<'_>| {
            seen.push(pack.id);
            Ok(())
        },
    )
    .start()
    .await
    .unwrap();
    let kept = raws.clone();
    bus.subscriber("raw", move || Both(kept.clone()))
        .pattern("types.*")
        .start()
        .await
        .unwrap();
    bus.publish(order(1)).await.unwrap();
    bus.publish_raw(
        "types.order",
        json!({"id": 2, "total": 1, "note": "", "new": [1]}),
    )
    .await
    .unwrap();
    end(&bus).await;
    let second = OrderPlaced {
        id: 2,
        total: 1,
        note: String::new(),
    };
    assert_eq!(
        orders.all(),
        [order(1), second],
        "unknown fields are ignored"
    );
    assert_eq!(packs.all(), [1, 2]);
    assert_eq!(raws.all(), ["raw 1 true", "raw 2 false"]);
}

#[tokio::test]
async fn the_same_type_shares_the_value_and_another_is_encoded_once() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static ENCODED: AtomicU32 = AtomicU32::new(0);
    #[derive(Deserialize)]
    struct Counted(u64);
    impl Serialize for Counted {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            ENCODED.fetch_add(1, Ordering::SeqCst);
            serializer.serialize_u64(self.0)
        }
    }
    impl Event for Counted {
        const TOPIC: &'static str = "types.counted";
    }
    #[derive(Serialize, Deserialize)]
    struct Other(u64);
    impl Event for Other {
        const TOPIC: &'static str = "types.counted";
    }
    let bus = bus().await;
    let places = Log::new();
    for name in ["one", "two"] {
        let seen = places.clone();
        bus.subscribe_fn::<Counted, _>(
            name,
            async move |counted: &Counted, _: &mut Context<'_>| {
                seen.push(std::ptr::from_ref(counted) as usize);
                Ok(())
            },
        )
        .start()
        .await
        .unwrap();
    }
    bus.publish(Counted(1)).await.unwrap();
    bus.settle().await;
    assert_eq!(
        ENCODED.load(Ordering::SeqCst),
        0,
        "never encoded when nobody needs it"
    );
    let log = Log::new();
    for name in ["three", "four"] {
        let seen = log.clone();
        bus.subscribe_fn::<Other, _>(name, async move |other: &Other, _: &mut Context<'_>| {
            seen.push(other.0);
            Ok(())
        })
        .start()
        .await
        .unwrap();
    }
    bus.publish(Counted(2)).await.unwrap();
    end(&bus).await;
    assert_eq!(ENCODED.load(Ordering::SeqCst), 1);
    assert_eq!(log.all(), [2, 2]);
    let places = places.all();
    assert_eq!(places.len(), 4);
}

#[tokio::test]
async fn within_one_subscriber_the_messages_own_type_wins() {
    let bus = bus().await;
    let log = Log::new();
    for (name, order_first) in [("one", true), ("two", false)] {
        let kept = log.clone();
        let both = bus.subscriber(name, move || Both(kept.clone()));
        if order_first {
            both.on::<OrderPlaced>()
                .on::<ToPack>()
                .start()
                .await
                .unwrap();
        } else {
            both.on::<ToPack>()
                .on::<OrderPlaced>()
                .start()
                .await
                .unwrap();
        }
    }
    bus.publish(order(1)).await.unwrap();
    bus.settle().await;
    bus.publish(ToPack { id: 2 })
        .await
        .unwrap_or_else(|_| unreachable!());
    eventually("all", || log.len() >= 3).await;
    bus.settle().await;
    let mut all = log.all();
    all.sort();
    assert_eq!(all, ["order 1", "order 1", "pack 2", "pack 2"]);
    end(&bus).await;
}

#[tokio::test]
async fn an_undecodable_body_is_a_dead_letter_and_the_others_flow() {
    let bus = bus().await;
    let log = Log::new();
    let seen = log.clone();
    bus.subscribe_fn::<Outdated, _>("old", async move |old: &Outdated, _: &mut Context<'_>| {
        seen.push(old.id.clone());
        Ok(())
    })
    .retry(
        Retry::fixed(Duration::from_millis(1))
            .attempts(3)
            .immediate(1),
    )
    .start()
    .await
    .unwrap();
    let good = || json!({"id": "good"});
    bus.publish_raw("types.order", good()).await.unwrap();
    bus.publish(order(7)).await.unwrap();
    bus.publish_raw("types.order", json!("nonsense"))
        .await
        .unwrap();
    bus.publish_raw("types.order", good()).await.unwrap();
    end(&bus).await;
    assert_eq!(log.all(), ["good", "good"]);
    let letters = bus
        .dead_letters()
        .list(&Filter::all().reason(Reason::Undecodable))
        .await
        .unwrap();
    assert_eq!(letters.len(), 2);
    assert!(
        letters.iter().all(|letter| letter.attempts == 3),
        "after its policy"
    );
    assert!(
        letters[0].errors[0].contains("types.order"),
        "{:?}",
        letters[0].errors
    );
    assert!(
        letters[0].errors[1].contains("expected a string"),
        "{:?}",
        letters[0].errors
    );
    assert_eq!(queue(&bus, "old").restarts, 0, "the handler was never run");
}

#[tokio::test]
async fn a_policy_may_give_an_undecodable_body_up_at_once() {
    let bus = bus().await;
    let retry = Retry::fixed(Duration::from_millis(1)).classify(|error| {
        error
            .is::<postroom::CodecError>()
            .then_some(Verdict::Reject)
    });
    bus.subscribe_fn::<Outdated, _>("old", async |_: &Outdated, _: &mut Context<'_>| Ok(()))
        .retry(retry)
        .start()
        .await
        .unwrap();
    bus.publish(order(7)).await.unwrap();
    end(&bus).await;
    let letter = dead_letters(&bus).await.remove(0);
    assert_eq!((letter.attempts, letter.reason), (1, Reason::Undecodable));
}

#[derive(Serialize, Deserialize)]
struct Price(u64);
impl Command for Price {
    const QUEUE: &'static str = "types.price";
    type Reply = Quote;
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Quote {
    cents: u64,
}

/// The shop's own idea of the same command.
#[derive(Serialize, Deserialize)]
struct AskPrice(u64);
impl Command for AskPrice {
    const QUEUE: &'static str = "types.price";
    type Reply = serde_json::Value;
}

/// One that expects what the handler does not answer.
#[derive(Serialize, Deserialize)]
struct AskName(u64);
impl Command for AskName {
    const QUEUE: &'static str = "types.price";
    type Reply = String;
}

struct Pricing;

impl CommandHandler<Price> for Pricing {
    async fn handle(&mut self, price: &Price, _: &mut Context<'_>) -> Result<Quote, Failure> {
        Ok(Quote {
            cents: price.0 * 100,
        })
    }
}

#[tokio::test]
async fn a_reply_crosses_types_too() {
    let bus = bus().await;
    bus.subscriber("pricing", || Pricing)
        .command::<Price>()
        .start()
        .await
        .unwrap();
    assert_eq!(bus.request(Price(1)).await, Ok(Quote { cents: 100 }));
    assert_eq!(bus.request(AskPrice(2)).await, Ok(json!({"cents": 200})));
    let unreadable = RequestError::Undecodable {
        queue: AskName::QUEUE.into(),
    };
    assert_eq!(bus.request(AskName(3)).await, Err(unreadable));
    end(&bus).await;
    assert_eq!(
        queue(&bus, "pricing").acked,
        3,
        "a reply never fails its delivery"
    );
}
