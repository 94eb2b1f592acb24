//! Order at one queue: fifo, keyed, unordered (contract, rule 7).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::{
    Door, Log, PATIENCE, bus, bus_at_rest, dead_letters, end, eventually, poll_once, queue, soon,
};
use postroom::{
    Breaker, Bus, Context, Event, Failure, Order, Reason, Refusal, Retry, SubscribeError, Threads,
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Step(u64);
impl Event for Step {
    const TOPIC: &'static str = "ordering.step";
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn fifo_is_the_order_of_acceptance_with_one_in_hand() {
    let bus = Bus::builder("test").threads(Threads::Own(2));
    let bus = bus.start().await.unwrap();
    let log = Log::new();
    let seen = log.clone();
    let in_hand = AtomicUsize::new(0);
    bus.subscribe_fn::<Step, _>("fifo", async move |step: &Step, _: &mut Context<'_>| {
        assert_eq!(in_hand.fetch_add(1, Ordering::SeqCst), 0);
        tokio::task::yield_now().await;
        seen.push(step.0);
        in_hand.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    })
    .mailbox(50)
    .start()
    .await
    .unwrap();
    for id in 0..1000 {
        bus.publish(Step(id)).await.unwrap();
    }
    end(&bus).await;
    assert_eq!(log.all(), (0..1000).collect::<Vec<_>>());
}

/// Publishes 0 to 5 to a fifo queue whose handler fails on the first attempt at 2.
async fn fifo_with_a_failure(bus: &Bus, fail: fn() -> postroom::Outcome) -> Log<u64> {
    guarded_fifo_with_a_failure(bus, fail, None).await
}

async fn guarded_fifo_with_a_failure(
    bus: &Bus,
    fail: fn() -> postroom::Outcome,
    breaker: Option<Breaker>,
) -> Log<u64> {
    let log = Log::new();
    let seen = log.clone();
    let mut fifo = bus
        .subscribe_fn::<Step, _>("fifo", async move |step: &Step, cx: &mut Context<'_>| {
            seen.push(step.0);
            if step.0 == 2 && cx.attempt() == 1 {
                return fail();
            }
            Ok(())
        })
        .retry(Retry::fixed(MINUTE).attempts(3).immediate(1));
    if let Some(breaker) = breaker {
        fifo = fifo.breaker(breaker);
    }
    let fifo = fifo.start().await.unwrap();
    fifo.pause();
    bus.publish_all((0..6).map(Step)).await.unwrap();
    fifo.resume().await;
    log
}

#[tokio::test]
async fn an_immediate_retry_keeps_its_place() {
    let bus = bus().await;
    let log = fifo_with_a_failure(&bus, || Err(Failure::retry("once"))).await;
    end(&bus).await;
    assert_eq!(log.all(), [0, 1, 2, 2, 3, 4, 5]);
}

#[tokio::test]
async fn an_immediate_retry_after_a_panic_keeps_its_place() {
    let bus = bus().await;
    let log = fifo_with_a_failure(&bus, || panic!("once")).await;
    end(&bus).await;
    assert_eq!(log.all(), [0, 1, 2, 2, 3, 4, 5]);
}

#[tokio::test]
async fn an_immediate_retry_that_a_breaker_governs_keeps_its_place() {
    for fail in [|| Err(Failure::retry("once")), || panic!("once")] {
        let bus = bus().await;
        let breaker = Some(Breaker::new().minimum(100));
        let log = guarded_fifo_with_a_failure(&bus, fail, breaker).await;
        end(&bus).await;
        assert_eq!(log.all(), [0, 1, 2, 2, 3, 4, 5]);
    }
}

#[tokio::test]
async fn a_delayed_retry_goes_behind_what_is_queued_by_then() {
    let (bus, clock) = bus_at_rest().await;
    let later = || Err(Failure::retry_after(MINUTE, "later"));
    let log = fifo_with_a_failure(&bus, later).await;
    bus.settle().await;
    assert_eq!(log.all(), [0, 1, 2, 3, 4, 5]);
    clock.advance(MINUTE);
    bus.publish(Step(6)).await.unwrap();
    end(&bus).await;
    let mut all = log.all();
    all.drain(..6);
    all.sort_unstable();
    assert_eq!(all, [2, 6]);
}

