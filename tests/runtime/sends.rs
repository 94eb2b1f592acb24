//! Sends through a handler's context: only on success, in order, before the acknowledgement (contract, rule 9).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{
    Log, PATIENCE, advance_until, bus, bus_at_rest, dead_letters, end, eventually, queue,
};
use postroom::{
    Bus, Command, Context, Event, Failure, Lifecycle, ManualClock, MessageId, Overflow, Reason,
    Retry, Subscription,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Cause(u64);
impl Event for Cause {
    const TOPIC: &'static str = "sends.cause";
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Effect(u64);
impl Event for Effect {
    const TOPIC: &'static str = "sends.effect";
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Todo(u64);
impl Command for Todo {
    const QUEUE: &'static str = "sends.todo";
    type Reply = ();
}

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq)]
struct Seen {
    id: MessageId,
    number: u64,
    correlation: String,
    causation: Option<MessageId>,
    key: Option<String>,
    header: Option<String>,
}

fn seen(number: u64, cx: &Context<'_>) -> Seen {
    let envelope = cx.envelope();
    Seen {
        id: cx.id(),
        number,
        correlation: envelope.correlation_id(),
        causation: envelope.causation_id(),
        key: envelope.key().map(str::to_owned),
        header: envelope.header("h").map(str::to_owned),
    }
}

/// Logs the effects.
async fn effects(bus: &Bus, mailbox: usize) -> (Subscription, Log<Seen>) {
    let log = Log::new();
    let kept = log.clone();
    let effects = bus.subscribe_fn::<Effect, _>(
        "effects",
        async move |effect: &Effect, cx: &mut Context<'_>| {
            kept.push(seen(effect.0, cx));
            Ok(())
        },
    );
    (effects.mailbox(mailbox).start().await.unwrap(), log)
}

fn numbers(log: &Log<Seen>) -> Vec<u64> {
    log.all().iter().map(|seen| seen.number).collect()
}

#[tokio::test]
async fn they_go_out_in_order_and_belong_to_the_conversation() {
    let bus = bus().await;
    let (_, log) = effects(&bus, 8).await;
    let todos = log.clone();
    bus.handle_fn::<Todo, _>("todos", async move |todo: &Todo, cx: &mut Context<'_>| {
        todos.push(seen(todo.0, cx));
        Ok(())
    })
    .start()
    .await
    .unwrap();
    let ids = Log::new();
    let kept = ids.clone();
    bus.subscribe_fn::<Cause, _>(
        "causes",
        async move |cause: &Cause, cx: &mut Context<'_>| {
            kept.push(cx.publish(Effect(cause.0)).key("k").header("h", "v").id());
            tokio::task::yield_now().await;
            kept.push(cx.publish(Effect(cause.0 + 1)).id());
            kept.push(cx.send(Todo(cause.0 + 2)).id());
            Ok(())
        },
    )
    .start()
    .await
    .unwrap();
    let root = bus.publish(Cause(10)).correlation("talk").await.unwrap();
    eventually("all", || log.len() == 3).await;
    let (mut all, ids) = (log.all(), ids.all());
    all.sort_by_key(|seen| seen.number);
    let sent = |place: usize, number| Seen {
        id: ids[place],
        number,
        correlation: "talk".to_owned(),
        causation: Some(root.id),
        key: None,
        header: None,
    };
    let first = Seen {
        key: Some("k".into()),
        header: Some("v".into()),
        ..sent(0, 10)
    };
    assert_eq!(all, [first, sent(1, 11), sent(2, 12)]);
    // Without a correlation of its own, the cause's id is the conversation.
    log.clear();
    let root = bus.publish(Cause(20)).await.unwrap();
    eventually("all", || log.len() == 3).await;
    assert!(
        log.all()
            .iter()
            .all(|seen| seen.correlation == root.id.to_string())
    );
    end(&bus).await;
}

#[tokio::test]
async fn a_failed_attempt_sends_nothing() {
    let (bus, clock) = bus_at_rest().await;
    let (_, log) = effects(&bus, 8).await;
    bus.subscribe_fn::<Cause, _>("causes", async move |_: &Cause, cx: &mut Context<'_>| {
        cx.publish(Effect(cx.attempt().into()));
        cx.publish(Effect(100)).delay(SECOND);
        match cx.attempt() {
            1 => Err(Failure::retry("no")),
            2 => panic!("planned"),
            3 => std::future::pending().await,
            _ => Ok(()),
        }
    })
    .timeout(SECOND)
    .retry(Retry::fixed(SECOND).attempts(4).immediate(1))
    .start()
    .await
    .unwrap();
    bus.publish(Cause(0)).await.unwrap();
    advance_until(&clock, SECOND, "handled", || log.len() == 2).await;
    assert_eq!(numbers(&log), [4, 100]);
    assert_eq!(bus.snapshot().schedules.made, 1);
    end(&bus).await;
}

