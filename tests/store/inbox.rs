//! The inbox: a handler's effects, its record and what it sends happen once, or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::common::inbox::{Db, Taken, duplicates, effect, over_both_stores, stock, take};
use crate::common::store::{Placed, Seen, World};
use crate::common::{Door, Log, dead_letters, end, eventually, queue};
use postroom::{
    Bus, Command, Context, Event, Failure, Filter, Inbound, Interceptor, LocalBoxFuture, MessageId,
    Next, Outbound, Outcome, RawMessage, Reason, Refused, Relay, RequestError, Retry,
    SubscribeError, Subscriber, TxCommandHandler, TxContext, TxRawSubscriber, TxSubscriber,
};
use serde::{Deserialize, Serialize};

over_both_stores!(
    a_message_that_comes_again_is_acknowledged_and_not_handled,
    a_failed_attempt_leaves_no_trace,
    what_is_given_up_and_replayed_is_handled_once,
    what_a_handler_sends_is_written_if_and_only_if_it_commits,
    one_message_given_to_many_workers_and_two_buses_is_handled_once,
    what_is_behind_a_transaction_that_waits_is_left_to_other_workers,
    a_transaction_within_is_the_handlers_own,
    a_transaction_that_its_handler_ends_is_no_success,
    a_handler_that_an_interceptor_fails_is_rolled_back,
    messages_of_a_key_keep_their_order_over_failures,
    plain_and_transactional_handlers_mix,
    what_a_pattern_matches_is_handled_in_transactions,
    a_command_is_answered_after_its_commit,
    a_stop_in_the_middle_rolls_back_and_counts_no_attempt,
    what_was_handled_long_ago_is_forgotten_in_batches,
    a_message_that_is_too_large_commits_nothing,
    the_store_must_be_the_one_that_is_wanted,
);

fn quick(attempts: u32) -> Retry {
    Retry::exponential(Duration::from_millis(1)..Duration::from_millis(5)).attempts(attempts)
}

async fn a_message_that_comes_again_is_acknowledged_and_not_handled<S: Db>(world: World) {
    world.make_effects().await;
    let bus = world.bus().await;
    stock::<S>(&bus).await;
    bus.outbox().unwrap().start_relay();
    world.place(&bus, 0..20).await;
    world.until_effects(20).await;
    for round in 1..=3 {
        world.until_rows("published", 40).await;
        world.publish_again(&bus).await;
        eventually("they are known", || duplicates(&bus) == 20 * round).await;
    }
    // One that comes as its own value, and not as JSON, is handled alike.
    bus.publish(Placed { order: 20 }).await.unwrap();
    world.until_effects(21).await;
    eventually("all are acknowledged", || queue(&bus, "stock").acked == 81).await;
    assert_eq!(world.sorted_effects().await, (0..=20).collect::<Vec<_>>());
    assert_eq!(world.records().await, 21);
    end(&bus).await;
}

async fn a_failed_attempt_leaves_no_trace<S: Db>(world: World) {
    world.make_effects().await;
    let bus = world.bus().await;
    let tries = Log::new();
    let noted = tries.clone();
    bus.transactional_fn::<Placed, S, _>("stock", async move |placed, cx| {
        noted.push((placed.order, cx.attempt()));
        take(cx, placed.order).await?;
        match (placed.order, cx.attempt()) {
            (_, 3..) => Ok(()),
            (0, _) => Err(Failure::retry("not yet")),
            (1, _) => panic!("not yet"),
            (2, _) => std::future::pending().await,
            // In hand, on the same connection.
            (3, _) => Ok(S::run(cx.tx(), "INSERT INTO nowhere VALUES (1)").await?),
            _ => Ok(()),
        }
    })
    .timeout(Duration::from_millis(300))
    .retry(quick(3))
    .intensity(100, Duration::from_secs(60))
    .start()
    .await
    .unwrap();
    let sent = Seen::default();
    let noted = sent.clone();
    bus.subscribe_fn::<Taken, _>("sent", async move |taken, _| {
        noted.note(taken.order);
        Ok(())
    })
    .start()
    .await
    .unwrap();
    bus.outbox().unwrap().start_relay();
    world.place(&bus, 0..5).await;
    eventually("all are handled", || sent.len() >= 5).await;
    assert_eq!(world.sorted_effects().await, [0, 1, 2, 3, 4]);
    assert_eq!(sent.sorted(), [0, 1, 2, 3, 4]);
    let mut tries = tries.all();
    tries.sort_unstable();
    let wanted = (0..4).flat_map(|order| (1..=3).map(move |attempt| (order, attempt)));
    assert_eq!(tries, wanted.chain([(4, 1)]).collect::<Vec<_>>());
    assert_eq!((world.records().await, duplicates(&bus)), (5, 0));
    end(&bus).await;
}

