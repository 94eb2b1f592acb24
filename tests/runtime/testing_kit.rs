//! The recorder, the faults, `encode_always`, `settle` and `advance`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postroom::testing::{Fault, Faults, Recorder, advance};
use postroom::{
    Builder, Bus, Command, Context, Event, Failure, Filter, Interceptor, ManualClock, Outbound,
    Outcome, Overflow, RawMessage, RawSubscriber, Refusal, Refused, Retry,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Ping(u32);
impl Event for Ping {
    const TOPIC: &'static str = "kit.ping";
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Pong(u32);
impl Event for Pong {
    const TOPIC: &'static str = "kit.pong";
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Double(u32);
impl Command for Double {
    const QUEUE: &'static str = "kit.double";
    type Reply = u32;
}

fn builder(clock: &ManualClock) -> Builder {
    Bus::builder("kit").clock(clock.clock())
}

async fn end(bus: Bus) {
    let report = bus.shutdown(Duration::from_secs(5)).await;
    assert!(report.clean, "{report:?}");
    assert!(bus.snapshot().books_balance(), "{:?}", bus.snapshot());
}

fn numbers(events: Vec<Ping>) -> Vec<u32> {
    events.into_iter().map(|ping| ping.0).collect()
}

#[tokio::test]
async fn every_way_in_is_recorded_once() {
    let clock = ManualClock::new();
    let recorder = Recorder::new();
    let bus = builder(&clock)
        .intercept(recorder.clone())
        .start()
        .await
        .unwrap();
    let paused = bus
        .subscribe_fn::<Ping, _>("sink", async |_: &Ping, _: &mut Context<'_>| Ok(()))
        .mailbox(3)
        .start()
        .await
        .unwrap();
    bus.handle_fn::<Double, _>("double", async |double: &Double, cx: &mut Context<'_>| {
        cx.publish(Ping(double.0));
        cx.publish(Ping(double.0 + 1))
            .delay(Duration::from_secs(10));
        Ok(double.0 * 2)
    })
    .start()
    .await
    .unwrap();
    bus.publish(Ping(1)).await.unwrap();
    bus.try_publish(Ping(2)).unwrap();
    bus.publish(Pong(1)).await.unwrap(); // nobody subscribes
    assert_eq!(bus.request(Double(10)).await, Ok(20));
    bus.publish(Ping(3))
        .delay(Duration::from_secs(5))
        .await
        .unwrap();
    bus.settle().await;
    assert_eq!(numbers(recorder.published()), [1, 2, 10]);
    advance(&bus, &clock, Duration::from_secs(10)).await;
    assert_eq!(numbers(recorder.published()), [1, 2, 10, 3, 11]);
    assert_eq!(numbers(recorder.handled("sink")), [1, 2, 10, 3, 11]);
    assert_eq!(recorder.published::<Pong>(), [Pong(1)]);
    assert_eq!(recorder.sent::<Double>(), [Double(10)]);
    assert_eq!(recorder.handled_commands::<Double>("double"), [Double(10)]);

    // A publish that waits for room is recorded when it is accepted, not before.
    paused.pause();
    recorder.clear();
    for number in 0..3 {
        bus.publish(Ping(number)).await.unwrap();
    }
    let waiting = tokio::spawn({
        let bus = bus.clone();
        async move { bus.publish(Ping(3)).await.unwrap() }
    });
    // Lets it run until it waits in line.
    tokio::task::yield_now().await;
    assert!(bus.try_publish(Ping(4)).is_err());
    assert_eq!(numbers(recorder.published()), [0, 1, 2]);
    paused.resume().await;
    waiting.await.unwrap();
    bus.settle().await;
    assert_eq!(numbers(recorder.handled("sink")), [0, 1, 2, 3]);
    assert_eq!(numbers(recorder.published()), [0, 1, 2, 3]);
    end(bus).await;
}

/// Refuses odd numbers by header, and counts what it sees.
#[derive(Clone, Default)]
struct Seen(Arc<AtomicU32>);
impl Interceptor for Seen {
    fn publish(&self, message: &mut Outbound<'_>) -> Result<(), Refused> {
        self.0.fetch_add(1, Ordering::SeqCst);
        message.header("seen", "1");
        if message.envelope().header("odd").is_some() {
            return Err(Refused("odd".to_owned()));
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_refused_publish_is_not_recorded() {
    let clock = ManualClock::new();
    let recorder = Recorder::new();
    let bus = builder(&clock)
        .intercept(recorder.clone())
        .intercept(Seen::default())
        .start()
        .await
        .unwrap();
    bus.subscribe_fn::<Ping, _>("full", async |_: &Ping, _: &mut Context<'_>| Ok(()))
        .mailbox(1)
        .overflow(Overflow::Fail)
        .start()
        .await
        .unwrap()
        .pause();
    bus.publish(Ping(1)).await.unwrap();
    let refused = bus.publish(Ping(2)).await.unwrap_err();
    assert!(matches!(refused.kind(), Refusal::Full { .. }));
    assert_eq!(refused.into_message(), Some(Ping(2)));
    let refused = bus.publish(Pong(3)).header("odd", "yes").await.unwrap_err();
    assert_eq!(refused.kind(), &Refusal::Intercepted("odd".to_owned()));
    assert!(bus.try_send(Double(1)).is_err());
    assert_eq!(recorder.all_published().len(), 1);
    assert!(bus.shutdown(Duration::ZERO).await.abandoned.len() == 1);
}

#[tokio::test]
async fn interceptors_see_a_message_once_on_its_way_in() {
    let clock = ManualClock::new();
    let recorder = Recorder::new();
    let seen = Seen::default();
    let bus = builder(&clock)
        .intercept(seen.clone())
        .intercept(recorder.clone())
        .start()
        .await
        .unwrap();
    let sink = bus
        .subscribe_fn::<Pong, _>("sink", async |_: &Pong, _: &mut Context<'_>| Ok(()))
        .mailbox(1)
        .start()
        .await
        .unwrap();
    bus.subscribe_fn::<Ping, _>("relay", async |ping: &Ping, cx: &mut Context<'_>| {
        cx.publish(Pong(ping.0));
        Ok(())
    })
    .start()
    .await
    .unwrap();
    bus.publish(Pong(0))
        .delay(Duration::from_secs(1))
        .await
        .unwrap();
    sink.pause();
    advance(&bus, &clock, Duration::from_secs(1)).await;
    assert_eq!(seen.0.load(Ordering::SeqCst), 1);
    // The release does not find room at once, and is offered again.
    bus.publish(Ping(1)).await.unwrap();
    advance(&bus, &clock, Duration::from_secs(1)).await;
    sink.resume().await;
    bus.settle().await;
    assert_eq!(recorder.handled::<Pong>("sink"), [Pong(0), Pong(1)]);
    assert_eq!(seen.0.load(Ordering::SeqCst), 3);
    for record in recorder.all_handled() {
        assert_eq!(record.envelope().headers().count(), 1, "{record:?}");
    }
    end(bus).await;
}

#[tokio::test]
async fn failures_and_dead_letters_are_recorded() {
    let clock = ManualClock::new();
    let recorder = Recorder::new();
    let bus = builder(&clock)
        .intercept(recorder.clone())
        .start()
        .await
        .unwrap();
    bus.subscribe_fn::<Ping, _>("failing", async |_: &Ping, _: &mut Context<'_>| {
        Err(Failure::retry("never"))
    })
    .retry(Retry::fixed(Duration::from_secs(1)).attempts(3))
    .start()
    .await
    .unwrap();
    let receipt = bus.publish(Ping(1)).await.unwrap();
    advance(&bus, &clock, Duration::from_secs(2)).await;
    let failed = recorder.failed();
    let attempts: Vec<u32> = failed.iter().map(|record| record.attempt()).collect();
    assert_eq!(attempts, [1, 2, 3]);
    assert!(failed.iter().all(|record| record.error() == Some("never")));
    let letters = recorder.dead_lettered();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].envelope().id(), receipt.id);
    // A replay is no new publish.
    bus.dead_letters().replay(letters[0].id).await.unwrap();
    advance(&bus, &clock, Duration::from_secs(2)).await;
    assert_eq!(recorder.all_published().len(), 1);
    assert_eq!(recorder.dead_lettered().len(), 2);
    end(bus).await;
}

#[tokio::test]
async fn a_recorder_is_bounded() {
    let recorder = Recorder::with_capacity(2);
    let bus = Bus::builder("kit")
        .intercept(recorder.clone())
        .start()
        .await
        .unwrap();
    for number in 0..5 {
        bus.publish(Ping(number)).await.unwrap();
    }
    assert_eq!(numbers(recorder.published()), [3, 4]);
    assert_eq!(recorder.forgotten(), 3);
    end(bus).await;
}

#[tokio::test]
async fn faults_strike_where_they_are_meant_to() {
    let clock = ManualClock::new();
    let (faults, recorder) = (Faults::new(), Recorder::new());
    let bus = builder(&clock)
        .intercept(recorder.clone())
        .intercept(faults.clone())
        .handler_timeout(Duration::from_secs(3))
        .start()
        .await
        .unwrap();
    let done = Arc::new(AtomicU32::new(0));
    for queue in ["struck", "spared"] {
        let done = Arc::clone(&done);
        bus.subscribe_fn::<Ping, _>(queue, async move |_: &Ping, _: &mut Context<'_>| {
            done.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
        .retry(Retry::fixed(Duration::from_secs(1)).attempts(5))
        .start()
        .await
        .unwrap();
    }
    faults.add(Fault::fail("first").queue("struck").attempt(1));
    faults.add(
        Fault::panic("second")
            .queue("struck")
            .on::<Ping>()
            .attempts(2..=2),
    );
    faults.add(
        Fault::hang()
            .queue("struck")
            .when(|delivery| delivery.attempt() == 3),
    );
    faults.add(
        Fault::fail("too late")
            .queue("struck")
            .attempt(4)
            .after_handling(),
    );
    bus.publish(Ping(1)).await.unwrap();
    advance(&bus, &clock, Duration::from_secs(20)).await;
    let injected = faults.injected();
    assert_eq!(
        (injected.failed, injected.panicked, injected.hung),
        (2, 1, 1)
    );
    assert_eq!(recorder.failed().len(), 4);
    assert_eq!(recorder.handled::<Ping>("struck").len(), 1);
    assert_eq!(recorder.handled::<Ping>("spared").len(), 1);
    assert_eq!(
        done.load(Ordering::SeqCst),
        3,
        "the handler ran at attempt 4 too"
    );

    faults.clear();
    faults.add(
        Fault::fail_with(|| Failure::reject("third"))
            .queue("spared")
            .every(3),
    );
    for number in 0..9 {
        bus.publish(Ping(number)).await.unwrap();
    }
    bus.settle().await;
    assert_eq!(bus.dead_letters().len().await.unwrap(), 3);
    assert_eq!(faults.injected().failed, 5);
    end(bus).await;
}

struct Raw(Arc<AtomicU32>);
impl RawSubscriber for Raw {
    async fn handle(&mut self, message: RawMessage<'_>, _: &mut Context<'_>) -> Outcome {
        let own = message.downcast_ref::<Ping>().is_some();
        self.0
            .fetch_add(if own { 1 } else { 100 }, Ordering::SeqCst);
        Ok(())
    }
}

/// Can be sent, and never encoded.
#[derive(Deserialize)]
struct Unspeakable;
impl Serialize for Unspeakable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("unspeakable"))
    }
}
impl Event for Unspeakable {
    const TOPIC: &'static str = "kit.unspeakable";
}

#[tokio::test]
async fn encode_always_hands_over_bytes_only() {
    for (encode, sum) in [(false, 2), (true, 200)] {
        let builder = Bus::builder("kit");
        let builder = if encode {
            builder.encode_always()
        } else {
            builder
        };
        let bus = builder.start().await.unwrap();
        let seen = Arc::new(AtomicU32::new(0));
        let raw = Arc::clone(&seen);
        bus.subscriber("raw", move || Raw(Arc::clone(&raw)))
            .pattern("kit.*")
            .start()
            .await
            .unwrap();
        bus.handle_fn::<Double, _>("double", async |double: &Double, cx: &mut Context<'_>| {
            cx.publish(Ping(1));
            Ok(double.0 * 2)
        })
        .start()
        .await
        .unwrap();
        bus.publish(Ping(1)).await.unwrap();
        assert_eq!(bus.request(Double(4)).await, Ok(8));
        bus.settle().await;
        assert_eq!(seen.load(Ordering::SeqCst), sum);
        let spoken = bus.publish(Unspeakable).await;
        assert_eq!(spoken.is_err(), encode, "{spoken:?}");
        end(bus).await;
    }
}

#[tokio::test]
async fn settle_returns_while_a_restart_waits_for_its_time() {
    let clock = ManualClock::new();
    let bus = builder(&clock).start().await.unwrap();
    bus.subscribe_fn::<Ping, _>("panicking", async |ping: &Ping, _: &mut Context<'_>| {
        assert_ne!(ping.0, 0, "poison");
        Ok(())
    })
    .retry(Retry::none())
    .start()
    .await
    .unwrap();
    // The first restart follows at once, the second waits; behind it a message stays queued.
    bus.publish_all([Ping(0), Ping(0), Ping(1)]).await.unwrap();
    bus.settle().await;
    assert_eq!(bus.dead_letters().len().await.unwrap(), 2);
    assert_eq!(bus.snapshot().queue("panicking").unwrap().queued, 1);
    advance(&bus, &clock, Duration::from_secs(10)).await;
    assert_eq!(bus.snapshot().queue("panicking").unwrap().acked, 1);
    end(bus).await;
}