#[tokio::test]
async fn a_rejected_message_sends_nothing() {
    let bus = bus().await;
    let (_, log) = effects(&bus, 8).await;
    bus.subscribe_fn::<Cause, _>(
        "causes",
        async move |cause: &Cause, cx: &mut Context<'_>| {
            cx.publish(Effect(cause.0));
            match cause.0 {
                0 => Err(Failure::reject("no")),
                1 => Err(Failure::discard("no")),
                _ => Ok(()),
            }
        },
    )
    .start()
    .await
    .unwrap();
    bus.publish_all((0..3).map(Cause)).await.unwrap();
    end(&bus).await;
    assert_eq!(numbers(&log), [2]);
}

#[tokio::test]
async fn a_delay_counts_from_the_release_and_an_expiry_holds() {
    let (bus, clock) = bus_at_rest().await;
    let (_, log) = effects(&bus, 8).await;
    bus.subscribe_fn::<Cause, _>("causes", async move |_: &Cause, cx: &mut Context<'_>| {
        cx.publish(Effect(1)).delay(10 * SECOND);
        cx.publish(Effect(2))
            .delay(10 * SECOND)
            .expires_in(5 * SECOND);
        cx.publish(Effect(3)).expires_in(5 * SECOND);
        Ok(())
    })
    .start()
    .await
    .unwrap();
    bus.publish(Cause(0)).await.unwrap();
    bus.settle().await;
    assert_eq!(numbers(&log), [3]);
    clock.advance(10 * SECOND - Duration::from_millis(1));
    bus.settle().await;
    assert_eq!(numbers(&log), [3]);
    clock.advance(Duration::from_millis(1));
    bus.settle().await;
    assert_eq!(numbers(&log), [3, 1]);
    assert_eq!(queue(&bus, "effects").expired, 1);
    end(&bus).await;
}

#[tokio::test]
async fn they_are_released_before_the_acknowledgement() {
    let bus = bus().await;
    let (effects, log) = effects(&bus, 1).await;
    effects.pause();
    bus.publish(Effect(0)).await.unwrap();
    let runs = Log::new();
    let counted = runs.clone();
    bus.subscribe_fn::<Cause, _>(
        "causes",
        async move |cause: &Cause, cx: &mut Context<'_>| {
            counted.push(cx.attempt());
            cx.publish(Effect(cause.0));
            Ok(())
        },
    )
    .start()
    .await
    .unwrap();
    bus.publish(Cause(1)).await.unwrap();
    eventually("handled", || runs.len() == 1).await;
    let books = queue(&bus, "causes");
    assert_eq!((books.in_flight, books.acked), (1, 0), "it waits for room");
    effects.resume().await;
    end(&bus).await;
    assert_eq!((numbers(&log), runs.all()), (vec![0, 1], vec![1]));
}

#[tokio::test]
async fn a_message_that_continues_itself_cannot_deadlock_and_credits_stay_exact() {
    const ROUNDS: u64 = 2000;
    for (depth, workers) in [(1, 1), (2, 1), (3, 2)] {
        let bus = bus().await;
        let log = Log::new();
        let kept = log.clone();
        let steps =
            bus.handle_fn::<Todo, _>("todos", async move |todo: &Todo, cx: &mut Context<'_>| {
                if todo.0 < ROUNDS {
                    cx.send(Todo(todo.0 + 1));
                }
                kept.push(todo.0);
                Ok(())
            });
        let steps = steps.mailbox(depth).workers(workers).start().await.unwrap();
        bus.send(Todo(0)).await.unwrap();
        eventually("all rounds", || log.len() as u64 == ROUNDS + 1).await;
        bus.settle().await;
        assert_eq!(log.all(), (0..=ROUNDS).collect::<Vec<_>>());
        // As many places as ever: no more and no fewer.
        steps.pause();
        for _ in 0..depth {
            bus.try_send(Todo(ROUNDS)).unwrap();
        }
        assert!(bus.try_send(Todo(ROUNDS)).is_err());
        steps.resume().await;
        end(&bus).await;
    }
}