async fn what_is_given_up_and_replayed_is_handled_once<S: Db>(world: World) {
    world.make_effects().await;
    let bus = world.bus().await;
    let broken = Arc::new(AtomicU64::new(1));
    let is_broken = Arc::clone(&broken);
    bus.transactional_fn::<Placed, S, _>("stock", async move |placed, cx| {
        take(cx, placed.order).await?;
        match is_broken.load(Ordering::SeqCst) {
            0 => Ok(()),
            _ => Err(Failure::retry("broken")),
        }
    })
    .retry(quick(2))
    .start()
    .await
    .unwrap();
    bus.outbox().unwrap().start_relay();
    world.place(&bus, 0..3).await;
    eventually("all are given up", || {
        queue(&bus, "stock").dead_lettered == 3
    })
    .await;
    assert_eq!((world.effects().await, world.records().await), (vec![], 0));
    broken.store(0, Ordering::SeqCst);
    let replayed = bus.dead_letters().replay_all(&Filter::all()).await;
    assert_eq!(replayed.unwrap().replayed, 3);
    world.until_effects(3).await;
    world.until_rows("published", 6).await;
    world.publish_again(&bus).await;
    eventually("they are known", || duplicates(&bus) == 3).await;
    assert_eq!(world.sorted_effects().await, [0, 1, 2]);
    end(&bus).await;
}

/// A later event.
#[derive(Serialize, Deserialize)]
struct Reminder(u64);
impl Event for Reminder {
    const TOPIC: &'static str = "catalog.reminder";
}

#[derive(Serialize, Deserialize)]
struct Reorder(u64);
impl Command for Reorder {
    const QUEUE: &'static str = "catalog.reorder";
    type Reply = ();
}

async fn what_a_handler_sends_is_written_if_and_only_if_it_commits<S: Db>(world: World) {
    world.make_effects().await;
    let bus = world.bus().await;
    bus.transactional_fn::<Placed, S, _>("stock", async move |placed, cx| {
        let order = placed.order;
        take(cx, order).await?;
        cx.publish(Reminder(order))
            .delay(Duration::from_millis(100));
        cx.send(Reorder(order)).header("origin", "stock");
        // Written by hand beside it, into the same transaction.
        match order % 2 {
            0 => Ok(()),
            _ => Err(Failure::reject("odd")),
        }
    })
    .start()
    .await
    .unwrap();
    let (reminders, reorders) = (Seen::default(), Log::new());
    let noted = reminders.clone();
    bus.subscribe_fn::<Reminder, _>("reminders", async move |reminder, _| {
        noted.note(reminder.0);
        Ok(())
    })
    .start()
    .await
    .unwrap();
    let noted = reorders.clone();
    bus.handle_fn::<Reorder, _>("reorders", async move |reorder, cx| {
        let envelope = cx.envelope();
        noted.push((
            reorder.0,
            envelope.header("origin").map(str::to_owned),
            envelope.causation_id(),
        ));
        Ok(())
    })
    .start()
    .await
    .unwrap();
    bus.outbox().unwrap().start_relay();
    let mut ids = Vec::new();
    for order in 0..20 {
        let mut tx = world.begin().await;
        ids.push(tx.place(&bus, order).await.id);
        tx.commit().await;
    }
    eventually("the even ones come", || {
        reminders.len() == 10 && reorders.len() == 10
    })
    .await;
    eventually("the odd ones are given up", || {
        queue(&bus, "stock").dead_lettered == 10
    })
    .await;
    let even: Vec<u64> = (0..20).step_by(2).collect();
    assert_eq!(world.sorted_effects().await, even);
    assert_eq!(reminders.sorted(), even);
    let mut reorders = reorders.all();
    reorders.sort_by_key(|(order, ..)| *order);
    let wanted = even
        .iter()
        .map(|order| (*order, Some("stock".to_owned()), Some(ids[*order as usize])));
    assert_eq!(reorders, wanted.collect::<Vec<_>>());
    // 20 placed, and for each even one three.
    world
        .until("SELECT count(*) FROM postroom_outbox", 50)
        .await;
    end(&bus).await;
}

