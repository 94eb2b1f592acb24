//! Health, and the watchdog that notices a handler which blocks its thread.

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use crate::common::{Door, Log, PATIENCE, bus, bus_at_rest, end, eventually, queue, soon};
use postroom::{
    Breaker, Bus, Condition, Escalation, Event, Failure, Health, Lifecycle, LifecycleKind, Problem,
    Retry, StartError, Subscription, SubscriptionState, Threads,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Job(u32);
impl Event for Job {
    const TOPIC: &'static str = "health.job";
}

const MINUTE: Duration = Duration::from_secs(60);
/// Short, so that the tests are; a thread that the machine keeps from running this long inside of a turn is
/// reported too, which no test here forbids.
const STUCK_AFTER: Duration = Duration::from_millis(50);

fn problems(health: &Health) -> Vec<(&str, Problem)> {
    let conditions = health.conditions().iter();
    conditions
        .map(|condition| (condition.subject.as_str(), condition.problem))
        .collect()
}

fn problem(bus: &Bus, problem: Problem) -> Option<Condition> {
    let health = bus.health();
    let mut conditions = health.conditions().iter();
    conditions
        .find(|condition| condition.problem == problem)
        .cloned()
}

/// Panics on every job; the second panic suspends it.
async fn fragile(bus: &Bus) -> Subscription {
    bus.subscribe_fn::<Job, _>("fragile", async |_, _| panic!("on purpose"))
        .retry(Retry::none())
        .intensity(1, MINUTE)
        .start()
        .await
        .unwrap()
}

#[tokio::test]
async fn a_bus_that_is_well_is_ready_and_live() {
    let bus = bus().await;
    let worker = bus.subscribe_fn::<Job, _>("worker", async |_, _| Ok(()));
    let worker = worker.start().await.unwrap();
    eventually("its worker runs", || worker.snapshot().workers == 1).await;
    let health = bus.health();
    assert!(health.is_ready() && health.is_live());
    assert!(health.conditions().is_empty(), "{health:?}");
    let json = serde_json::to_string(&health).unwrap();
    assert_eq!(json, r#"{"ready":true,"live":true,"conditions":[]}"#);
    end(&bus).await;
}

#[tokio::test]
async fn a_suspended_subscription_makes_it_unready_until_it_is_resumed() {
    let bus = bus().await;
    let fragile = fragile(&bus).await;
    bus.publish(Job(0)).await.unwrap();
    bus.publish(Job(1)).await.unwrap();
    eventually("it is suspended", || {
        fragile.state() == SubscriptionState::Suspended
    })
    .await;
    let health = bus.health();
    assert_eq!(problems(&health), [("fragile", Problem::Suspended)]);
    assert!(!health.is_ready());
    assert!(health.is_live(), "resume() helps");
    let json = serde_json::to_value(&health).unwrap();
    assert_eq!(json["ready"], false);
    assert_eq!(json["conditions"][0]["problem"], "suspended");
    fragile.resume().await;
    eventually("it is ready again", || bus.health().is_ready()).await;
    end(&bus).await;
}

#[tokio::test]
async fn a_pause_and_an_open_breaker_are_reported_and_leave_it_ready() {
    let (bus, _clock) = bus_at_rest().await;
    let paused = bus.subscribe_fn::<Job, _>("paused", async |_, _| Ok(()));
    let paused = paused.start().await.unwrap();
    let breaking = bus
        .subscribe_fn::<Job, _>("breaking", async |_, _| Err(Failure::retry("down")))
        .retry(Retry::none())
        .breaker(Breaker::new().failure_ratio(0.5).minimum(2).pause(MINUTE))
        .start()
        .await
        .unwrap();
    paused.pause();
    for job in 0..2 {
        bus.publish(Job(job)).await.unwrap();
    }
    eventually("the breaker opens", || {
        breaking.state() == SubscriptionState::BreakerOpen
    })
    .await;
    let health = bus.health();
    let expected = [
        ("paused", Problem::Paused),
        ("breaking", Problem::BreakerOpen),
    ];
    assert_eq!(problems(&health), expected);
    assert!(health.is_ready() && health.is_live());
    paused.resume().await;
    eventually("the pause is over", || {
        problem(&bus, Problem::Paused).is_none()
    })
    .await;
    let report = bus.shutdown(PATIENCE).await;
    assert!(report.timed_out.is_empty(), "{report:?}");
}

#[tokio::test]
async fn a_subscription_without_a_worker_is_reported_and_leaves_it_ready() {
    // The clock stands still: it waits for its next start for ever.
    let (bus, _clock) = bus_at_rest().await;
    struct Never;
    impl postroom::Subscriber<Job> for Never {
        async fn handle(&mut self, _: &Job, _: &mut postroom::Context<'_>) -> postroom::Outcome {
            Ok(())
        }
    }
    let starting = bus
        .try_subscriber("starting", async || Err::<Never, _>("not yet"))
        .on::<Job>()
        .start()
        .await
        .unwrap();
    eventually("its factory failed twice", || {
        starting.snapshot().restarts == 2 && problem(&bus, Problem::NoWorker).is_some()
    })
    .await;
    assert!(bus.health().is_ready());
    assert_eq!(starting.snapshot().workers, 0);
    let _ = bus.shutdown(Duration::ZERO).await;
}

#[tokio::test]
async fn a_failure_that_reaches_the_root_makes_it_unready_and_dead() {
    let bus = Bus::builder("shop").on_escalation(Escalation::StopBus);
    let bus = bus.start().await.unwrap();
    let _fragile = fragile(&bus).await;
    bus.publish(Job(0)).await.unwrap();
    bus.publish(Job(1)).await.unwrap();
    let why = tokio::time::timeout(PATIENCE, bus.failed()).await.unwrap();
    assert_eq!(Some(why), bus.failure());
    let failed = problem(&bus, Problem::Failed).unwrap();
    assert_eq!(failed.subject, "shop");
    assert_eq!(failed.detail.as_deref(), bus.failure());
    let health = bus.health();
    assert!(!health.is_ready() && !health.is_live(), "{health:?}");
    let _ = bus.shutdown(PATIENCE).await;
}

#[tokio::test]
async fn a_bus_that_shuts_down_is_unready_and_live() {
    let bus = bus().await;
    let door = Door::closed();
    let waits = door.clone();
    let worker = bus.subscribe_fn::<Job, _>("worker", async move |_, _| {
        waits.pass().await;
        Ok(())
    });
    worker.start().await.unwrap();
    bus.publish(Job(0)).await.unwrap();
    let ending = tokio::spawn({
        let bus = bus.clone();
        async move { bus.shutdown(PATIENCE).await }
    });
    eventually("it drains", || problem(&bus, Problem::Draining).is_some()).await;
    assert!(!bus.health().is_ready() && bus.health().is_live());
    door.open();
    assert!(soon("the shutdown", ending).await.unwrap().clean);
    assert_eq!(problems(&bus.health()), [("test", Problem::Closed)]);
    assert!(!bus.health().is_ready() && bus.health().is_live());
}

/// Blocks its thread at each job until the test lets go, as no handler should.
fn blocking() -> (
    mpsc::Sender<()>,
    impl AsyncFn(&Job, &mut postroom::Context<'_>) -> postroom::Outcome,
) {
    let (let_go, blocked) = mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let handler = async move |_: &Job, _: &mut postroom::Context<'_>| {
        // The sender gone lets go too.
        let _ = blocked.lock().unwrap().recv();
        Ok(())
    };
    (let_go, handler)
}

/// Hears of stuck handlers.
async fn listen(bus: &Bus) -> Log<(String, LifecycleKind)> {
    let heard = Log::new();
    let hears = heard.clone();
    bus.subscribe_fn::<Lifecycle, _>("listener", async move |event, _| {
        if matches!(event.kind, LifecycleKind::Stuck | LifecycleKind::Recovered) {
            hears.push((event.subject.clone(), event.kind));
        }
        Ok(())
    })
    .start()
    .await
    .unwrap();
    heard
}

async fn watchful_bus() -> Bus {
    let bus = Bus::builder("test").stuck_after(STUCK_AFTER);
    bus.start().await.unwrap()
}

#[tokio::test]
async fn a_handler_that_blocks_its_thread_is_reported_stuck_until_it_lets_go() {
    let bus = watchful_bus().await;
    let heard = listen(&bus).await;
    let (let_go, handler) = blocking();
    let blocker = bus.subscribe_fn::<Job, _>("blocker", handler).own_thread();
    blocker.start().await.unwrap();
    let told = |times: usize, kind| {
        let blocker = ("blocker".to_owned(), kind);
        heard
            .all()
            .iter()
            .filter(|event| **event == blocker)
            .count()
            == times
    };
    for episode in 1..=2 {
        bus.publish(Job(0)).await.unwrap();
        eventually("it is told to be stuck", || {
            told(episode, LifecycleKind::Stuck)
        })
        .await;
        let stuck = problem(&bus, Problem::Stuck).unwrap();
        assert_eq!(stuck.subject, "blocker");
        assert!(
            stuck.detail.unwrap().contains("`blocker`"),
            "names the thread"
        );
        assert!(stuck.lasts.unwrap() >= STUCK_AFTER);
        assert!(!bus.health().is_ready() && bus.health().is_live());
        assert_eq!(queue(&bus, "blocker").stuck, episode as u64);
        let_go.send(()).unwrap();
        eventually("it recovers", || told(episode, LifecycleKind::Recovered)).await;
        assert!(problem(&bus, Problem::Stuck).is_none());
        assert!(bus.health().is_ready());
    }
    assert_eq!(queue(&bus, "blocker").acked, 2);
    end(&bus).await;
}

#[tokio::test]
async fn a_handler_that_awaits_is_never_stuck() {
    let bus = watchful_bus().await;
    let door = Door::closed();
    let waits = door.clone();
    let patient = bus.subscribe_fn::<Job, _>("patient", async move |_, _| {
        waits.pass().await;
        Ok(())
    });
    patient.start().await.unwrap();
    let (let_go, handler) = blocking();
    let blocker = bus.subscribe_fn::<Job, _>("blocker", handler).own_thread();
    blocker.start().await.unwrap();
    bus.publish(Job(0)).await.unwrap();
    eventually("both have it", || queue(&bus, "patient").in_flight == 1).await;
    // Whoever looks twice as long as it takes has looked at the patient one long enough.
    eventually("the blocker is stuck for long", || {
        problem(&bus, Problem::Stuck).is_some_and(|stuck| stuck.lasts.unwrap() >= STUCK_AFTER * 2)
    })
    .await;
    assert_eq!(queue(&bus, "patient").stuck, 0);
    assert_eq!(queue(&bus, "blocker").stuck, 1);
    door.open();
    drop(let_go);
    end(&bus).await;
}

#[tokio::test]
async fn a_factory_that_blocks_its_thread_is_stuck_too() {
    let bus = watchful_bus().await;
    let (let_go, blocked) = mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    struct Slow;
    impl postroom::Subscriber<Job> for Slow {
        async fn handle(&mut self, _: &Job, _: &mut postroom::Context<'_>) -> postroom::Outcome {
            Ok(())
        }
    }
    bus.subscriber("slow", move || {
        let _ = blocked.lock().unwrap().recv();
        Slow
    })
    .on::<Job>()
    .start()
    .await
    .unwrap();
    eventually("it is stuck", || queue(&bus, "slow").stuck == 1).await;
    drop(let_go);
    eventually("it recovers", || bus.health().is_ready()).await;
    end(&bus).await;
}

/// The watchdog and the probe are on other threads: they answer while the caller's own is blocked.
#[actix::test]
async fn a_handler_on_the_callers_thread_is_noticed() {
    let bus = Bus::builder("test")
        .threads(Threads::Current)
        .stuck_after(STUCK_AFTER);
    let bus = bus.start().await.unwrap();
    let (let_go, handler) = blocking();
    let blocker = bus.subscribe_fn::<Job, _>("blocker", handler);
    blocker.start().await.unwrap();
    bus.publish(Job(0)).await.unwrap();
    let observer = std::thread::spawn({
        let bus = bus.clone();
        move || {
            let until = std::time::Instant::now() + PATIENCE;
            while problem(&bus, Problem::Stuck).is_none() {
                assert!(std::time::Instant::now() < until, "it was not noticed");
                std::thread::yield_now();
            }
            let_go.send(()).unwrap();
        }
    });
    eventually("it was handled", || queue(&bus, "blocker").acked == 1).await;
    observer.join().unwrap();
    assert_eq!(queue(&bus, "blocker").stuck, 1);
    eventually("it recovers", || bus.health().is_ready()).await;
    end(&bus).await;
}

/// A manual clock does not move while a handler blocks: the watchdog goes by the machine's.
#[tokio::test]
async fn a_stuck_handler_is_noticed_by_real_time_whatever_the_clock() {
    let clock = postroom::ManualClock::new();
    let bus = Bus::builder("test").clock(clock.clock());
    let bus = bus.stuck_after(STUCK_AFTER).start().await.unwrap();
    let (let_go, handler) = blocking();
    let blocker = bus.subscribe_fn::<Job, _>("blocker", handler);
    blocker.start().await.unwrap();
    bus.publish(Job(0)).await.unwrap();
    eventually("it is stuck", || problem(&bus, Problem::Stuck).is_some()).await;
    drop(let_go);
    end(&bus).await;
}

#[tokio::test]
async fn a_bus_may_be_told_to_see_nothing_as_stuck() {
    let bus = Bus::builder("test").stuck_after(Duration::MAX);
    let bus = bus.start().await.unwrap();
    assert!(bus.health().is_ready() && bus.health().is_live());
    end(&bus).await;
}

#[tokio::test]
async fn a_bus_cannot_be_told_to_see_everything_as_stuck() {
    let bus = Bus::builder("test").stuck_after(Duration::ZERO).start();
    let refused = bus.await.unwrap_err();
    assert!(
        matches!(refused, StartError::Zero("stuck_after")),
        "{refused}"
    );
}

/// Threads of this process whose name begins so.
#[cfg(target_os = "linux")]
pub(super) fn threads_named(prefix: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with(prefix))
        .count()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_watchdog_keeps_no_thread_alive() {
    let mut buses = Vec::new();
    for _ in 0..10 {
        let bus = Bus::builder("ends").start().await.unwrap();
        let worker = bus.subscribe_fn::<Job, _>("ends-own", async |_, _| Ok(()));
        worker.own_thread().start().await.unwrap();
        buses.push(bus);
    }
    assert_eq!(threads_named("ends"), 30);
    for bus in &buses {
        assert!(bus.shutdown(PATIENCE).await.clean);
    }
    drop(buses);
    eventually("all threads have ended", || threads_named("ends") == 0).await;
}