#[tokio::test]
async fn unordered_workers_handle_as_many_at_a_time_as_there_are() {
    let bus = bus().await;
    let (door, in_hand) = (Door::closed(), Arc::new(AtomicUsize::new(0)));
    let (passing, counted) = (door.clone(), Arc::clone(&in_hand));
    bus.subscribe_fn::<Step, _>("four", async move |_: &Step, _: &mut Context<'_>| {
        counted.fetch_add(1, Ordering::SeqCst);
        passing.pass().await;
        counted.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    })
    .workers(4)
    .start()
    .await
    .unwrap();
    bus.publish_all((0..10).map(Step)).await.unwrap();
    eventually("four in hand", || in_hand.load(Ordering::SeqCst) == 4).await;
    // One finishes: its worker takes another one, though the others hold on.
    door.let_through(1);
    eventually("one done", || {
        queue(&bus, "four").acked == 1 && in_hand.load(Ordering::SeqCst) == 4
    })
    .await;
    door.open();
    end(&bus).await;
    assert_eq!(queue(&bus, "four").acked, 10);
}

#[tokio::test]
async fn a_lane_waits_in_place_and_the_others_run() {
    let (bus, clock) = bus_at_rest().await;
    let log = Log::new();
    let seen = log.clone();
    bus.subscribe_fn::<Step, _>("keyed", async move |step: &Step, cx: &mut Context<'_>| {
        seen.push((cx.envelope().key().unwrap_or("none").to_owned(), step.0));
        match (step.0, cx.attempt()) {
            (0, 1) => Err(Failure::retry("once")),
            (2, _) => Err(Failure::reject("never")),
            _ => Ok(()),
        }
    })
    .keyed(2)
    .retry(Retry::fixed(MINUTE).attempts(2))
    .start()
    .await
    .unwrap();
    for (id, key) in [(0, "a"), (1, "a"), (2, "b"), (3, "b"), (4, "a"), (5, "c")] {
        bus.publish(Step(id)).key(key).await.unwrap();
    }
    bus.publish(Step(6)).await.unwrap();
    eventually("one waits and two are parked behind it", || {
        let books = queue(&bus, "keyed");
        (
            books.acked,
            books.dead_lettered,
            books.waiting,
            books.queued,
        ) == (3, 1, 1, 2)
    })
    .await;
    let mut before = log.all();
    before.sort();
    let lane = |key: &str, id: u64| (key.to_owned(), id);
    // A dead letter lets its successors go on; a waiting retry does not.
    let ran = [
        lane("a", 0),
        lane("b", 2),
        lane("b", 3),
        lane("c", 5),
        lane("none", 6),
    ];
    assert_eq!(before, ran);
    assert_eq!(bus.dead_letters().len().await.unwrap(), 1);
    log.clear();
    clock.advance(MINUTE);
    end(&bus).await;
    assert_eq!(log.all(), [lane("a", 0), lane("a", 1), lane("a", 4)]);
}