async fn one_message_given_to_many_workers_and_two_buses_is_handled_once<S: Db>(world: World) {
    world.make_effects().await;
    let handled = Arc::new(AtomicU64::new(0));
    let mut buses = Vec::new();
    for _ in 0..2 {
        let bus = world.bus().await;
        let count = Arc::clone(&handled);
        bus.transactional_fn::<Placed, S, _>("stock", async move |placed, cx| {
            take(cx, placed.order).await?;
            // So that others come meanwhile.
            tokio::task::yield_now().await;
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .workers(4)
        .start()
        .await
        .unwrap();
        buses.push(bus);
    }
    let mut tx = world.begin().await;
    for order in 0..8 {
        tx.place(&buses[0], order).await;
    }
    tx.commit().await;
    // The same message in every lane, and so to both buses at once.
    world
        .run(
            "INSERT INTO postroom_outbox (id, kind, address, lane, body, status) \
             SELECT o.id, o.kind, o.address, l.lane, o.body, o.status \
             FROM postroom_outbox AS o, postroom_lanes AS l WHERE l.lane <> o.lane",
        )
        .await;
    for bus in &buses {
        bus.outbox().unwrap().start_relay();
    }
    let placed = "SELECT count(*) FROM postroom_outbox WHERE address = 'ordering.order-placed' \
        AND status <> 'published'";
    world.until(placed, 0).await;
    eventually("all are settled", || {
        buses
            .iter()
            .map(|bus| queue(bus, "stock").acked)
            .sum::<u64>()
            == 8 * 32
    })
    .await;
    assert_eq!(world.sorted_effects().await, (0..8).collect::<Vec<_>>());
    assert_eq!(handled.load(Ordering::SeqCst), 8);
    let known: Vec<u64> = buses.iter().map(duplicates).collect();
    assert_eq!(known.iter().sum::<u64>(), 8 * 31);
    for bus in &buses {
        end(bus).await;
    }
}

async fn what_is_behind_a_transaction_that_waits_is_left_to_other_workers<S: Db>(world: World) {
    if world.is_sqlite() {
        // It has one writer, and the transaction that waits is it.
        return;
    }
    world.make_effects().await;
    let bus = world.bus().await;
    let door = Door::closed();
    let waits = door.clone();
    let stock = bus.transactional_fn::<Placed, S, _>("stock", async move |placed, cx| {
        take(cx, placed.order).await?;
        if placed.order == 0 {
            waits.pass().await;
        }
        Ok(())
    });
    let stock = stock.workers(3).start().await.unwrap();
    stock.pause();
    for order in 0..30 {
        bus.publish(Placed { order }).await.unwrap();
    }
    stock.resume().await;
    let all_but = |left: u64| queue(&bus, "stock").acked == 30 - left;
    eventually("all but one are handled", || all_but(1)).await;
    door.open();
    eventually("all are handled", || all_but(0)).await;
    assert_eq!(world.sorted_effects().await, (0..30).collect::<Vec<_>>());
    end(&bus).await;
}

async fn a_transaction_within_is_the_handlers_own<S: Db>(world: World) {
    world.make_effects().await;
    let bus = world.bus().await;
    bus.transactional_fn::<Placed, S, _>("stock", async move |placed, cx| {
        let order = placed.order;
        S::run_nested(cx.tx(), &effect(order), true).await?;
        S::run_nested(cx.tx(), &effect(order + 100), false).await?;
        // One that fails is undone, and the rest is well.
        let failed = S::run_nested(cx.tx(), "INSERT INTO nowhere VALUES (1)", true).await;
        assert!(failed.is_err());
        match cx.attempt() {
            // What it has committed within goes with the rest.
            1 => Err(Failure::retry("once more")),
            _ => Ok(()),
        }
    })
    .retry(quick(3))
    .start()
    .await
    .unwrap();
    bus.outbox().unwrap().start_relay();
    world.place(&bus, 0..5).await;
    eventually("all are acknowledged", || queue(&bus, "stock").acked == 5).await;
    assert_eq!(world.sorted_effects().await, [0, 1, 2, 3, 4]);
    assert_eq!((world.records().await, duplicates(&bus)), (5, 0));
    end(&bus).await;
}

async fn a_transaction_that_its_handler_ends_is_no_success<S: Db>(world: World) {
    world.make_effects().await;
    let is_sqlite = world.is_sqlite();
    let bus = world.bus().await;
    bus.transactional_fn::<Placed, S, _>("stock", async move |placed, cx| {
        take(cx, placed.order).await?;
        if cx.attempt() == 1 {
            match placed.order {
                0 => S::run(cx.tx(), "ROLLBACK").await?,
                1 => S::run(cx.tx(), "COMMIT").await?,
                2 => {
                    S::run(cx.tx(), "ROLLBACK").await?;
                    S::run(cx.tx(), "BEGIN").await?;
                }
                // PostgreSQL gives the transaction up; SQLite only the statement.
                _ => drop(S::run(cx.tx(), "INSERT INTO nowhere VALUES (1)").await),
            }
        }
        Ok(())
    })
    .retry(quick(2))
    .start()
    .await
    .unwrap();
    let sent = Seen::default();
    let noted = sent.clone();
    bus.subscribe_fn::<Taken, _>("sent", async move |taken, _| {
        noted.note(taken.order);
        Ok(())
    })
    .start()
    .await
    .unwrap();
    bus.outbox().unwrap().start_relay();
    world.place(&bus, 0..4).await;
    eventually("all are acknowledged", || queue(&bus, "stock").acked == 4).await;
    assert_eq!(world.sorted_effects().await, [0, 1, 2, 3]);
    eventually("the others are sent", || sent.len() == 3).await;
    assert_eq!(sent.sorted(), [0, 2, 3], "1 was committed by hand");
    assert_eq!(duplicates(&bus), 1);
    let retried = queue(&bus, "stock").retried;
    assert_eq!(retried, if is_sqlite { 3 } else { 4 });
    assert!(dead_letters(&bus).await.is_empty());
    end(&bus).await;
}

/// Fails every first attempt after its handler.
struct Strict;
impl Interceptor for Strict {
    fn handle<'a>(&'a self, delivery: Inbound<'a>, next: Next<'a>) -> LocalBoxFuture<'a, Outcome> {
        Box::pin(async move {
            next.run().await?;
            match delivery.attempt() {
                1 => Err(Failure::retry("not by me")),
                _ => Ok(()),
            }
        })
    }
}

