//! Groups, patterns, and which handler takes a message.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::common::{Log, PATIENCE, bus, check_books, end, eventually, queue};
use postroom::{
    Breaker, Bus, Command, Context, Event, Order, Outcome, Overflow, RawMessage, RawSubscriber,
    Retry, SubscribeError, Subscriber, SubscriptionState,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Paid(u64);
impl Event for Paid {
    const TOPIC: &'static str = "shop.order.paid";
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Shipped(u64);
impl Event for Shipped {
    const TOPIC: &'static str = "shop.order.shipped";
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Charge(u64);
impl Command for Charge {
    const QUEUE: &'static str = "shop.charge";
    type Reply = u64;
}

/// Logs which of its handlers took what.
struct Clerk(Log<(&'static str, String, String)>);

impl Clerk {
    fn log(&self, handler: &'static str, topic: &str, body: impl ToString) {
        // The bus's own events match `#` too.
        if !topic.starts_with("postroom.") {
            self.0.push((handler, topic.to_owned(), body.to_string()));
        }
    }
}

impl Subscriber<Paid> for Clerk {
    async fn handle(&mut self, paid: &Paid, cx: &mut Context<'_>) -> Outcome {
        self.log("paid", cx.envelope().address(), paid.0);
        Ok(())
    }
}

impl Subscriber<Shipped> for Clerk {
    async fn handle(&mut self, shipped: &Shipped, cx: &mut Context<'_>) -> Outcome {
        self.log("shipped", cx.envelope().address(), shipped.0);
        Ok(())
    }
}

impl RawSubscriber for Clerk {
    async fn handle(&mut self, message: RawMessage<'_>, _: &mut Context<'_>) -> Outcome {
        let body: serde_json::Value = message.decode()?;
        self.log("raw", message.address(), body);
        Ok(())
    }
}

impl postroom::CommandHandler<Charge> for Clerk {
    async fn handle(
        &mut self,
        charge: &Charge,
        cx: &mut Context<'_>,
    ) -> Result<u64, postroom::Failure> {
        self.log("charge", cx.envelope().address(), charge.0);
        Ok(charge.0)
    }
}

fn entry(handler: &'static str, topic: &str, body: &str) -> (&'static str, String, String) {
    (handler, topic.to_owned(), body.to_owned())
}

#[tokio::test]
async fn one_subscriber_handles_several_types_and_the_exact_type_wins() {
    let bus = bus().await;
    let log = Log::new();
    let kept = log.clone();
    bus.subscriber("clerk", move || Clerk(kept.clone()))
        .pattern("#")
        .on::<Paid>()
        .pattern("shop.order.*")
        .on::<Shipped>()
        .command::<Charge>()
        .pattern("shop.#")
        .start()
        .await
        .unwrap();
    // Patterns that overlap deliver once.
    for accepted in [
        bus.publish(Paid(1)).await.unwrap(),
        bus.publish(Shipped(2)).await.unwrap(),
        bus.publish_raw("shop.order.lost", json!(3)).await.unwrap(),
        bus.publish_raw(Paid::TOPIC, json!(4)).await.unwrap(),
        bus.publish_raw("elsewhere.and.far.away", json!(6))
            .await
            .unwrap(),
    ] {
        assert_eq!(accepted.local.accepted, 1);
    }
    assert_eq!(bus.request(Charge(5)).await, Ok(5));
    end(&bus).await;
    let expected = [
        entry("paid", Paid::TOPIC, "1"),
        entry("shipped", Shipped::TOPIC, "2"),
        entry("raw", "shop.order.lost", "3"),
        entry("paid", Paid::TOPIC, "4"),
        entry("raw", "elsewhere.and.far.away", "6"),
        entry("charge", Charge::QUEUE, "5"),
    ];
    assert_eq!(log.all(), expected);
}

#[tokio::test]
async fn each_group_gets_a_copy_by_its_patterns() {
    let bus = bus().await;
    let patterns = [
        "#",
        "shop.#",
        "shop.*.paid",
        "*.*",
        "shop.order.paid.#",
        "*.order.#",
        "#.paid",
        "bank.#",
    ];
    let logs: Vec<_> = patterns
        .iter()
        .map(|_| Log::<(&'static str, String, String)>::new())
        .collect();
    for (pattern, log) in patterns.iter().zip(&logs) {
        let kept = log.clone();
        bus.subscriber(*pattern, move || Clerk(kept.clone()))
            .pattern(pattern)
            .start()
            .await
            .unwrap();
    }
    let receipt = bus.publish(Paid(1)).await.unwrap();
    end(&bus).await;
    let took: BTreeSet<_> = patterns
        .iter()
        .zip(&logs)
        .filter(|(_, log)| log.len() == 1)
        .map(|(pattern, _)| *pattern)
        .collect();
    let matching = [
        "#",
        "shop.#",
        "shop.*.paid",
        "shop.order.paid.#",
        "*.order.#",
        "#.paid",
    ];
    assert_eq!(took, BTreeSet::from(matching));
    assert_eq!(receipt.local.accepted, 6);
}

#[tokio::test]
async fn members_of_a_group_compete() {
    let bus = bus().await;
    let logs = [Log::new(), Log::new()];
    let mut members = Vec::new();
    for log in &logs {
        let seen = log.clone();
        let member =
            bus.subscribe_fn::<Paid, _>("group", async move |paid: &Paid, _: &mut Context<'_>| {
                tokio::task::yield_now().await;
                seen.push(paid.0);
                Ok(())
            });
        members.push(member.start().await.unwrap());
    }
    members[0].pause();
    for id in 0..200 {
        assert_eq!(bus.publish(Paid(id)).await.unwrap().local.accepted, 1);
    }
    assert_eq!(
        members[1].state(),
        SubscriptionState::Paused,
        "for the whole group"
    );
    members[1].resume().await;
    eventually("all", || queue(&bus, "group").acked == 200).await;
    let mut all: Vec<_> = logs.iter().flat_map(Log::all).collect();
    assert!(logs.iter().all(|log| log.len() > 0), "both had some");
    all.sort_unstable();
    assert_eq!(all, (0..200).collect::<Vec<_>>(), "each was handled once");
    // The group lives as long as its last member.
    members[0].stop(PATIENCE).await;
    let before = logs[0].len();
    assert_eq!(bus.publish(Paid(200)).await.unwrap().local.accepted, 1);
    eventually("the other one", || queue(&bus, "group").acked == 201).await;
    assert_eq!(logs[0].len(), before);
    let last = members[1].clone();
    last.stop(PATIENCE).await;
    assert_eq!(bus.publish(Paid(201)).await.unwrap().local.accepted, 0);
    assert_eq!(last.state(), SubscriptionState::Stopped);
    end(&bus).await;
}

#[tokio::test]
async fn a_member_that_is_stopped_twice_leaves_its_group_once() {
    let bus = bus().await;
    let mut members = Vec::new();
    for _ in 0..2 {
        let member = bus.subscribe_fn::<Paid, _>("group", async |_, _| Ok(()));
        members.push(member.start().await.unwrap());
    }
    let again = members[0].clone();
    let (first, second) = tokio::join!(members[0].stop(PATIENCE), again.stop(PATIENCE));
    let third = again.stop(PATIENCE).await;
    for report in [first, second, third] {
        assert!(report.in_time && report.abandoned.is_empty(), "{report:?}");
    }
    assert_eq!(members[1].state(), SubscriptionState::Running);
    assert_eq!(bus.publish(Paid(0)).await.unwrap().local.accepted, 1);
    eventually("the other one", || queue(&bus, "group").acked == 1).await;
    end(&bus).await;
}

#[tokio::test]
async fn the_last_member_stopped_again_reports_the_same_and_may_be_cut_off_sooner() {
    let bus = bus().await;
    let member = bus.subscribe_fn::<Paid, _>("group", async |_, _| std::future::pending().await);
    let member = member.start().await.unwrap();
    bus.publish(Paid(0)).await.unwrap();
    eventually("begun", || queue(&bus, "group").in_flight == 1).await;
    let first = tokio::spawn({
        let member = member.clone();
        async move { member.stop(Duration::from_secs(1)).await }
    });
    eventually("left", || bus.snapshot().queue("group").is_none()).await;
    let sooner = member.stop(Duration::ZERO).await;
    assert!(!sooner.in_time && sooner.abandoned.is_empty(), "{sooner:?}");
    let first = first.await.unwrap();
    assert_eq!(first.abandoned.len(), 1, "{first:?}");
    assert_eq!(member.stop(Duration::ZERO).await, first);
    end(&bus).await;
}

#[tokio::test]
async fn a_member_that_differs_is_refused() {
    let bus = bus().await;
    let member = || bus.subscriber("group", || Clerk(Log::new())).on::<Paid>();
    member().start().await.unwrap();
    let mismatch = |what| SubscribeError::GroupMismatch {
        name: "group".into(),
        what,
    };
    let refused = [
        (member().on::<Shipped>().start().await, "patterns"),
        (member().command::<Charge>().start().await, "commands"),
        (
            member()
                .order(Order::Unordered { workers: 2 })
                .start()
                .await,
            "order",
        ),
        (member().retry(Retry::none()).start().await, "retry policy"),
        (
            member()
                .retry(Retry::default().classify(|_| None))
                .start()
                .await,
            "retry policy",
        ),
        (member().mailbox(7).start().await, "mailbox depth"),
        (
            member().overflow(Overflow::Fail).start().await,
            "overflow policy",
        ),
        (
            member().timeout(Duration::from_secs(1)).start().await,
            "timeout",
        ),
        (member().breaker(Breaker::new()).start().await, "breaker"),
    ];
    for (refused, what) in refused {
        assert_eq!(refused.unwrap_err(), mismatch(what));
    }
    let same = member().start().await.unwrap();
    same.stop(PATIENCE).await;
    assert_eq!(bus.publish(Paid(1)).await.unwrap().local.accepted, 1);
    end(&bus).await;
}

#[tokio::test]
async fn a_command_has_one_home() {
    let bus = bus().await;
    let clerk = |name: &str| {
        bus.subscriber(name, || Clerk(Log::new()))
            .command::<Charge>()
    };
    let first = clerk("first").start().await.unwrap();
    let taken = SubscribeError::CommandTaken {
        queue: Charge::QUEUE.into(),
        owner: "first".into(),
    };
    assert_eq!(clerk("second").start().await.unwrap_err(), taken);
    // Refused as a whole: its event is not subscribed either.
    let both = clerk("second").on::<Paid>().start().await;
    assert_eq!(both.unwrap_err(), taken);
    assert_eq!(bus.publish(Paid(1)).await.unwrap().local.accepted, 0);
    clerk("first").start().await.unwrap();
    assert_eq!(bus.request(Charge(1)).await, Ok(1));
    first.stop(PATIENCE).await;
    assert_eq!(bus.request(Charge(2)).await, Ok(2));
    end(&bus).await;
}

#[tokio::test]
async fn a_queue_of_a_name_and_a_topic_of_it_are_two_things() {
    #[derive(Serialize, Deserialize)]
    struct Charged;
    impl Event for Charged {
        const TOPIC: &'static str = Charge::QUEUE;
    }
    let bus = bus().await;
    let log = Log::new();
    let kept = log.clone();
    bus.subscriber("all", move || Clerk(kept.clone()))
        .pattern("#")
        .command::<Charge>()
        .start()
        .await
        .unwrap();
    bus.publish(Charged).await.unwrap();
    assert_eq!(bus.request(Charge(1)).await, Ok(1));
    end(&bus).await;
    let expected = [
        entry("raw", Charge::QUEUE, "null"),
        entry("charge", Charge::QUEUE, "1"),
    ];
    assert_eq!(log.all(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribing_and_unsubscribing_under_load_loses_nothing_of_the_others() {
    let bus = bus().await;
    let log = Log::new();
    let seen = log.clone();
    bus.subscribe_fn::<Paid, _>("steady", async move |paid: &Paid, _: &mut Context<'_>| {
        seen.push(paid.0);
        Ok(())
    })
    .mailbox(4)
    .start()
    .await
    .unwrap();
    let publishing = bus.clone();
    let publisher = tokio::spawn(async move {
        let mut copies = 0;
        for id in 0..3000 {
            let receipt = publishing.publish(Paid(id)).await.unwrap();
            assert!(receipt.local.accepted >= 1);
            copies += u64::from(receipt.local.accepted) - 1;
        }
        copies
    });
    let mut handled = 0;
    while !publisher.is_finished() {
        let passing = bus.subscriber("passing", || Clerk(Log::new())).on::<Paid>();
        let passing = passing.mailbox(2).start().await.unwrap();
        tokio::task::yield_now().await;
        let report = passing.stop(PATIENCE).await;
        assert!(report.abandoned.is_empty() && report.in_time, "{report:?}");
        let books = passing.snapshot();
        assert_eq!(
            (books.accepted, books.queued + books.in_flight),
            (books.acked, 0)
        );
        handled += books.acked;
    }
    let copies = publisher.await.unwrap();
    end(&bus).await;
    check_books(&bus);
    assert_eq!(log.all(), (0..3000).collect::<Vec<_>>());
    assert_eq!(
        copies, handled,
        "what the receipts said is what was handled"
    );
}

#[tokio::test]
async fn many_topics_made_at_run_time_each_have_their_way() {
    let bus = bus().await;
    let log = Log::new();
    let kept = log.clone();
    bus.subscriber("clerk", move || Clerk(kept.clone()))
        .pattern("made.*")
        .start()
        .await
        .unwrap();
    for number in 0..12_000 {
        let topic = format!("made.{number}");
        assert_eq!(
            bus.publish_raw(topic, json!(number))
                .await
                .unwrap()
                .local
                .accepted,
            1
        );
    }
    assert_eq!(
        bus.publish_raw("other.1", json!(1))
            .await
            .unwrap()
            .local
            .accepted,
        0
    );
    end(&bus).await;
    assert_eq!(log.len(), 12_000);
}

#[tokio::test]
async fn two_buses_do_not_know_each_other() {
    let (one, two): (Bus, Bus) = (bus().await, bus().await);
    let log = Log::new();
    for bus in [&one, &two] {
        let kept = log.clone();
        bus.subscriber("clerk", move || Clerk(kept.clone()))
            .on::<Paid>()
            .start()
            .await
            .unwrap();
    }
    for id in 0..10 {
        assert_eq!(one.publish(Paid(id)).await.unwrap().local.accepted, 1);
    }
    end(&one).await;
    assert_eq!(two.publish(Paid(10)).await.unwrap().local.accepted, 1);
    end(&two).await;
    assert_eq!(
        (queue(&one, "clerk").acked, queue(&two, "clerk").acked),
        (10, 1)
    );
}

#[tokio::test]
async fn a_subscriber_that_is_stopped_while_it_starts_ends_at_once() {
    let bus = bus().await;
    for _ in 0..500 {
        let brief = bus.subscriber("brief", || Clerk(Log::new())).on::<Paid>();
        let brief = brief.start().await.unwrap();
        assert!(brief.stop(PATIENCE).await.in_time);
    }
    end(&bus).await;
}
