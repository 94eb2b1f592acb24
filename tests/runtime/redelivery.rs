//! Redelivery is controlled per subscription, and attempts are exact (contract, rules 3, 4 and 6).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::common::{Log, advance_until, bus, bus_at_rest, dead_letters, end, eventually, queue};
use postroom::{
    Bus, Context, Event, Failure, ManualClock, Outcome, Reason, Retry, SubscriberBuilder, Verdict,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Job(u64);
impl Event for Job {
    const TOPIC: &'static str = "redelivery.job";
}

const SECOND: Duration = Duration::from_secs(1);

/// Moves the clock from wait to wait, one millisecond before each and then onto it, and returns the times
/// of the attempts.
async fn attempt_times(
    retry: Retry,
    fail: fn(u32) -> Outcome,
    waits: &[Duration],
) -> Vec<Duration> {
    let (bus, clock) = bus_at_rest().await;
    let log = Log::new();
    let (seen, time) = (log.clone(), clock.clone());
    bus.subscribe_fn::<Job, _>("jobs", async move |_: &Job, cx: &mut Context<'_>| {
        seen.push(time.elapsed());
        fail(cx.attempt())
    })
    .retry(retry)
    .start()
    .await
    .unwrap();
    bus.publish(Job(0)).await.unwrap();
    bus.settle().await;
    for wait in waits {
        let before = log.len();
        clock.advance(*wait - Duration::from_millis(1));
        bus.settle().await;
        assert_eq!(log.len(), before, "not before its time");
        clock.advance(Duration::from_millis(1));
        bus.settle().await;
    }
    end(&bus).await;
    log.all()
}

#[tokio::test]
async fn waits_double_up_to_the_cap() {
    let retry = Retry::exponential(SECOND..5 * SECOND)
        .jitter(0.0)
        .attempts(6);
    let waits = [1, 2, 4, 5, 5].map(Duration::from_secs);
    let times = attempt_times(retry, |_| Err(Failure::retry("again")), &waits).await;
    assert_eq!(times, [0, 1, 3, 7, 12, 17].map(Duration::from_secs));
}

#[tokio::test]
async fn immediate_retries_come_first_and_take_no_time() {
    let retry = Retry::exponential(SECOND..5 * SECOND)
        .jitter(0.0)
        .attempts(5)
        .immediate(2);
    let waits = [1, 2].map(Duration::from_secs);
    let times = attempt_times(retry, |_| Err(Failure::retry("again")), &waits).await;
    assert_eq!(times, [0, 0, 0, 1, 3].map(Duration::from_secs));
}

#[tokio::test]
async fn retry_after_waits_as_long_as_it_says_and_counts() {
    let retry = Retry::fixed(SECOND).attempts(3);
    let fail = |attempt| match attempt {
        1 => Err(Failure::retry_after(7 * SECOND, "busy")),
        _ => Err(Failure::retry("again")),
    };
    let times = attempt_times(retry, fail, &[7 * SECOND, SECOND]).await;
    assert_eq!(times, [0, 7, 8].map(Duration::from_secs));
}

#[tokio::test]
async fn jitter_shortens_a_wait_by_its_share_at_most() {
    let (bus, clock) = bus_at_rest().await;
    let log = Log::new();
    let (seen, time) = (log.clone(), clock.clone());
    bus.subscribe_fn::<Job, _>("jobs", async move |_: &Job, cx: &mut Context<'_>| {
        if cx.attempt() == 2 {
            seen.push(time.elapsed());
        }
        Err(Failure::retry("again"))
    })
    .mailbox(1000)
    .retry(
        Retry::exponential(100 * SECOND..200 * SECOND)
            .jitter(0.3)
            .attempts(2),
    )
    .start()
    .await
    .unwrap();
    bus.publish_all((0..100).map(Job)).await.unwrap();
    bus.settle().await;
    clock.advance(70 * SECOND - Duration::from_millis(1));
    bus.settle().await;
    assert_eq!(log.len(), 0);
    for _ in 0..30 {
        clock.advance(SECOND);
        bus.settle().await;
    }
    clock.advance(Duration::from_millis(1));
    bus.settle().await;
    let times = log.all();
    assert_eq!(times.len(), 100);
    let early = times.iter().filter(|time| **time < 85 * SECOND).count();
    assert!(
        (10..=90).contains(&early),
        "they do not come together: {early}"
    );
    end(&bus).await;
}

async fn give_up<H, F, D>(bus: &Bus, builder: SubscriberBuilder<H, F, D>) -> postroom::DeadLetter
where
    H: 'static,
    F: postroom::parts::Factory<H>,
    D: postroom::parts::Dispatch<H>,
{
    builder.start().await.unwrap();
    bus.publish(Job(0)).await.unwrap();
    eventually("given up", || bus.dead_letters().ledger().kept == 1).await;
    dead_letters(bus).await.remove(0)
}

