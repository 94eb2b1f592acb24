//! Hand-over that stops and goes on: the breaker, pause and resume.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{Door, Log, bus, bus_at_rest, end, eventually, queue};
use postroom::{
    Breaker, BreakerError, Bus, Context, Event, Failure, Lifecycle, LifecycleKind, Retry,
    SubscribeError, Subscription, SubscriptionState,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Call(u64);
impl Event for Call {
    const TOPIC: &'static str = "breaker.call";
}

const SECOND: Duration = Duration::from_secs(1);

/// Opens when at least 4 attempts were made and half of them failed, for 10 s.
fn breaker() -> Breaker {
    Breaker::new()
        .failure_ratio(0.5)
        .minimum(4)
        .window(60 * SECOND)
        .pause(10 * SECOND)
}

/// A subscriber of calls that fail while `down` is set, which then are dead letters at once.
struct Caller {
    subscription: Subscription,
    log: Log<u64>,
    down: Arc<AtomicBool>,
}

impl Caller {
    async fn start(bus: &Bus, workers: usize, retry: Retry) -> Self {
        let (log, down) = (Log::new(), Arc::new(AtomicBool::new(true)));
        let (seen, fails) = (log.clone(), Arc::clone(&down));
        let calls =
            bus.subscribe_fn::<Call, _>("calls", async move |call: &Call, _: &mut Context<'_>| {
                seen.push(call.0);
                if fails.load(Ordering::SeqCst) {
                    return Err(Failure::retry("down"));
                }
                Ok(())
            });
        let calls = calls.breaker(breaker()).retry(retry).workers(workers);
        let subscription = calls.start().await.unwrap();
        Self {
            subscription,
            log,
            down,
        }
    }
}

#[tokio::test]
async fn it_opens_probes_and_closes_and_tells() {
    let (bus, clock) = bus_at_rest().await;
    let told = Log::new();
    let seen = told.clone();
    bus.subscribe_fn::<Lifecycle, _>(
        "told",
        async move |event: &Lifecycle, _: &mut Context<'_>| {
            if matches!(
                event.kind,
                LifecycleKind::BreakerOpened | LifecycleKind::BreakerClosed
            ) {
                seen.push((event.subject.clone(), event.kind));
            }
            Ok(())
        },
    )
    .start()
    .await
    .unwrap();
    let caller = Caller::start(&bus, 1, Retry::none()).await;
    bus.publish_all((0..10).map(Call)).await.unwrap();
    bus.settle().await;
    assert_eq!(
        caller.log.all(),
        [0, 1, 2, 3],
        "the fourth failure opens it"
    );
    assert_eq!(caller.subscription.state(), SubscriptionState::BreakerOpen);
    assert_eq!(queue(&bus, "calls").queued, 6, "no attempts are spent");

    clock.advance(10 * SECOND - Duration::from_millis(1));
    bus.settle().await;
    assert_eq!(caller.log.len(), 4);
    clock.advance(Duration::from_millis(1));
    bus.settle().await;
    assert_eq!(caller.log.all(), [0, 1, 2, 3, 4], "one probe");
    assert_eq!(caller.subscription.state(), SubscriptionState::BreakerOpen);

    caller.down.store(false, Ordering::SeqCst);
    clock.advance(10 * SECOND);
    bus.settle().await;
    assert_eq!(caller.log.all(), (0..10).collect::<Vec<_>>());
    assert_eq!(caller.subscription.state(), SubscriptionState::Running);
    end(&bus).await;
    let books = queue(&bus, "calls");
    assert_eq!((books.dead_lettered, books.acked), (5, 5));
    let calls = |kind| ("calls".to_owned(), kind);
    let opened = calls(LifecycleKind::BreakerOpened);
    assert_eq!(
        told.all(),
        [opened.clone(), opened, calls(LifecycleKind::BreakerClosed)]
    );
}

#[tokio::test]
async fn several_workers_make_one_probe() {
    let (bus, clock) = bus_at_rest().await;
    let caller = Caller::start(&bus, 4, Retry::none()).await;
    bus.publish_all((0..40).map(Call)).await.unwrap();
    bus.settle().await;
    // Those in hand when it opened are finished.
    let before = caller.log.len();
    assert!((4..=7).contains(&before), "{before}");
    for probe in 1..=3 {
        clock.advance(10 * SECOND);
        bus.settle().await;
        assert_eq!(caller.log.len(), before + probe);
    }
    caller.down.store(false, Ordering::SeqCst);
    clock.advance(10 * SECOND);
    bus.settle().await;
    end(&bus).await;
    let books = queue(&bus, "calls");
    assert_eq!(
        (books.dead_lettered, books.acked),
        (before as u64 + 3, 37 - before as u64)
    );
}

#[tokio::test]
async fn a_probe_that_expires_is_followed_by_another() {
    let (bus, clock) = bus_at_rest().await;
    let caller = Caller::start(&bus, 1, Retry::none()).await;
    bus.publish_all((0..4).map(Call)).await.unwrap();
    bus.settle().await;
    assert_eq!(caller.subscription.state(), SubscriptionState::BreakerOpen);
    bus.publish(Call(4)).expires_in(SECOND).await.unwrap();
    bus.publish(Call(5)).await.unwrap();
    caller.down.store(false, Ordering::SeqCst);
    clock.advance(10 * SECOND);
    eventually("the probe", || queue(&bus, "calls").acked == 1).await;
    assert_eq!(caller.log.all(), [0, 1, 2, 3, 5]);
    assert_eq!(caller.subscription.state(), SubscriptionState::Running);
    end(&bus).await;
    assert_eq!(queue(&bus, "calls").expired, 1);
}