async fn a_handler_that_an_interceptor_fails_is_rolled_back<S: Db>(world: World) {
    world.make_effects().await;
    let bus = world.builder().intercept(Strict).start().await.unwrap();
    bus.transactional_fn::<Placed, S, _>("stock", async |placed, cx| take(cx, placed.order).await)
        .retry(quick(2))
        .start()
        .await
        .unwrap();
    bus.outbox().unwrap().start_relay();
    world.place(&bus, 0..5).await;
    eventually("all are acknowledged", || queue(&bus, "stock").acked == 5).await;
    assert_eq!(world.sorted_effects().await, [0, 1, 2, 3, 4]);
    assert_eq!((world.records().await, duplicates(&bus)), (5, 0));
    end(&bus).await;
}

async fn messages_of_a_key_keep_their_order_over_failures<S: Db>(world: World) {
    world.make_effects().await;
    let bus = world.bus().await;
    bus.transactional_fn::<Placed, S, _>("stock", async |placed, cx| {
        take(cx, placed.order).await?;
        match (placed.order % 7, cx.attempt()) {
            (3, 1) => Err(Failure::retry("not yet")),
            (5, 1) => panic!("not yet"),
            _ => Ok(()),
        }
    })
    .keyed(3)
    .retry(quick(3))
    .intensity(1000, Duration::from_secs(60))
    .restart_backoff(Duration::from_millis(1)..Duration::from_millis(5))
    .start()
    .await
    .unwrap();
    bus.outbox().unwrap().start_relay();
    let mut tx = world.begin().await;
    for order in 0..60 {
        tx.place_keyed(&bus, order, &(order % 4).to_string()).await;
    }
    tx.commit_by(&bus).await;
    world.until_effects(60).await;
    let effects = world.effects().await;
    for key in 0..4 {
        let of_key: Vec<u64> = effects.iter().copied().filter(|o| o % 4 == key).collect();
        assert_eq!(of_key, (0..60).filter(|o| o % 4 == key).collect::<Vec<_>>());
    }
    end(&bus).await;
}

