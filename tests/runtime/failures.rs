//! Rows of the failure table in `docs/contract.md` that no scenario of the conformance suite proves.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use postroom::{
    Bus, Event, Failure, Filter, Inbound, Interceptor, LocalBoxFuture, Next, Outbound, Outcome,
    Overflow, Refusal, Refused, Retry,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Number(u32);
impl Event for Number {
    const TOPIC: &'static str = "failures.number";
}

const LONG: Duration = Duration::from_secs(10);

/// Waits on a condition; fails the test if it does not come true.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_worker_that_dies_gives_back_what_it_holds() {
    let bus = Bus::builder("failures").start().await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sees = Arc::clone(&seen);
    let worker = bus
        .subscribe_fn::<Number, _>("worker", async move |number, cx| {
            sees.lock().unwrap().push((number.0, cx.attempt()));
            assert!(number.0 != 0, "on purpose");
            Ok(())
        })
        .retry(Retry::none())
        .start()
        .await
        .unwrap();
    worker.pause();
    for number in 0..20 {
        bus.publish(Number(number)).await.unwrap();
    }
    // It takes all of them at once, and dies on the first.
    worker.resume().await;
    until("not all of them ended", || {
        let books = worker.snapshot();
        (books.acked, books.dead_lettered) == (19, 1)
    })
    .await;
    let expected: Vec<_> = (0..20).map(|number| (number, 1)).collect();
    assert_eq!(*seen.lock().unwrap(), expected, "in order, and uncounted");
    assert_eq!(worker.snapshot().restarts, 1);
    assert!(bus.shutdown(LONG).await.clean);
    assert!(bus.snapshot().books_balance());
}

/// What of an error panics.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Text,
    SourceText,
    Source,
    Drop,
    /// And not the error: what classifies it.
    Classifier,
}

#[derive(Debug)]
struct Broken(Part);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        assert!(self.0 != Part::Text, "on purpose");
        f.write_str("broken")
    }
}

impl std::error::Error for Broken {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        assert!(self.0 != Part::Source, "on purpose");
        static WITHOUT_TEXT: Broken = Broken(Part::Text);
        (self.0 == Part::SourceText).then_some(&WITHOUT_TEXT)
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        assert!(self.0 != Part::Drop, "on purpose");
    }
}

#[tokio::test]
async fn an_error_that_panics_is_a_failed_attempt_and_no_message_is_lost() {
    let bus = Bus::builder("failures").start().await.unwrap();
    let parts = [
        Part::Text,
        Part::SourceText,
        Part::Source,
        Part::Drop,
        Part::Classifier,
    ];
    for part in parts {
        for immediate in [0, 5] {
            let starts = Arc::new(Mutex::new(Vec::new()));
            let noted = Arc::clone(&starts);
            let retry = Retry::exponential(Duration::from_millis(1)..Duration::from_millis(2));
            let worker = bus
                .subscribe_fn::<Number, _>("worker", async move |_, cx| {
                    noted.lock().unwrap().push(cx.attempt());
                    Err(Broken(part).into())
                })
                .retry(retry.attempts(3).immediate(immediate).classify(move |_| {
                    assert!(part != Part::Classifier, "on purpose");
                    None
                }))
                .start()
                .await
                .unwrap();
            bus.publish(Number(0)).await.unwrap();
            until("it was not given up", || {
                worker.snapshot().dead_lettered == 1
            })
            .await;
            let tried = starts.lock().unwrap().clone();
            assert_eq!(tried, [1, 2, 3], "{part:?}, {immediate} at once");
            worker.stop(LONG).await;
            let letters = bus.dead_letters().list(&Filter::all()).await.unwrap();
            let attempts: Vec<_> = letters.iter().map(|letter| letter.attempts).collect();
            assert_eq!(attempts, [3], "{part:?}, {immediate} at once");
            bus.dead_letters().discard(letters[0].id).await.unwrap();
        }
    }
    assert!(bus.shutdown(LONG).await.clean);
    assert!(bus.snapshot().books_balance());
}

#[tokio::test]
async fn a_handler_that_blocks_its_thread_does_not_hold_up_a_shutdown() {
    let bus = Bus::builder("failures").start().await.unwrap();
    let (unblock, blocked) = mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let worker = bus
        .subscribe_fn::<Number, _>("worker", async move |_, _| {
            let _ = blocked.lock().unwrap().recv();
            Ok(())
        })
        .start()
        .await
        .unwrap();
    bus.publish(Number(0)).await.unwrap();
    until("it was not started", || worker.snapshot().in_flight == 1).await;
    let started = Instant::now();
    let deadline = Duration::from_millis(200);
    let report = bus.shutdown(deadline).await;
    assert!(
        started.elapsed() < deadline + Duration::from_secs(1),
        "{report:?}"
    );
    assert!(!report.clean);
    assert_eq!(report.timed_out, ["worker"]);
    drop(unblock);
}

#[tokio::test]
async fn a_second_shutdown_hastens_the_first_and_answers_alike() {
    let bus = Bus::builder("failures").start().await.unwrap();
    let worker = bus.subscribe_fn::<Number, _>("worker", async |_, _| std::future::pending().await);
    let worker = worker.no_timeout().start().await.unwrap();
    bus.publish(Number(0)).await.unwrap();
    until("it was not started", || worker.snapshot().in_flight == 1).await;
    bus.publish(Number(1)).await.unwrap();
    let first = {
        let bus = bus.clone();
        tokio::spawn(async move { bus.shutdown(LONG).await })
    };
    until("it was not begun", || !bus.health().is_ready()).await;
    let second = bus.shutdown(Duration::ZERO).await;
    let first = first.await.unwrap();
    assert!(first.elapsed < LONG / 2, "{first:?}");
    assert_eq!((first.abandoned.len(), first.clean), (2, false));
    assert_eq!(first.timed_out, ["worker"]);
    let later = bus.shutdown(LONG).await;
    for other in [second, later] {
        assert_eq!(format!("{other:?}"), format!("{first:?}"));
    }
    assert!(bus.snapshot().books_balance());
}