#[tokio::test]
async fn attempts_are_exact_over_errors_panics_and_timeouts() {
    let (bus, clock) = bus_at_rest().await;
    let log = Log::new();
    let seen = log.clone();
    bus.subscribe_fn::<Job, _>("jobs", async move |_: &Job, cx: &mut Context<'_>| {
        seen.push(cx.attempt());
        match cx.attempt() % 3 {
            0 => panic!("planned"),
            1 => Err(Failure::retry("again")),
            _ => std::future::pending().await,
        }
    })
    .timeout(SECOND)
    .retry(Retry::fixed(SECOND).attempts(9).immediate(4))
    .start()
    .await
    .unwrap();
    bus.publish(Job(0)).await.unwrap();
    advance_until(&clock, SECOND, "given up", || {
        bus.dead_letters().ledger().kept == 1
    })
    .await;
    end(&bus).await;
    assert_eq!(log.all(), (1..=9).collect::<Vec<_>>());
    let letter = &dead_letters(&bus).await[0];
    assert_eq!((letter.attempts, letter.reason), (9, Reason::Exhausted));
    assert_eq!(letter.errors, ["panicked: planned"]);
    let books = queue(&bus, "jobs");
    assert_eq!((books.retried, books.dead_lettered, books.acked), (8, 1, 0));
}

#[tokio::test]
async fn a_handler_that_does_not_end_in_time_is_replaced_and_its_message_tried_again() {
    struct Slow {
        handled: u32,
        log: Log<(u64, u32, u32)>,
    }
    impl postroom::Subscriber<Job> for Slow {
        async fn handle(&mut self, job: &Job, cx: &mut Context<'_>) -> Outcome {
            self.handled += 1;
            self.log.push((job.0, cx.attempt(), self.handled));
            if job.0 == 1 && cx.attempt() == 1 {
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    }
    let (bus, clock) = bus_at_rest().await;
    let log = Log::new();
    let kept = log.clone();
    let made = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&made);
    bus.subscriber("slow", move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Slow {
            handled: 0,
            log: kept.clone(),
        }
    })
    .on::<Job>()
    .timeout(10 * SECOND)
    .retry(Retry::fixed(SECOND))
    .start()
    .await
    .unwrap();
    bus.publish_all((0..3).map(Job)).await.unwrap();
    eventually("stuck", || log.len() == 2).await;
    advance_until(&clock, SECOND, "all", || queue(&bus, "slow").acked == 3).await;
    assert!(clock.elapsed() >= 11 * SECOND);
    end(&bus).await;
    assert_eq!(log.all(), [(0, 1, 1), (1, 1, 2), (2, 1, 1), (1, 2, 2)]);
    assert_eq!(
        made.load(Ordering::SeqCst),
        2,
        "a fresh value after the timeout"
    );
    assert_eq!(queue(&bus, "slow").restarts, 1);
}

#[tokio::test]
async fn a_rejected_message_is_a_dead_letter_at_once() {
    let bus = bus().await;
    let jobs = bus.subscribe_fn::<Job, _>("jobs", async |_: &Job, _: &mut Context<'_>| {
        Err(Failure::reject("not mine"))
    });
    let letter = give_up(&bus, jobs).await;
    assert_eq!((letter.attempts, letter.reason), (1, Reason::Rejected));
    assert_eq!(letter.errors, ["not mine"]);
    end(&bus).await;
}