/// Takes orders in transactions, and hears of what was taken without.
struct Both {
    heard: Seen,
}

impl<S: Db> TxSubscriber<Placed, S> for Both {
    async fn handle(&mut self, placed: &Placed, cx: &mut TxContext<'_, S>) -> Outcome {
        take(cx, placed.order).await
    }
}

impl Subscriber<Taken> for Both {
    async fn handle(&mut self, taken: &Taken, cx: &mut Context<'_>) -> Outcome {
        self.heard.note(taken.order);
        cx.publish(Reminder(taken.order));
        Ok(())
    }
}

impl<S: Db> TxCommandHandler<Reorder, S> for Both {
    async fn handle(&mut self, reorder: &Reorder, cx: &mut TxContext<'_, S>) -> Outcome {
        take(cx, reorder.0).await
    }
}

async fn plain_and_transactional_handlers_mix<S: Db>(world: World) {
    world.make_effects().await;
    let bus = world.bus().await;
    let (heard, reminders) = (Seen::default(), Seen::default());
    let hears = heard.clone();
    bus.subscriber("both", move || Both {
        heard: hears.clone(),
    })
    .on::<Taken>()
    .transactional::<Placed, S>()
    .transactional_command::<Reorder, S>()
    .start()
    .await
    .unwrap();
    let noted = reminders.clone();
    bus.subscribe_fn::<Reminder, _>("reminders", async move |reminder, _| {
        noted.note(reminder.0);
        Ok(())
    })
    .start()
    .await
    .unwrap();
    bus.outbox().unwrap().start_relay();
    for order in 0..10 {
        bus.publish(Placed { order }).await.unwrap();
        bus.send(Reorder(100 + order)).await.unwrap();
    }
    eventually("all is heard", || reminders.len() == 20).await;
    let all: Vec<u64> = (0..10).chain(100..110).collect();
    assert_eq!(world.sorted_effects().await, all);
    assert_eq!((heard.sorted(), reminders.sorted()), (all.clone(), all));
    assert_eq!(world.records().await, 20, "plain ones are not recorded");
    end(&bus).await;
}

/// Sees everything, and notes orders by a number of its own.
struct Watch;

impl<S: Db> TxRawSubscriber<S> for Watch {
    async fn handle(&mut self, message: RawMessage<'_>, cx: &mut TxContext<'_, S>) -> Outcome {
        let placed: Placed = message.decode()?;
        S::run(cx.tx(), &effect(placed.order)).await?;
        cx.publish(Reminder(placed.order));
        match cx.attempt() {
            1 => Err(Failure::retry("not yet")),
            _ => Ok(()),
        }
    }
}

impl<S: Db> TxSubscriber<Reminder, S> for Watch {
    async fn handle(&mut self, reminder: &Reminder, cx: &mut TxContext<'_, S>) -> Outcome {
        Ok(S::run(cx.tx(), &effect(100 + reminder.0)).await?)
    }
}