#[tokio::test]
async fn only_the_first_send_to_the_own_queue_has_the_credit_in_hand() {
    let (bus, clock) = bus_at_rest().await;
    let log = Log::new();
    let kept = log.clone();
    let todos =
        bus.handle_fn::<Todo, _>("todos", async move |todo: &Todo, cx: &mut Context<'_>| {
            kept.push((todo.0, cx.attempt()));
            if todo.0 == 0 {
                cx.send(Todo(1));
                cx.send(Todo(2));
            }
            Ok(())
        });
    let retry = Retry::fixed(SECOND).attempts(2);
    let todos = todos.mailbox(1).retry(retry).start().await.unwrap();
    bus.send(Todo(0)).await.unwrap();
    // The second has no room as long as the first waits behind this very message.
    let failed = || bus.dead_letters().ledger().kept == 1;
    advance_until(&clock, SECOND, "release failed twice", failed).await;
    let letter = dead_letters(&bus).await.remove(0);
    assert_eq!((letter.reason, letter.attempts), (Reason::ReleaseFailed, 2));
    bus.settle().await;
    let all = log.all();
    assert_eq!(all.iter().filter(|(number, _)| *number == 2).count(), 0);
    assert_eq!(
        all.iter().filter(|(number, _)| *number == 1).count(),
        2,
        "what was released may repeat"
    );
    todos.pause();
    bus.try_send(Todo(9)).unwrap();
    assert!(bus.try_send(Todo(9)).is_err(), "credits are exact again");
    todos.resume().await;
    end(&bus).await;
}

#[tokio::test]
async fn a_release_that_is_cut_off_leaves_the_credits_exact() {
    let bus = bus().await;
    let (effects, log) = effects(&bus, 1).await;
    effects.pause();
    bus.publish(Effect(0)).await.unwrap();
    let runs = Log::new();
    let mut members = Vec::new();
    for member in 0..2 {
        let runs = runs.clone();
        let todos =
            bus.handle_fn::<Todo, _>("todos", async move |todo: &Todo, cx: &mut Context<'_>| {
                runs.push((todo.0, member));
                if todo.0 == 0 {
                    cx.send(Todo(1));
                    cx.publish(Effect(1));
                }
                Ok(())
            });
        members.push(todos.mailbox(2).start().await.unwrap());
    }
    bus.send(Todo(0)).await.unwrap();
    // The continuation has gone on the credit in hand, and the rest of the release waits for room.
    eventually("continued", || runs.len() == 2).await;
    let busy = runs.all()[0].1;
    let stopped = members[busy].stop(Duration::ZERO).await;
    assert!(!stopped.in_time);
    effects.resume().await;
    eventually("released by the other", || runs.len() == 4).await;
    bus.settle().await;
    assert_eq!(numbers(&log), [0, 1]);
    let other = &members[1 - busy];
    other.pause();
    for _ in 0..2 {
        bus.try_send(Todo(9)).unwrap();
    }
    assert!(bus.try_send(Todo(9)).is_err());
    other.resume().await;
    end(&bus).await;
    // A debug build ends the worker that would count below zero.
    assert_eq!(queue(&bus, "todos").restarts, 0);
}

#[tokio::test]
async fn a_release_without_room_fails_the_attempt_after_the_release_timeout() {
    let (bus, clock) = bus_at_rest().await;
    let (effects, log) = effects(&bus, 1).await;
    effects.pause();
    bus.publish(Effect(0)).await.unwrap();
    let runs = Log::new();
    let (counted, time) = (runs.clone(), clock.clone());
    bus.subscribe_fn::<Cause, _>("causes", async move |_: &Cause, cx: &mut Context<'_>| {
        counted.push(time.elapsed());
        cx.publish(Effect(1));
        Ok(())
    })
    .retry(Retry::fixed(60 * SECOND).attempts(2))
    .start()
    .await
    .unwrap();
    bus.publish(Cause(0)).await.unwrap();
    let waits = || queue(&bus, "causes").waiting == 1;
    advance_until(&clock, SECOND, "the first release failed", waits).await;
    assert!(clock.elapsed() >= 5 * SECOND, "the default release timeout");
    assert_eq!(runs.len(), 1, "the handler is not run again for it");
    let dead = || bus.dead_letters().ledger().kept == 1;
    advance_until(&clock, SECOND, "given up", dead).await;
    let letter = dead_letters(&bus).await.remove(0);
    assert_eq!(
        (letter.reason, letter.attempts, runs.len()),
        (Reason::ReleaseFailed, 2, 2)
    );
    assert!(letter.errors[0].contains("effects"), "{:?}", letter.errors);
    effects.resume().await;
    end(&bus).await;
    assert_eq!(numbers(&log), [0]);
}

#[tokio::test]
async fn a_command_to_a_queue_that_comes_in_time_is_released() {
    let clock = ManualClock::new();
    let bus = Bus::builder("test").clock(clock.clock());
    // So long that it cannot run out while a worker has not got its turn.
    let bus = bus.release_timeout(100_000 * SECOND).start().await.unwrap();
    bus.subscribe_fn::<Cause, _>("causes", async move |_: &Cause, cx: &mut Context<'_>| {
        cx.send(Todo(1));
        Ok(())
    })
    .retry(Retry::none())
    .start()
    .await
    .unwrap();
    bus.publish(Cause(0)).await.unwrap();
    eventually("in hand", || queue(&bus, "causes").in_flight == 1).await;
    bus.handle_fn::<Todo, _>("todos", async |_: &Todo, _: &mut Context<'_>| Ok(()))
        .start()
        .await
        .unwrap();
    let handled = || queue(&bus, "todos").acked == 1;
    advance_until(&clock, SECOND / 20, "released", handled).await;
    end(&bus).await;
}