#[tokio::test]
async fn a_discarded_message_leaves_its_count() {
    let bus = bus().await;
    bus.subscribe_fn::<Job, _>("jobs", async |_: &Job, _: &mut Context<'_>| {
        Err(Failure::discard("old news"))
    })
    .start()
    .await
    .unwrap();
    bus.publish(Job(0)).await.unwrap();
    end(&bus).await;
    let books = queue(&bus, "jobs");
    assert_eq!(
        (books.discarded, books.acked, books.dead_lettered),
        (1, 0, 0)
    );
    assert!(bus.dead_letters().is_empty().await.unwrap());
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the charge failed")]
    Charge(#[source] Box<Trouble>),
    #[error("no line to the bank")]
    Line(#[source] std::io::Error),
}

fn trouble() -> Trouble {
    let cut = std::io::Error::other("cut");
    Trouble::Charge(Box::new(Trouble::Line(cut)))
}

#[tokio::test]
async fn a_dead_letter_keeps_the_error_and_its_sources() {
    let bus = bus().await;
    let jobs = bus
        .subscribe_fn::<Job, _>("jobs", async |_: &Job, _: &mut Context<'_>| Err(trouble())?)
        .retry(Retry::none());
    let letter = give_up(&bus, jobs).await;
    let chain = ["the charge failed", "no line to the bank", "cut"];
    assert_eq!(letter.errors, chain);
    end(&bus).await;
}

#[tokio::test]
async fn a_policy_classifies_errors() {
    let bus = bus().await;
    let retry = Retry::fixed(Duration::ZERO).attempts(3).classify(|error| {
        let trouble = error.downcast_ref::<Trouble>()?;
        matches!(trouble, Trouble::Charge(_)).then_some(Verdict::Reject)
    });
    bus.subscribe_fn::<Job, _>("jobs", async |job: &Job, _: &mut Context<'_>| match job.0 {
        0 => Err(trouble())?,
        1 => Err(Trouble::Line(std::io::Error::other("cut")))?,
        // What the handler says itself wins.
        _ => Err(Failure::retry(trouble())),
    })
    .retry(retry)
    .start()
    .await
    .unwrap();
    bus.publish_all((0..3).map(Job)).await.unwrap();
    eventually("all given up", || bus.dead_letters().ledger().kept == 3).await;
    let mut ends: Vec<_> = dead_letters(&bus)
        .await
        .iter()
        .map(|letter| {
            (
                letter.json().unwrap().to_vec(),
                letter.attempts,
                letter.reason,
            )
        })
        .collect();
    ends.sort_by_key(|end| end.0.clone());
    assert_eq!(
        ends,
        [
            (b"0".to_vec(), 1, Reason::Rejected),
            (b"1".to_vec(), 3, Reason::Exhausted),
            (b"2".to_vec(), 3, Reason::Exhausted),
        ]
    );
    end(&bus).await;
}

#[tokio::test]
async fn a_waiting_retry_holds_no_worker() {
    let (bus, clock) = bus_at_rest().await;
    let log = Log::new();
    let seen = log.clone();
    bus.subscribe_fn::<Job, _>("jobs", async move |job: &Job, cx: &mut Context<'_>| {
        seen.push(job.0);
        match (job.0, cx.attempt()) {
            (0, 1) => Err(Failure::retry("again")),
            _ => Ok(()),
        }
    })
    .retry(Retry::fixed(3600 * SECOND))
    .start()
    .await
    .unwrap();
    bus.publish_all((0..100).map(Job)).await.unwrap();
    bus.settle().await;
    assert_eq!(log.all(), (0..100).collect::<Vec<_>>());
    clock.advance(3600 * SECOND);
    end(&bus).await;
    assert_eq!(log.len(), 101);
}

#[tokio::test]
async fn a_message_expires_at_its_hand_over_and_while_it_waits() {
    let (bus, clock) = bus_at_rest().await;
    let log = Log::new();
    let seen = log.clone();
    let jobs = bus
        .subscribe_fn::<Job, _>("jobs", async move |job: &Job, _: &mut Context<'_>| {
            seen.push(job.0);
            match job.0 {
                0 => Err(Failure::retry("again")),
                _ => Ok(()),
            }
        })
        .retry(Retry::fixed(10 * SECOND))
        .start()
        .await
        .unwrap();
    // It fails in time, and expires while it waits for its retry.
    bus.publish(Job(0)).expires_in(5 * SECOND).await.unwrap();
    bus.settle().await;
    jobs.pause();
    bus.publish(Job(1)).expires_in(2 * SECOND).await.unwrap();
    bus.publish(Job(2)).expires_in(3 * SECOND).await.unwrap();
    bus.publish(Job(3)).await.unwrap();
    clock.advance(2 * SECOND);
    jobs.resume().await;
    bus.settle().await;
    assert_eq!(log.all(), [0, 2, 3]);
    clock.advance(8 * SECOND);
    bus.settle().await;
    assert_eq!(log.all(), [0, 2, 3]);
    let books = queue(&bus, "jobs");
    assert_eq!((books.expired, books.acked), (2, 2));
    assert!(bus.dead_letters().is_empty().await.unwrap());
    end(&bus).await;
}

#[tokio::test]
async fn a_manual_clock_stands_still() {
    let clock = ManualClock::new();
    let (one, two) = (clock.clock(), clock.clock());
    let first = Bus::builder("first").clock(one).start().await.unwrap();
    let second = Bus::builder("second").clock(two).start().await.unwrap();
    let log = Log::new();
    for bus in [&first, &second] {
        let (seen, time) = (log.clone(), clock.clone());
        bus.subscribe_fn::<Job, _>("jobs", async move |_: &Job, _: &mut Context<'_>| {
            seen.push(time.elapsed());
            Ok(())
        })
        .start()
        .await
        .unwrap();
    }
    // One clock for two buses.
    first.publish(Job(0)).delay(SECOND).await.unwrap();
    second.publish(Job(0)).delay(SECOND).await.unwrap();
    clock.advance(SECOND);
    end(&first).await;
    end(&second).await;
    assert_eq!(log.all(), [SECOND, SECOND]);
}