async fn what_a_pattern_matches_is_handled_in_transactions<S: Db>(world: World) {
    world.make_effects().await;
    let bus = world.bus().await;
    bus.subscriber("watch", || Watch)
        .transactional_pattern::<S>("#")
        .transactional::<Reminder, S>()
        .retry(quick(3))
        .start()
        .await
        .unwrap();
    bus.outbox().unwrap().start_relay();
    world.place(&bus, 0..10).await;
    world.until_effects(20).await;
    world.until_rows("published", 20).await;
    world.publish_again(&bus).await;
    eventually("they are known", || duplicates(&bus) == 10).await;
    // A failed attempt has left nothing, and what its exact type is handled by is not seen by the pattern.
    let wanted: Vec<u64> = (0..10).chain(100..110).collect();
    assert_eq!(world.sorted_effects().await, wanted);
    assert_eq!(world.records().await, 20);
    let snapshot = queue(&bus, "watch");
    assert_eq!((snapshot.retried, snapshot.dead_lettered), (10, 0));
    let wrong = bus.subscriber("wrong", || Watch);
    let wrong = wrong
        .transactional_pattern::<S>("ordering.\n")
        .start()
        .await;
    assert!(matches!(wrong.map(drop), Err(SubscribeError::Name(_))));
    end(&bus).await;
}

/// Asks for the number of effects so far.
#[derive(Serialize, Deserialize)]
struct Ask(u64);
impl Command for Ask {
    const QUEUE: &'static str = "catalog.ask";
    type Reply = u64;
}

/// The ids of what is sent.
struct Asked(Log<MessageId>);
impl Interceptor for Asked {
    fn publish(&self, message: &mut Outbound<'_>) -> Result<(), Refused> {
        self.0.push(message.envelope().id());
        Ok(())
    }
}

async fn a_command_is_answered_after_its_commit<S: Db>(world: World) {
    world.make_effects().await;
    let asked = Asked(Log::new());
    let builder = world.builder().intercept(Asked(asked.0.clone()));
    let (bus, asked) = (builder.start().await.unwrap(), asked.0);
    let subscription = bus.transactional_command_fn::<Ask, S, _>("ask", async |ask, cx| {
        take(cx, ask.0).await?;
        match (ask.0, cx.attempt()) {
            (1, 1) => Err(Failure::retry("not yet")),
            (2, _) => Err(Failure::reject("never")),
            _ => Ok(ask.0 * 2),
        }
    });
    let subscription = subscription.retry(quick(2)).start().await.unwrap();
    let patience = Duration::from_secs(10);
    for order in [0, 1, 3] {
        let reply = bus.request(Ask(order)).timeout(patience).await.unwrap();
        assert_eq!(reply, order * 2);
        // It is there when the reply is.
        assert!(world.effects().await.contains(&order));
    }
    let refused = bus.request(Ask(2)).timeout(patience).await;
    assert!(
        matches!(refused, Err(RequestError::DeadLettered { .. })),
        "{refused:?}"
    );
    // One that is known already, as if its reply had been lost with a process.
    subscription.pause();
    let asking = tokio::spawn({
        let bus = bus.clone();
        async move { bus.request(Ask(4)).timeout(patience).await }
    });
    eventually("it is asked", || queue(&bus, "ask").queued == 1).await;
    let id = asked.all().pop().unwrap();
    world
        .run(&format!(
            "INSERT INTO postroom_inbox (consumer, message_id) VALUES ('ask', '{id}')"
        ))
        .await;
    subscription.resume().await;
    let lost = asking.await.unwrap();
    assert!(
        matches!(lost, Err(RequestError::ReplyPathLost { .. })),
        "{lost:?}"
    );
    assert_eq!(duplicates(&bus), 1);
    assert_eq!(world.effects().await, [0, 1, 3]);
    end(&bus).await;
}

async fn a_stop_in_the_middle_rolls_back_and_counts_no_attempt<S: Db>(world: World) {
    world.make_effects().await;
    let attempts = Log::new();
    let start = async |door: Door| {
        // One that was cut off leaves its lanes to its lease.
        let relay = World::relay().lease(Duration::from_secs(1));
        let bus = world.builder().relay(relay).start().await.unwrap();
        let noted = attempts.clone();
        bus.transactional_fn::<Placed, S, _>("stock", async move |placed, cx| {
            take(cx, placed.order).await?;
            noted.push((placed.order, cx.attempt()));
            door.pass().await;
            Ok(())
        })
        .start()
        .await
        .unwrap();
        bus.outbox().unwrap().start_relay();
        bus
    };
    let bus = start(Door::closed()).await;
    world.place(&bus, 0..2).await;
    eventually("it is in the middle", || attempts.len() == 1).await;
    let report = bus.shutdown(Duration::from_millis(300)).await;
    assert!(!report.clean);
    assert_eq!((world.effects().await, world.records().await), (vec![], 0));
    let door = Door::closed();
    door.open();
    let bus = start(door).await;
    // The relay that was cut off may still mark them.
    while world.effects().await.len() < 2 {
        world.publish_again(&bus).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.effects().await, [0, 1]);
    assert_eq!(attempts.all(), [(0, 1), (0, 1), (1, 1)]);
    end(&bus).await;
}