#[tokio::test]
async fn a_release_that_cannot_be_made_at_all_fails_at_once() {
    #[derive(Serialize, Deserialize)]
    struct Wild;
    impl Event for Wild {
        const TOPIC: &'static str = "sends.*";
    }
    let (bus, _clock) = bus_at_rest().await;
    bus.subscribe_fn::<Cause, _>("causes", async move |_: &Cause, cx: &mut Context<'_>| {
        cx.publish(Wild);
        Ok(())
    })
    .retry(Retry::none())
    .start()
    .await
    .unwrap();
    bus.publish(Cause(0)).await.unwrap();
    eventually("given up", || bus.dead_letters().ledger().kept == 1).await;
    let letter = dead_letters(&bus).await.remove(0);
    assert_eq!(letter.reason, Reason::ReleaseFailed);
    end(&bus).await;
}

#[tokio::test]
async fn a_release_timeout_without_end_is_a_timeout() {
    let bus = Bus::builder("test").release_timeout(Duration::MAX);
    let bus = bus.start().await.unwrap();
    let (_, log) = effects(&bus, 1).await;
    bus.subscribe_fn::<Cause, _>(
        "causes",
        async move |cause: &Cause, cx: &mut Context<'_>| {
            cx.publish(Effect(cause.0));
            cx.publish(Effect(cause.0));
            Ok(())
        },
    )
    .start()
    .await
    .unwrap();
    bus.publish(Cause(1)).await.unwrap();
    end(&bus).await;
    assert_eq!(numbers(&log), [1, 1]);
    assert_eq!(queue(&bus, "causes").restarts, 0);
}

#[tokio::test]
async fn a_drop_policy_of_the_own_queue_does_not_cost_the_continuation() {
    let bus = bus().await;
    let log = Log::new();
    let kept = log.clone();
    let todos =
        bus.handle_fn::<Todo, _>("todos", async move |todo: &Todo, cx: &mut Context<'_>| {
            kept.push(todo.0);
            if todo.0 < 100 {
                cx.send(Todo(todo.0 + 1));
            }
            Ok(())
        });
    let todos = todos
        .mailbox(1)
        .overflow(Overflow::DropNewest)
        .start()
        .await
        .unwrap();
    bus.send(Todo(0)).await.unwrap();
    eventually("all", || log.len() == 101).await;
    assert_eq!(todos.snapshot().dropped, 0);
    end(&bus).await;
}

#[tokio::test]
async fn messages_in_a_ring_of_queues_of_one_do_not_stop() {
    let bus = bus().await;
    let (hops, stop) = (Log::new(), Arc::new(AtomicBool::new(false)));
    let (counted, stopped) = (hops.clone(), Arc::clone(&stop));
    bus.subscribe_fn::<Cause, _>(
        "causes",
        async move |cause: &Cause, cx: &mut Context<'_>| {
            cx.publish(Effect(cause.0 + 1));
            Ok(())
        },
    )
    .mailbox(1)
    .start()
    .await
    .unwrap();
    bus.subscribe_fn::<Effect, _>(
        "effects",
        async move |effect: &Effect, cx: &mut Context<'_>| {
            counted.push(effect.0);
            if !stopped.load(Ordering::SeqCst) {
                cx.publish(Cause(effect.0 + 1));
            }
            Ok(())
        },
    )
    .mailbox(1)
    .start()
    .await
    .unwrap();
    // One message in a ring of two places: there is always room for it.
    bus.publish(Cause(0)).await.unwrap();
    eventually("it goes round", || hops.len() > 500).await;
    stop.store(true, Ordering::SeqCst);
    assert!(bus.shutdown(PATIENCE).await.clean);
}

#[tokio::test]
async fn lifecycle_events_wait_for_nobody() {
    let bus = bus().await;
    let watch = bus
        .subscribe_fn::<Lifecycle, _>("watch", async |_: &Lifecycle, _: &mut Context<'_>| Ok(()));
    let watch = watch.mailbox(1).start().await.unwrap();
    watch.pause();
    let (effects, _) = effects(&bus, 1).await;
    for _ in 0..10 {
        effects.pause();
        effects.resume().await;
    }
    assert!(bus.snapshot().missed_events >= 19);
    watch.resume().await;
    end(&bus).await;
}