#[tokio::test]
async fn settle_then_advance_never_misses_a_wait() {
    let clock = ManualClock::new();
    let bus = builder(&clock).start().await.unwrap();
    bus.subscribe_fn::<Ping, _>("failing", async |_: &Ping, _: &mut Context<'_>| {
        Err(Failure::retry("never"))
    })
    .retry(Retry::fixed(Duration::from_secs(1)).attempts(3))
    .workers(4)
    .start()
    .await
    .unwrap();
    for round in 1..=20 {
        for number in 0..8 {
            bus.publish(Ping(number)).await.unwrap();
        }
        for _ in 0..2 {
            bus.settle().await;
            clock.advance(Duration::from_secs(1));
        }
        bus.settle().await;
        assert_eq!(
            bus.dead_letters().list(&Filter::all()).await.unwrap().len(),
            round * 8
        );
    }
    end(bus).await;
}

#[tokio::test]
async fn a_clock_goes_as_far_as_time_does() {
    let clock = ManualClock::new();
    let bus = builder(&clock).start().await.unwrap();
    let pings = bus.subscribe_fn::<Ping, _>("pings", async |_, _| Ok(()));
    let pings = pings.start().await.unwrap();
    bus.publish(Ping(0)).delay(Duration::MAX).await.unwrap();
    clock.advance(Duration::from_secs(1));
    clock.advance(Duration::MAX);
    bus.settle().await;
    assert_eq!(pings.snapshot().acked, 1);
    let end_of_time = clock.elapsed();
    bus.publish(Ping(1)).delay(Duration::MAX).await.unwrap();
    advance(&bus, &clock, Duration::MAX).await;
    assert_eq!(clock.elapsed(), end_of_time);
    assert_eq!(
        bus.shutdown(Duration::from_secs(5)).await.abandoned.len(),
        1
    );
}