async fn what_was_handled_long_ago_is_forgotten_in_batches<S: Db>(world: World) {
    world.make_effects().await;
    let relay = Relay::new()
        .slow_poll(Duration::from_millis(200))
        .keep_published(Duration::from_millis(400))
        .keep_handled(Duration::from_secs(3600))
        .clean_batch(1);
    let bus = world.builder().relay(relay).start().await.unwrap();
    stock::<S>(&bus).await;
    bus.outbox().unwrap().start_relay();
    let old = match world.is_sqlite() {
        true => "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-3601 seconds')",
        false => "now() - interval '3601 seconds'",
    };
    world
        .run(&format!(
            "INSERT INTO postroom_inbox (consumer, message_id, handled_at) \
             SELECT 'stock', CAST(lane AS TEXT), {old} FROM postroom_lanes"
        ))
        .await;
    let cleaned = || bus.snapshot().outbox.unwrap().cleaned;
    eventually("some are deleted, not all at once", || {
        (1..32).contains(&cleaned())
    })
    .await;
    world.place(&bus, 0..5).await;
    world.until_effects(5).await;
    // What is young stays.
    world.until("SELECT count(*) FROM postroom_inbox", 5).await;
    assert_eq!(world.sorted_effects().await, [0, 1, 2, 3, 4]);
    eventually("it is counted", || cleaned() >= 32).await;
    end(&bus).await;
}

async fn a_message_that_is_too_large_commits_nothing<S: Db>(world: World) {
    world.make_effects().await;
    let bus = world.builder().body_limit(200).start().await.unwrap();
    bus.transactional_fn::<Placed, S, _>("stock", async |placed, cx| {
        take(cx, placed.order).await?;
        cx.publish(Placed { order: 9 });
        if placed.order == 0 {
            cx.publish(Large("x".repeat(300)));
        }
        Ok(())
    })
    .retry(quick(2))
    .start()
    .await
    .unwrap();
    bus.publish(Placed { order: 0 }).await.unwrap();
    eventually("it is given up", || queue(&bus, "stock").dead_lettered == 1).await;
    assert_eq!((world.effects().await, world.records().await), (vec![], 0));
    assert_eq!(world.rows("waiting").await, 0);
    let letters = dead_letters(&bus).await;
    assert_eq!(letters[0].reason, Reason::ReleaseFailed);
    assert!(letters[0].errors[0].contains("not written"), "{letters:?}");
    end(&bus).await;
}

#[derive(Serialize, Deserialize)]
struct Large(String);
impl Event for Large {
    const TOPIC: &'static str = "catalog.large";
}

async fn the_store_must_be_the_one_that_is_wanted<S: Db>(world: World) {
    let nothing = async |bus: &Bus| {
        bus.transactional_fn::<Placed, S, _>("stock", async |_, _| Ok(()))
            .start()
            .await
            .map(drop)
    };
    let bus = Bus::builder("none").start().await.unwrap();
    assert_eq!(
        nothing(&bus).await,
        Err(SubscribeError::NoStore("stock".to_owned()))
    );
    end(&bus).await;
    let other = match world.is_sqlite() {
        true => World::postgres().await,
        false => World::sqlite().await,
    };
    let bus = other.bus().await;
    let refused = nothing(&bus).await;
    assert!(
        matches!(&refused, Err(SubscribeError::OtherDatabase { name, .. }) if name == "stock"),
        "{refused:?}"
    );
    end(&bus).await;
    let bus = world.bus().await;
    nothing(&bus).await.unwrap();
    let plain = bus.subscribe_fn::<Placed, _>("stock", async |_, _| Ok(()));
    assert!(matches!(
        plain.start().await.map(drop),
        Err(SubscribeError::GroupMismatch { .. })
    ));
    end(&bus).await;
}
