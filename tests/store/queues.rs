//! Durable queues, over SQLite and PostgreSQL: what was accepted is there after a restart, and each end of a message is
//! an end of its row.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::common::store::{Placed, Seen, World, over_both};
use crate::common::{Door, end};
use postroom::{
    Bus, Command, CommandHandler, Context, Durable, Event, Failure, Filter, MessageId, Order,
    Outcome, Overflow, Reason, Refusal, Retry, SubscribeError, Subscriber, Subscription,
};
use serde::{Deserialize, Serialize};

over_both!(
    a_message_is_a_row_until_it_is_handled,
    what_was_accepted_is_handled_after_a_restart,
    a_message_published_again_under_its_id_is_there_once,
    many_publishers_share_commits_and_none_is_lost,
    an_event_goes_to_durable_queues_and_to_those_in_memory,
    a_delayed_retry_waits_in_the_table_over_a_restart,
    a_message_given_up_is_a_row_of_dead_letters_over_a_restart,
    a_replay_is_safe_to_repeat,
    a_request_is_answered_through_a_durable_queue,
    keyed_order_is_kept_over_retries,
    a_full_queue_follows_its_policy,
    another_process_takes_over,
    keyed_order_is_kept_when_another_process_takes_over,
    a_key_does_not_wait_for_a_handler_that_nobody_has,
    the_outbox_publishes_into_a_durable_queue,
    what_cannot_be_durable_says_so,
    a_group_is_subscribed_again_while_its_former_one_ends,
    what_a_former_subscription_has_in_hand_is_not_handed_out_again,
);

const ROWS: &str = "SELECT count(*) FROM postroom_queue";

fn durable() -> Durable {
    Durable::new()
        .lease(Duration::from_secs(1))
        .slow_poll(Duration::from_millis(200))
}

async fn bus(world: &World) -> Bus {
    world
        .builder()
        .durable_settings(durable())
        .start()
        .await
        .unwrap()
}