#[tokio::test]
async fn immediate_retries_are_not_spent_on_an_open_breaker() {
    let (bus, clock) = bus_at_rest().await;
    let retry = Retry::fixed(SECOND).attempts(10).immediate(9);
    let caller = Caller::start(&bus, 1, retry).await;
    bus.publish(Call(0)).await.unwrap();
    eventually("open", || {
        caller.subscription.state() == SubscriptionState::BreakerOpen
    })
    .await;
    bus.settle().await;
    assert_eq!(caller.log.all(), [0, 0, 0, 0]);
    assert!(bus.dead_letters().is_empty().await.unwrap());
    caller.down.store(false, Ordering::SeqCst);
    clock.advance(10 * SECOND);
    eventually("the probe", || queue(&bus, "calls").acked == 1).await;
    end(&bus).await;
}

#[tokio::test]
async fn a_breaker_that_never_ends_its_pause_harms_nobody_else() {
    let bus = bus().await;
    let calls = bus.subscribe_fn::<Call, _>("calls", async |_: &Call, _: &mut Context<'_>| {
        Err(Failure::reject("down"))
    });
    let endless = Breaker::new().minimum(1).pause(Duration::MAX);
    let calls = calls.breaker(endless).start().await.unwrap();
    bus.publish_all((0..2).map(Call)).await.unwrap();
    eventually("open", || calls.state() == SubscriptionState::BreakerOpen).await;
    eventually("one is given up", || bus.dead_letters().ledger().kept == 1).await;
    bus.settle().await;
    let books = queue(&bus, "calls");
    assert_eq!(
        (books.dead_lettered, books.queued, books.restarts),
        (1, 1, 0)
    );
}

#[tokio::test]
async fn a_breaker_that_cannot_work_is_refused() {
    let bus = bus().await;
    let start = |breaker| {
        bus.subscribe_fn::<Call, _>("calls", async |_: &Call, _: &mut Context<'_>| Ok(()))
            .breaker(breaker)
            .start()
    };
    for ratio in [0.0, -1.0, 1.1] {
        let error = start(breaker().failure_ratio(ratio)).await.unwrap_err();
        assert_eq!(error, SubscribeError::Breaker(BreakerError::Ratio(ratio)));
    }
    assert!(start(breaker().failure_ratio(f64::NAN)).await.is_err());
    let zero = SubscribeError::Breaker(BreakerError::Zero);
    assert_eq!(start(breaker().minimum(0)).await.unwrap_err(), zero);
    assert_eq!(
        start(breaker().window(Duration::ZERO)).await.unwrap_err(),
        zero
    );
    assert_eq!(
        start(breaker().pause(Duration::ZERO)).await.unwrap_err(),
        zero
    );
    end(&bus).await;
}

#[tokio::test]
async fn a_paused_subscriber_finishes_what_is_in_hand_and_keeps_the_rest() {
    let bus = bus().await;
    let (door, log) = (Door::closed(), Log::new());
    let (passing, seen) = (door.clone(), log.clone());
    let calls =
        bus.subscribe_fn::<Call, _>("calls", async move |call: &Call, _: &mut Context<'_>| {
            seen.push(call.0);
            passing.pass().await;
            Ok(())
        });
    let calls = calls.mailbox(4).start().await.unwrap();
    bus.publish_all((0..4).map(Call)).await.unwrap();
    eventually("in hand", || log.len() == 1).await;
    calls.pause();
    assert_eq!(calls.state(), SubscriptionState::Paused);
    door.let_through(1);
    eventually("finished", || calls.snapshot().acked == 1).await;
    bus.settle().await;
    assert_eq!(log.all(), [0]);
    let books = calls.snapshot();
    assert_eq!((books.queued, books.in_flight), (3, 0));
    bus.try_publish(Call(4)).unwrap();
    assert!(bus.try_publish(Call(5)).is_err(), "the mailbox fills up");
    calls.resume().await;
    assert_eq!(calls.state(), SubscriptionState::Running);
    door.open();
    end(&bus).await;
    assert_eq!(log.all(), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn a_pause_spends_no_attempts_of_a_waiting_retry() {
    let (bus, clock) = bus_at_rest().await;
    let log = Log::new();
    let seen = log.clone();
    let calls =
        bus.subscribe_fn::<Call, _>("calls", async move |_: &Call, cx: &mut Context<'_>| {
            seen.push(cx.attempt());
            match cx.attempt() {
                1 => Err(Failure::retry("once")),
                _ => Ok(()),
            }
        });
    let calls = calls
        .retry(Retry::fixed(SECOND).attempts(2))
        .start()
        .await
        .unwrap();
    bus.publish(Call(0)).await.unwrap();
    bus.settle().await;
    calls.pause();
    clock.advance(3600 * SECOND);
    bus.settle().await;
    assert_eq!(log.all(), [1]);
    calls.resume().await;
    end(&bus).await;
    assert_eq!(log.all(), [1, 2]);
}