#[tokio::test]
async fn parked_successors_take_at_most_half_of_the_credits() {
    let (bus, clock) = bus_at_rest().await;
    let log = Log::new();
    let seen = log.clone();
    bus.subscribe_fn::<Step, _>("keyed", async move |step: &Step, cx: &mut Context<'_>| {
        seen.push(step.0);
        match (step.0, cx.attempt()) {
            (0, 1) => Err(Failure::retry("once")),
            _ => Ok(()),
        }
    })
    .keyed(1)
    .mailbox(8)
    .retry(Retry::fixed(MINUTE).attempts(2))
    .start()
    .await
    .unwrap();
    bus.publish(Step(0)).key("held").await.unwrap();
    eventually("it waits", || queue(&bus, "keyed").waiting == 1).await;
    for id in 1..5 {
        bus.try_publish_keyed(id, "held").unwrap();
    }
    let error = bus.try_publish_keyed(5, "held").unwrap_err();
    assert_eq!(
        *error.kind(),
        Refusal::Full {
            queue: "keyed".into()
        }
    );
    // The clock is moved past the default timeout while it waits.
    let mut parked = bus.publish(Step(5)).key("held").timeout(2 * MINUTE);
    assert!(poll_once(&mut parked).is_pending());
    // The other keys have the rest, past the one that waits in line for its lane.
    for id in 10..13 {
        bus.publish(Step(id)).key("free").await.unwrap();
        eventually("handled", || log.all().contains(&id)).await;
    }
    clock.advance(MINUTE);
    soon("the parked one", parked).await.unwrap();
    end(&bus).await;
    let held: Vec<_> = log.all().into_iter().filter(|id| *id < 10).collect();
    assert_eq!(held, [0, 0, 1, 2, 3, 4, 5]);
}

trait TryPublishKeyed {
    fn try_publish_keyed(
        &self,
        id: u64,
        key: &str,
    ) -> Result<postroom::Receipt, postroom::PublishError<Step>>;
}

impl TryPublishKeyed for Bus {
    fn try_publish_keyed(
        &self,
        id: u64,
        key: &str,
    ) -> Result<postroom::Receipt, postroom::PublishError<Step>> {
        self.publish(Step(id)).key(key).try_now()
    }
}