async fn publish(bus: &Bus, orders: std::ops::Range<u64>) {
    for order in orders {
        let receipt = bus.publish(Placed { order }).await.unwrap();
        assert_eq!(receipt.local.accepted, 1);
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + crate::common::PATIENCE;
    while !is_so() {
        assert!(std::time::Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn a_message_is_a_row_until_it_is_handled(world: World) {
    let bus = bus(&world).await;
    let handled = Seen::default();
    let subscription = handled.subscribe_durable(&bus).await;
    subscription.pause();
    bus.publish(Placed { order: 7 })
        .key("k")
        .header("tenant", "t")
        .await
        .unwrap();
    let row = world
        .texts("SELECT queue || ' ' || kind || ' ' || address || ' ' || key || ' ' || headers || ' ' || body FROM postroom_queue")
        .await;
    assert_eq!(
        row,
        [r#"seen event ordering.order-placed k [["tenant","t"]] {"order":7}"#]
    );
    subscription.resume().await;
    world.until(ROWS, 0).await;
    assert_eq!(handled.orders(), [7]);
    let books = subscription.snapshot();
    assert!(books.balances(), "{books:?}");
    assert_eq!((books.accepted, books.acked), (1, 1));
    end(&bus).await;
}

async fn a_message_published_again_under_its_id_is_there_once(world: World) {
    let bus = bus(&world).await;
    let handled = Seen::default();
    let subscription = handled.subscribe_durable(&bus).await;
    subscription.pause();
    let ids = [MessageId::new(), MessageId::new()];
    for _ in 0..2 {
        let now = bus.publish(Placed { order: 1 }).id(ids[0]);
        assert_eq!(now.await.unwrap().id, ids[0]);
        let delayed = bus.publish(Placed { order: 2 }).id(ids[1]);
        let delayed = delayed.delay(Duration::from_secs(3600)).await.unwrap();
        assert_eq!(delayed.schedule.unwrap().id(), ids[1]);
    }
    // And so it is in a transaction, which goes on.
    let mut tx = world.begin().await;
    let delayed = bus.publish(Placed { order: 2 }).id(ids[1]);
    let written = tx.write(delayed.delay(Duration::from_secs(3600))).await;
    assert_eq!(written.unwrap().id, ids[1]);
    tx.run("DELETE FROM postroom_outbox WHERE status = 'nothing'")
        .await;
    tx.commit().await;
    assert_eq!(world.number(ROWS).await, 1);
    assert_eq!(world.rows("scheduled").await, 1);
    subscription.resume().await;
    world.until(ROWS, 0).await;
    assert_eq!(handled.orders(), [1]);
    end(&bus).await;
}

async fn what_was_accepted_is_handled_after_a_restart(world: World) {
    let handled = Seen::default();
    let first = bus(&world).await;
    let subscription = handled.subscribe_durable(&first).await;
    subscription.pause();
    publish(&first, 0..50).await;
    let report = first.shutdown(Duration::from_secs(5)).await;
    assert!(report.abandoned.is_empty(), "{report:?}");
    assert!(first.snapshot().books_balance());
    assert_eq!(world.number(ROWS).await, 50);
    let second = bus(&world).await;
    handled.subscribe_durable(&second).await;
    world.until(ROWS, 0).await;
    assert_eq!(handled.orders(), (0..50).collect::<Vec<_>>());
    end(&second).await;
}

async fn many_publishers_share_commits_and_none_is_lost(world: World) {
    let bus = bus(&world).await;
    let handled = Seen::default();
    let subscription = handled.subscribe_durable(&bus).await;
    let mut publishers = Vec::new();
    for publisher in 0..64 {
        let bus = bus.clone();
        publishers.push(tokio::spawn(async move {
            publish(&bus, publisher * 20..publisher * 20 + 20).await;
        }));
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    world.until(ROWS, 0).await;
    assert_eq!(handled.sorted(), (0..1280).collect::<Vec<_>>());
    let books = subscription.snapshot();
    assert!(books.balances(), "{books:?}");
    assert_eq!(books.acked, 1280);
    end(&bus).await;
}

async fn an_event_goes_to_durable_queues_and_to_those_in_memory(world: World) {
    let bus = bus(&world).await;
    let (kept, other, fleeting) = (Seen::default(), Seen::default(), Seen::default());
    kept.subscribe_durable(&bus).await;
    for (name, seen, is_durable) in [("other", &other, true), ("fleeting", &fleeting, false)] {
        let seen = seen.clone();
        let subscriber = bus.subscriber(name, move || seen.clone()).on::<Placed>();
        let subscriber = match is_durable {
            true => subscriber.durable(),
            false => subscriber,
        };
        subscriber.start().await.unwrap();
    }
    let receipt = bus.publish(Placed { order: 1 }).await.unwrap();
    assert_eq!(receipt.local.accepted, 3);
    assert!(matches!(
        bus.try_publish(Placed { order: 2 }).unwrap_err().kind(),
        Refusal::MustWait { .. }
    ));
    world.until(ROWS, 0).await;
    until("handled in memory", || fleeting.len() == 1).await;
    assert_eq!((kept.orders(), other.orders()), (vec![1], vec![1]));
    end(&bus).await;
}

/// Fails until it is told to work, and counts its attempts.
#[derive(Clone, Default)]
struct Failing {
    works: Arc<AtomicBool>,
    attempts: Arc<std::sync::Mutex<Vec<u32>>>,
}

impl postroom::Subscriber<Placed> for Failing {
    async fn handle(&mut self, _: &Placed, cx: &mut Context<'_>) -> Outcome {
        self.attempts.lock().unwrap().push(cx.attempt());
        match self.works.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(Failure::retry(format!(
                "failed at attempt {}",
                cx.attempt()
            ))),
        }
    }
}

impl Failing {
    async fn start(&self, bus: &Bus, retry: Retry) -> Subscription {
        let failing = self.clone();
        bus.subscriber("failing", move || failing.clone())
            .on::<Placed>()
            .durable()
            .retry(retry)
            .start()
            .await
            .unwrap()
    }

    fn attempts(&self) -> Vec<u32> {
        self.attempts.lock().unwrap().clone()
    }
}

async fn a_delayed_retry_waits_in_the_table_over_a_restart(world: World) {
    let failing = Failing::default();
    let wait = Duration::from_millis(1500);
    let retry = || {
        Retry::exponential(wait..wait)
            .attempts(3)
            .immediate(0)
            .jitter(0.0)
    };
    let first = bus(&world).await;
    let subscription = failing.start(&first, retry()).await;
    publish(&first, 0..1).await;
    world
        .until(
            "SELECT count(*) FROM postroom_queue WHERE due_at IS NOT NULL AND attempts = 1",
            1,
        )
        .await;
    let errors = world.texts("SELECT errors FROM postroom_queue").await;
    assert_eq!(errors, [r#"["failed at attempt 1"]"#]);
    let books = || {
        let books = subscription.snapshot();
        assert!(books.balances(), "{books:?}");
        (books.accepted, books.returned, books.waiting)
    };
    until("its credit is free", || books() == (1, 1, 0)).await;
    end(&first).await;
    let second = bus(&world).await;
    failing.works.store(true, Ordering::Relaxed);
    failing.start(&second, retry()).await;
    world.until(ROWS, 0).await;
    assert_eq!(failing.attempts(), [1, 2]);
    end(&second).await;
}

async fn a_message_given_up_is_a_row_of_dead_letters_over_a_restart(world: World) {
    let failing = Failing::default();
    let first = bus(&world).await;
    failing.start(&first, Retry::none()).await;
    let id = first.publish(Placed { order: 7 }).await.unwrap().id;
    world
        .until("SELECT count(*) FROM postroom_dead_letters", 1)
        .await;
    assert_eq!(world.number(ROWS).await, 0);
    until("counted", || first.snapshot().dead_letters.made == 1).await;
    end(&first).await;
    let second = bus(&world).await;
    failing.works.store(true, Ordering::Relaxed);
    failing.start(&second, Retry::none()).await;
    let letters = second.dead_letters();
    let found = letters.list(&Filter::all().queue("failing")).await.unwrap();
    assert_eq!(found.len(), 1);
    let letter = &found[0];
    assert_eq!(
        (letter.envelope().id(), letter.reason, letter.attempts),
        (id, Reason::Exhausted, 1)
    );
    assert_eq!(letter.errors, ["failed at attempt 1"]);
    assert_eq!(letter.json().unwrap(), br#"{"order":7}"#);
    assert!(
        letters
            .list(&Filter::all().reason(Reason::Rejected))
            .await
            .unwrap()
            .is_empty()
    );
    letters.replay(letter.id).await.unwrap();
    world.until(ROWS, 0).await;
    assert_eq!(failing.attempts(), [1, 1]);
    assert!(letters.is_empty().await.unwrap());
    assert!(second.shutdown(crate::common::PATIENCE).await.clean);
}

async fn a_replay_is_safe_to_repeat(world: World) {
    let failing = Failing::default();
    let bus = bus(&world).await;
    failing.start(&bus, Retry::none()).await;
    publish(&bus, 0..20).await;
    world
        .until("SELECT count(*) FROM postroom_dead_letters", 20)
        .await;
    failing.works.store(true, Ordering::Relaxed);
    let mut replays = Vec::new();
    for _ in 0..4 {
        let letters = bus.dead_letters();
        replays.push(tokio::spawn(async move {
            for letter in letters.list(&Filter::all()).await.unwrap() {
                // Another one may have been first.
                let _ = letters.replay(letter.id).await;
            }
        }));
    }
    for replay in replays {
        replay.await.unwrap();
    }
    world.until(ROWS, 0).await;
    assert_eq!(failing.attempts().len(), 40, "each was handed back once");
    assert!(bus.dead_letters().is_empty().await.unwrap());
    assert_eq!(bus.snapshot().dead_letters.replayed, 20);
    end(&bus).await;
}

#[derive(Serialize, Deserialize)]
struct Double(u32);
impl Command for Double {
    const QUEUE: &'static str = "sums.double";
    type Reply = u32;
}
#[derive(Clone)]
struct Doubler;
impl CommandHandler<Double> for Doubler {
    async fn handle(&mut self, Double(n): &Double, _: &mut Context<'_>) -> Result<u32, Failure> {
        match n {
            0 => Err(Failure::reject("nothing to double")),
            n => Ok(2 * n),
        }
    }
}

async fn a_request_is_answered_through_a_durable_queue(world: World) {
    let bus = bus(&world).await;
    bus.subscriber("doubler", || Doubler)
        .command::<Double>()
        .durable()
        .start()
        .await
        .unwrap();
    assert_eq!(bus.request(Double(21)).await.unwrap(), 42);
    let refused = bus.request(Double(0)).await.unwrap_err();
    assert!(
        matches!(refused, postroom::RequestError::DeadLettered { .. }),
        "{refused}"
    );
    end(&bus).await;
}

async fn keyed_order_is_kept_over_retries(world: World) {
    let bus = bus(&world).await;
    let handled = Seen::default();
    let (write, failures) = (handled.clone(), Arc::new(AtomicU32::new(0)));
    bus.subscribe_fn::<Placed, _>(
        "keyed",
        async move |placed: &Placed, cx: &mut Context<'_>| {
            if placed.order.is_multiple_of(5) && cx.attempt() == 1 {
                failures.fetch_add(1, Ordering::Relaxed);
                return Err(Failure::retry("the first time"));
            }
            write.note(placed.order);
            Ok(())
        },
    )
    .keyed(4)
    .durable()
    .retry(Retry::exponential(Duration::from_millis(20)..Duration::from_millis(20)).immediate(0))
    .start()
    .await
    .unwrap();
    for order in 0..60_u64 {
        bus.publish(Placed { order }).key(order % 4).await.unwrap();
    }
    world.until(ROWS, 0).await;
    for key in 0..4 {
        let orders = handled
            .orders()
            .into_iter()
            .filter(|order| order % 4 == key);
        let expected = (0..60).filter(|order| order % 4 == key);
        assert_eq!(orders.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
    end(&bus).await;
}

async fn a_full_queue_follows_its_policy(world: World) {
    for overflow in [Overflow::Wait, Overflow::Fail, Overflow::DropNewest] {
        let bus = world
            .builder()
            .durable_settings(durable().rows(5))
            .publish_timeout(Duration::from_millis(300))
            .start()
            .await
            .unwrap();
        let handled = Seen::default();
        let write = handled.clone();
        let subscription = bus
            .subscriber("seen", move || write.clone())
            .on::<Placed>()
            .durable()
            .overflow(overflow)
            .start()
            .await
            .unwrap();
        subscription.pause();
        publish(&bus, 0..5).await;
        let sixth = bus.publish(Placed { order: 5 }).await;
        let queue = || "seen".to_owned();
        match overflow {
            Overflow::DropNewest => {
                let local = sixth.unwrap().local;
                assert_eq!((local.accepted, local.dropped), (0, 1));
                assert_eq!(subscription.snapshot().dropped, 1);
            }
            Overflow::Fail => {
                let refused = sixth.unwrap_err();
                assert_eq!(*refused.kind(), Refusal::Full { queue: queue() });
                assert_eq!(refused.into_message().unwrap().order, 5);
            }
            _ => {
                let refused = sixth.unwrap_err();
                assert_eq!(*refused.kind(), Refusal::Timeout { queue: queue() });
                let waits = bus
                    .publish(Placed { order: 5 })
                    .timeout(crate::common::PATIENCE);
                let (waited, ()) = tokio::join!(waits, subscription.resume());
                assert_eq!(waited.unwrap().local.accepted, 1);
            }
        }
        subscription.resume().await;
        world.until(ROWS, 0).await;
        let expected = 5 + u64::from(overflow == Overflow::Wait);
        assert_eq!(handled.orders(), (0..expected).collect::<Vec<_>>());
        end(&bus).await;
    }
}

async fn another_process_takes_over(world: World) {
    let (here, there) = (Seen::default(), Seen::default());
    let first = bus(&world).await;
    let subscription = here.subscribe_durable(&first).await;
    publish(&first, 0..10).await;
    world.until(ROWS, 0).await;
    let second = bus(&world).await;
    there.subscribe_durable(&second).await;
    // Both publish, and one consumes.
    publish(&second, 10..20).await;
    publish(&first, 20..30).await;
    world.until(ROWS, 0).await;
    assert_eq!((here.len(), there.len()), (30, 0));
    subscription.stop(Duration::from_secs(5)).await;
    publish(&second, 30..40).await;
    world.until(ROWS, 0).await;
    assert_eq!(there.orders(), (30..40).collect::<Vec<_>>());
    end(&first).await;
    end(&second).await;
}

async fn keyed_order_is_kept_when_another_process_takes_over(world: World) {
    const ALL: u64 = 200;
    let (seen, gate) = (Seen::default(), tokio::sync::watch::Sender::new(false));
    let subscribe = async |bus: &Bus| {
        let (seen, gate) = (seen.clone(), gate.subscribe());
        let steps = bus.subscribe_fn::<Placed, _>("steps", async move |placed, _| {
            gate.clone().wait_for(|is_open| *is_open).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
            seen.note(placed.order);
            Ok(())
        });
        steps.keyed(4).durable().start().await.unwrap()
    };
    let first = bus(&world).await;
    let steps = subscribe(&first).await;
    let second = bus(&world).await;
    subscribe(&second).await;
    for order in 0..ALL {
        let publish = second.publish(Placed { order }).key(order % 8);
        publish.await.unwrap();
    }
    gate.send_replace(true);
    until("the first is in the middle of it", || seen.len() >= 20).await;
    steps.stop(Duration::from_secs(5)).await;
    assert!(seen.len() < ALL as usize, "the second has something left");
    world.until(ROWS, 0).await;
    let orders = seen.orders();
    for key in 0..8 {
        let of_key = orders.iter().filter(|order| *order % 8 == key);
        let expected: Vec<_> = (key..ALL).step_by(8).collect();
        assert_eq!(of_key.copied().collect::<Vec<_>>(), expected, "key {key}");
    }
    end(&first).await;
    end(&second).await;
}

#[derive(Serialize, Deserialize)]
struct Moved {
    order: u64,
}
impl Event for Moved {
    const TOPIC: &'static str = "ordering.moved";
}

impl Subscriber<Moved> for Seen {
    async fn handle(&mut self, moved: &Moved, _: &mut Context<'_>) -> Outcome {
        self.note(moved.order);
        Ok(())
    }
}

async fn a_key_does_not_wait_for_a_handler_that_nobody_has(world: World) {
    let bus = bus(&world).await;
    let seen = Seen::default();
    let made = seen.clone();
    let make = move || made.clone();
    let both = bus.subscriber("steps", make.clone()).on::<Placed>();
    let both = both.on::<Moved>().keyed(2).durable();
    let former = both.start().await.unwrap();
    former.pause();
    bus.publish(Moved { order: 0 }).key("a").await.unwrap();
    bus.publish(Placed { order: 1 }).key("a").await.unwrap();
    former.stop(Duration::from_secs(5)).await;
    let one = bus.subscriber("steps", make).on::<Placed>();
    one.keyed(2).durable().start().await.unwrap();
    until("the next of its key is handled", || seen.orders() == [1]).await;
    let letters = bus.dead_letters().list(&Filter::all()).await.unwrap();
    let reasons: Vec<_> = letters.iter().map(|letter| letter.reason).collect();
    assert_eq!(reasons, [Reason::UnknownType]);
    end(&bus).await;
}

async fn the_outbox_publishes_into_a_durable_queue(world: World) {
    let bus = bus(&world).await;
    let handled = Seen::default();
    handled.subscribe_durable(&bus).await;
    bus.outbox().unwrap().start_relay();
    for order in 0..20 {
        let mut tx = world.begin().await;
        tx.place(&bus, order).await;
        tx.commit_by(&bus).await;
    }
    until("handled", || handled.len() >= 20).await;
    world.until_rows("published", 20).await;
    assert_eq!(handled.sorted(), (0..20).collect::<Vec<_>>());
    end(&bus).await;
}

async fn a_group_is_subscribed_again_while_its_former_one_ends(world: World) {
    let bus = bus(&world).await;
    let handled = Seen::default();
    let mut subscription = handled.subscribe_durable(&bus).await;
    let publisher = tokio::spawn({
        let bus = bus.clone();
        async move {
            let mut accepted = Vec::new();
            for order in 0..400 {
                let receipt = bus.publish(Placed { order }).await;
                // In between no queue may be there.
                tokio::task::yield_now().await;
                if receipt.is_ok_and(|receipt| receipt.local.accepted == 1) {
                    accepted.push(order);
                }
            }
            accepted
        }
    });
    publish(&bus, 1000..1001).await;
    for _ in 0..8 {
        let stop = subscription.stop(Duration::from_secs(2));
        let start = async {
            // It is a member of the former group, or begins a new one.
            tokio::task::yield_now().await;
            handled.subscribe_durable(&bus).await
        };
        (_, subscription) = tokio::join!(stop, start);
    }
    let mut accepted = publisher.await.unwrap();
    accepted.push(1000);
    world.until(ROWS, 0).await;
    assert_eq!(handled.sorted(), accepted);
    end(&bus).await;
}

async fn what_a_former_subscription_has_in_hand_is_not_handed_out_again(world: World) {
    for order in [Order::Fifo, Order::Unordered { workers: 2 }] {
        let bus = bus(&world).await;
        let (door, begun, ended) = (Door::closed(), Seen::default(), Seen::default());
        let subscribe = || {
            let (door, begun, ended) = (door.clone(), begun.clone(), ended.clone());
            let handler = async move |placed: &Placed, _: &mut Context<'_>| {
                begun.note(placed.order);
                if placed.order == 1 {
                    door.pass().await;
                }
                ended.note(placed.order);
                Ok(())
            };
            let subscriber = bus.subscribe_fn::<Placed, _>("seen", handler).durable();
            subscriber.order(order).start()
        };
        let former = subscribe().await.unwrap();
        publish(&bus, 1..2).await;
        until("it is in hand", || begun.len() == 1).await;
        let stop = tokio::spawn(async move { former.stop(crate::common::PATIENCE).await });
        until("it takes no more", || {
            bus.snapshot().queue("seen").is_none()
        })
        .await;
        subscribe().await.unwrap();
        publish(&bus, 2..3).await;
        if order != Order::Fifo {
            until("the next is handled beside it", || ended.len() == 1).await;
        }
        door.open();
        assert!(stop.await.unwrap().in_time);
        world.until(ROWS, 0).await;
        assert_eq!(begun.orders(), [1, 2]);
        let in_turn = match order {
            Order::Fifo => [1, 2],
            _ => [2, 1],
        };
        assert_eq!(ended.orders(), in_turn);
        end(&bus).await;
    }
}

async fn what_cannot_be_durable_says_so(world: World) {
    let bus = bus(&world).await;
    let own = bus
        .subscribe_fn::<postroom::Lifecycle, _>(
            "own",
            async |_: &postroom::Lifecycle, _: &mut Context<'_>| Ok(()),
        )
        .durable()
        .start()
        .await;
    assert!(matches!(own, Err(SubscribeError::NotDurable { .. })));
    let handled = Seen::default();
    let drops = bus
        .subscriber("drops", move || handled.clone())
        .on::<Placed>()
        .overflow(Overflow::DropOldest)
        .durable()
        .start()
        .await;
    assert!(matches!(drops, Err(SubscribeError::NotDurable { .. })));
    let handled = Seen::default();
    handled.subscribe_durable(&bus).await;
    let member = bus
        .subscriber("seen", move || handled.clone())
        .on::<Placed>()
        .start()
        .await;
    assert!(matches!(
        member,
        Err(SubscribeError::GroupMismatch {
            what: "durability",
            ..
        })
    ));
    end(&bus).await;
    let without = Bus::builder("shop").start().await.unwrap();
    let handled = Seen::default();
    let refused = without
        .subscriber("seen", move || handled.clone())
        .on::<Placed>()
        .durable()
        .start()
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("no store"), "{refused}");
    end(&without).await;
}