/// Panics at the first publish that it sees, or around the first attempt.
struct Panics {
    at_publish: bool,
}

impl Interceptor for Panics {
    fn publish(&self, _: &mut Outbound<'_>) -> Result<(), Refused> {
        assert!(!self.at_publish, "on purpose");
        Ok(())
    }

    fn handle<'a>(&'a self, delivery: Inbound<'a>, next: Next<'a>) -> LocalBoxFuture<'a, Outcome> {
        assert!(delivery.attempt() > 1, "on purpose");
        next.run()
    }
}

#[tokio::test]
async fn an_interceptor_that_panics_at_publish_refuses_the_message() {
    let bus = Bus::builder("failures").intercept(Panics { at_publish: true });
    let bus = bus.start().await.unwrap();
    let worker = bus.subscribe_fn::<Number, _>("worker", async |_, _| Ok(()));
    let worker = worker.start().await.unwrap();
    let error = bus.publish(Number(7)).await.unwrap_err();
    assert!(matches!(error.kind(), Refusal::Intercepted(_)), "{error:?}");
    assert_eq!(error.into_message(), Some(Number(7)));
    assert_eq!(worker.snapshot().accepted, 0);
    assert!(bus.shutdown(LONG).await.clean);
}

#[tokio::test]
async fn an_interceptor_that_panics_around_a_handler_fails_the_attempt() {
    let bus = Bus::builder("failures").intercept(Panics { at_publish: false });
    let bus = bus.start().await.unwrap();
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let sees = Arc::clone(&attempts);
    let worker = bus
        .subscribe_fn::<Number, _>("worker", async move |_, cx| {
            sees.lock().unwrap().push(cx.attempt());
            Ok(())
        })
        .retry(Retry::fixed(Duration::from_millis(1)).attempts(2))
        .start()
        .await
        .unwrap();
    bus.publish(Number(7)).await.unwrap();
    until("it was not tried again", || worker.snapshot().acked == 1).await;
    assert_eq!(*attempts.lock().unwrap(), [2]);
    assert!(
        bus.dead_letters()
            .list(&Filter::all())
            .await
            .unwrap()
            .is_empty()
    );
    assert!(bus.shutdown(LONG).await.clean);
}

/// Panics when it is dropped, if it is the first.
#[derive(Debug, Serialize, Deserialize)]
struct Sharp(u32);
impl Event for Sharp {
    const TOPIC: &'static str = "failures.sharp";
}

impl Drop for Sharp {
    fn drop(&mut self) {
        assert!(self.0 > 0, "on purpose, in drop");
    }
}

#[tokio::test]
async fn a_message_that_panics_in_its_drop_when_it_is_evicted_is_survived() {
    let bus = Bus::builder("failures").dead_letter_capacity(1);
    let bus = bus.start().await.unwrap();
    let worker = bus.subscribe_fn::<Sharp, _>("worker", async |_, _| Err(Failure::reject("no")));
    let worker = worker.start().await.unwrap();
    for number in 0..4 {
        bus.publish(Sharp(number)).await.unwrap();
    }
    until("not all were given up", || {
        worker.snapshot().dead_lettered == 4
    })
    .await;
    assert_eq!(bus.dead_letters().ledger().evicted, 3);
    assert!(bus.shutdown(LONG).await.clean);
    assert!(bus.snapshot().books_balance());
}

#[tokio::test]
async fn a_message_that_panics_in_its_drop_when_another_takes_its_place_is_survived() {
    let bus = Bus::builder("failures").start().await.unwrap();
    let worker = bus.subscribe_fn::<Sharp, _>("worker", async |_, _| Ok(()));
    let worker = worker.mailbox(2).overflow(Overflow::DropOldest);
    let worker = worker.start().await.unwrap();
    worker.pause();
    for number in 0..3 {
        let receipt = bus.publish(Sharp(number)).await.unwrap();
        assert_eq!(receipt.local.accepted, 1);
    }
    worker.resume().await;
    assert!(bus.shutdown(LONG).await.clean);
    assert_eq!((worker.snapshot().acked, worker.snapshot().dropped), (2, 1));
    assert!(bus.snapshot().books_balance());
}

#[tokio::test]
async fn what_a_failed_attempt_recorded_may_panic_in_its_drop() {
    for panics in [false, true] {
        let bus = Bus::builder("failures").start().await.unwrap();
        let starts = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&starts);
        let worker = bus.subscribe_fn::<Number, _>("worker", async move |_, cx| {
            noted.lock().unwrap().push(cx.attempt());
            cx.publish(Sharp(0));
            assert!(!panics, "on purpose");
            Err(Failure::retry("on purpose"))
        });
        let retry = Retry::fixed(Duration::from_millis(1)).attempts(2);
        let worker = worker.retry(retry).start().await.unwrap();
        bus.publish(Number(0)).await.unwrap();
        until("it was not given up", || {
            worker.snapshot().dead_lettered == 1
        })
        .await;
        assert_eq!(*starts.lock().unwrap(), [1, 2]);
        assert!(bus.shutdown(LONG).await.clean);
        assert!(bus.snapshot().books_balance());
    }
}