#[tokio::test]
async fn a_keyed_subscriber_may_hold_a_key_for_five_minutes_and_no_longer() {
    let bus = bus().await;
    let start = |waits: u32| {
        bus.subscribe_fn::<Step, _>("keyed", async |_: &Step, _: &mut Context<'_>| Ok(()))
            .order(Order::Keyed { lanes: 2 })
            .retry(Retry::fixed(MINUTE).attempts(waits + 1))
            .start()
    };
    let error = start(6).await.unwrap_err();
    let name = "keyed".to_owned();
    let (hold, most) = (6 * MINUTE, 5 * MINUTE);
    assert_eq!(error, SubscribeError::HoldsTooLong { name, hold, most });
    start(5).await.unwrap();
    end(&bus).await;
}

/// What the handler does at each attempt; after the last of them it succeeds.
#[derive(Clone, Debug)]
struct Plan {
    key: Option<u8>,
    failures: Vec<Fault>,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Retry,
    After(u8),
    Reject,
    Discard,
    Panic,
    Slow,
}

fn plan() -> impl Strategy<Value = Plan> {
    let fault = prop_oneof![
        3 => Just(Fault::Retry),
        3 => (0u8..3).prop_map(Fault::After),
        1 => Just(Fault::Reject),
        1 => Just(Fault::Discard),
        1 => Just(Fault::Panic),
        2 => Just(Fault::Slow),
    ];
    let failures = prop_oneof![
        3 => Just(Vec::new()),
        2 => proptest::collection::vec(fault, 1..5),
    ];
    (proptest::option::weighted(0.85, 0u8..4), failures)
        .prop_map(|(key, failures)| Plan { key, failures })
}

/// The attempts that one message gets, and how it ends, by the contract alone.
fn model(plan: &Plan, most: u32) -> (u32, Ended) {
    let mut attempts = 0;
    for fault in &plan.failures {
        attempts += 1;
        match fault {
            Fault::Slow => return (attempts, Ended::Acked),
            Fault::Reject => return (attempts, Ended::Dead(Reason::Rejected)),
            Fault::Discard => return (attempts, Ended::Discarded),
            _ if attempts == most => return (attempts, Ended::Dead(Reason::Exhausted)),
            _ => {}
        }
    }
    (attempts + 1, Ended::Acked)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Acked,
    Dead(Reason),
    Discarded,
}

const ATTEMPTS: u32 = 4;

async fn run_keyed(plans: Vec<Plan>, lanes: usize, threads: usize, immediate: u32, depth: usize) {
    let bus = Bus::builder("test").threads(Threads::Own(threads));
    let bus = bus.start().await.unwrap();
    let log: Log<(u64, u32)> = Log::new();
    let in_hand: Arc<Mutex<HashMap<u8, u64>>> = Arc::default();
    let (seen, hands, known) = (log.clone(), Arc::clone(&in_hand), Arc::new(plans.clone()));
    bus.subscribe_fn::<Step, _>("keyed", async move |step: &Step, cx: &mut Context<'_>| {
        let plan = &known[usize::try_from(step.0).unwrap()];
        seen.push((step.0, cx.attempt()));
        if let Some(key) = plan.key {
            let other = hands.lock().unwrap().insert(key, step.0);
            assert_eq!(other, None, "one of a key at a time");
        }
        if fastrand::bool() {
            tokio::task::yield_now().await;
        }
        if let Some(key) = plan.key {
            hands.lock().unwrap().remove(&key);
        }
        match plan.failures.get(cx.attempt() as usize - 1) {
            None => Ok(()),
            Some(Fault::Slow) => {
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
            Some(Fault::Retry) => Err(Failure::retry("again")),
            Some(Fault::After(millis)) => {
                let wait = Duration::from_millis((*millis).into());
                Err(Failure::retry_after(wait, "later"))
            }
            Some(Fault::Reject) => Err(Failure::reject("never")),
            Some(Fault::Discard) => Err(Failure::discard("who cares")),
            Some(Fault::Panic) => panic!("planned"),
        }
    })
    .keyed(lanes)
    .mailbox(depth)
    .intensity(1_000_000, MINUTE)
    .restart_backoff(Duration::ZERO..Duration::ZERO)
    .retry(
        Retry::fixed(Duration::from_millis(1))
            .attempts(ATTEMPTS)
            .immediate(immediate),
    )
    .start()
    .await
    .unwrap();
    for (id, plan) in (0u64..).zip(&plans) {
        let publish = bus.publish(Step(id)).timeout(PATIENCE);
        let publish = match plan.key {
            Some(key) => publish.key(key),
            None => publish,
        };
        publish.await.unwrap();
    }
    end(&bus).await;

    let all = log.all();
    let mut ends: BTreeMap<u64, Ended> = BTreeMap::new();
    for letter in dead_letters(&bus).await {
        let Step(id) = serde_json::from_slice(letter.json().unwrap()).unwrap();
        let (attempts, _) = model(&plans[usize::try_from(id).unwrap()], ATTEMPTS);
        assert_eq!(letter.attempts, attempts);
        assert_eq!(ends.insert(id, Ended::Dead(letter.reason)), None);
    }
    let mut discarded = 0;
    for (id, plan) in (0u64..).zip(&plans) {
        let (attempts, ended) = model(plan, ATTEMPTS);
        let started: Vec<u32> = all
            .iter()
            .filter(|(of, _)| *of == id)
            .map(|(_, n)| *n)
            .collect();
        assert_eq!(
            started,
            (1..=attempts).collect::<Vec<_>>(),
            "{id}: {plan:?}"
        );
        match ended {
            Ended::Dead(_) => assert_eq!(ends.remove(&id), Some(ended)),
            Ended::Discarded => discarded += 1,
            Ended::Acked => {}
        }
    }
    assert!(ends.is_empty(), "{ends:?}");
    assert_eq!(queue(&bus, "keyed").discarded, discarded);
    for key in 0..4 {
        let of_key = |id: u64| plans[usize::try_from(id).unwrap()].key == Some(key);
        let order: Vec<_> = all.iter().filter(|(id, _)| of_key(*id)).collect();
        assert!(order.is_sorted(), "key {key}: {order:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Over immediate and delayed retries, panics, dead letters and discards: every message of a key starts
    /// only when its predecessor has ended, is started exactly as often as the rules say, and ends as they say.
    #[test]
    fn every_key_keeps_its_order_whatever_fails(
        plans in proptest::collection::vec(plan(), 1..40),
        lanes in 1usize..5, threads in 1usize..3, immediate in 0u32..3, depth in 1usize..12,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run_keyed(plans, lanes, threads, immediate, depth));
    }
}
