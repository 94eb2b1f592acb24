//! Code around every publish and every handling, in the order of its declaration; a panic in it is survived.

use std::time::Duration;

use crate::common::{Log, block_on, dead_letters, end, eventually, poll_once, queue, soon};
use postroom::{
    Bus, Context, Event, Failure, Finished, Inbound, Interceptor, LocalBoxFuture, MessageId, Next,
    Outbound, Outcome, Refusal, Refused, Retry,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Note(u64);
impl Event for Note {
    const TOPIC: &'static str = "interceptors.note";
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Echo(u64);
impl Event for Echo {
    const TOPIC: &'static str = "interceptors.echo";
}

/// Logs everything that it sees, marked with its name, and adds a header.
struct Witness(&'static str, Log<String>);

impl Interceptor for Witness {
    fn publish(&self, message: &mut Outbound<'_>) -> Result<(), Refused> {
        self.1.push(format!("{} publish", self.0));
        message.header("by", self.0);
        message.traceparent(self.0);
        Ok(())
    }

    fn handle<'a>(&'a self, delivery: Inbound<'a>, next: Next<'a>) -> LocalBoxFuture<'a, Outcome> {
        Box::pin(async move {
            self.1.push(format!(
                "{} before {} {}",
                self.0,
                delivery.queue(),
                delivery.attempt()
            ));
            let outcome = next.run().await;
            self.1.push(format!("{} after {}", self.0, outcome.is_ok()));
            outcome
        })
    }

    fn finished(&self, attempt: Finished<'_>) {
        let outcome = attempt.error().map_or(Ok(()), Err);
        self.1.push(format!("{} finished {outcome:?}", self.0));
    }
}

#[tokio::test]
async fn the_first_declared_is_the_outermost() {
    let log = Log::new();
    let bus = Bus::builder("test")
        .intercept(Witness("one", log.clone()))
        .intercept(Witness("two", log.clone()))
        .start()
        .await
        .unwrap();
    let headers = Log::new();
    let (seen, kept) = (log.clone(), headers.clone());
    bus.subscribe_fn::<Note, _>("notes", async move |_: &Note, cx: &mut Context<'_>| {
        seen.push("handler".to_owned());
        let all = cx.envelope().headers().map(|(_, value)| value.to_owned());
        kept.push((
            all.collect::<Vec<_>>(),
            cx.envelope().traceparent().map(str::to_owned),
        ));
        match cx.attempt() {
            1 => Err(Failure::retry("no")),
            _ => Ok(()),
        }
    })
    .retry(Retry::fixed(Duration::ZERO).attempts(2).immediate(1))
    .start()
    .await
    .unwrap();
    bus.publish(Note(1)).await.unwrap();
    end(&bus).await;
    let attempt = |number: u32, ok: bool, outcome: &str| {
        vec![
            format!("one before notes {number}"),
            format!("two before notes {number}"),
            "handler".to_owned(),
            format!("two after {ok}"),
            format!("one after {ok}"),
            format!("one finished {outcome}"),
            format!("two finished {outcome}"),
        ]
    };
    let mut expected = vec!["one publish".to_owned(), "two publish".to_owned()];
    expected.extend(attempt(1, false, "Err(\"no\")"));
    expected.extend(attempt(2, true, "Ok(())"));
    assert_eq!(log.all(), expected);
    let saw = (
        vec!["one".to_owned(), "two".to_owned()],
        Some("two".to_owned()),
    );
    assert_eq!(headers.all(), [saw.clone(), saw]);
}

/// Does as the number in the message's header says.
struct Bouncer;

impl Interceptor for Bouncer {
    fn publish(&self, message: &mut Outbound<'_>) -> Result<(), Refused> {
        match message.envelope().header("order") {
            Some("refuse") => Err(Refused("not today".to_owned())),
            Some("panic") => panic!("planned"),
            Some("long header") => {
                message.header(&"n".repeat(256), "");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn handle<'a>(&'a self, delivery: Inbound<'a>, next: Next<'a>) -> LocalBoxFuture<'a, Outcome> {
        match delivery.message().envelope().header("order") {
            Some("skip") => Box::pin(async { Ok(()) }),
            Some("reject") => Box::pin(async { Err(Failure::reject("turned away")) }),
            Some("panic inside") => panic!("planned"),
            Some("panic later") => Box::pin(async {
                tokio::task::yield_now().await;
                panic!("planned")
            }),
            _ => next.run(),
        }
    }

    fn finished(&self, attempt: Finished<'_>) {
        let delivery = attempt.delivery();
        if delivery.message().envelope().header("order") == Some("panic at the end") {
            panic!("planned");
        }
    }
}

async fn bounced() -> (Bus, Log<u64>) {
    let bus = Bus::builder("test")
        .intercept(Bouncer)
        .start()
        .await
        .unwrap();
    let log = Log::new();
    let seen = log.clone();
    bus.subscribe_fn::<Note, _>("notes", async move |note: &Note, _: &mut Context<'_>| {
        seen.push(note.0);
        Ok(())
    })
    .retry(Retry::none())
    .start()
    .await
    .unwrap();
    (bus, log)
}

#[tokio::test]
async fn a_refusal_or_a_panic_at_publish_gives_the_message_back() {
    let (bus, log) = bounced().await;
    let error = bus
        .publish(Note(1))
        .header("order", "refuse")
        .await
        .unwrap_err();
    let refused = Refusal::Intercepted("not today".to_owned());
    assert_eq!(error.into_parts(), (refused, Some(Note(1))));
    let error = bus
        .publish(Note(2))
        .header("order", "panic")
        .try_now()
        .unwrap_err();
    let panicked = Refusal::Intercepted("an interceptor panicked".to_owned());
    assert_eq!(error.into_parts(), (panicked, Some(Note(2))));
    let error = bus
        .publish(Note(3))
        .header("order", "long header")
        .await
        .unwrap_err();
    assert!(matches!(error.kind(), Refusal::Name(_)), "{error:?}");
    assert_eq!(error.into_message(), Some(Note(3)));
    bus.publish(Note(4)).await.unwrap();
    end(&bus).await;
    assert_eq!(log.all(), [4]);
    assert_eq!(queue(&bus, "notes").accepted, 1);
}

#[tokio::test]
async fn around_a_handler_its_outcome_counts() {
    let (bus, log) = bounced().await;
    for (id, order) in [
        (1, "skip"),
        (2, "reject"),
        (3, "none"),
        (4, "panic at the end"),
    ] {
        bus.publish(Note(id)).header("order", order).await.unwrap();
    }
    end(&bus).await;
    assert_eq!(log.all(), [3, 4]);
    let books = queue(&bus, "notes");
    assert_eq!(
        (books.acked, books.dead_lettered, books.restarts),
        (3, 1, 0)
    );
    let letter = dead_letters(&bus).await.remove(0);
    assert_eq!(letter.errors, ["turned away"]);
}

#[tokio::test]
async fn a_panic_around_a_handler_is_a_failed_attempt() {
    let (bus, log) = bounced().await;
    for (id, order) in [(1, "panic inside"), (2, "panic later"), (3, "none")] {
        bus.publish(Note(id)).header("order", order).await.unwrap();
    }
    eventually("handled", || log.len() == 1).await;
    end(&bus).await;
    let books = queue(&bus, "notes");
    assert_eq!(
        (books.acked, books.dead_lettered, books.restarts),
        (1, 2, 2)
    );
}

#[tokio::test]
async fn a_refused_send_of_a_handler_fails_its_attempt() {
    let (bus, _) = bounced().await;
    bus.subscribe_fn::<Echo, _>("echoes", async move |echo: &Echo, cx: &mut Context<'_>| {
        cx.publish(Note(echo.0)).header("order", "refuse");
        Ok(())
    })
    .retry(Retry::none())
    .start()
    .await
    .unwrap();
    bus.publish(Echo(1)).await.unwrap();
    end(&bus).await;
    let letter = dead_letters(&bus).await.remove(0);
    assert!(
        letter.errors[0].contains("not today"),
        "{:?}",
        letter.errors
    );
    assert_eq!(queue(&bus, "notes").accepted, 0);
}

/// Logs the ids that it lets through.
struct Ids(Log<MessageId>);

impl Interceptor for Ids {
    fn publish(&self, message: &mut Outbound<'_>) -> Result<(), Refused> {
        if message.envelope().address() == Note::TOPIC {
            self.0.push(message.envelope().id());
        }
        Ok(())
    }
}

#[tokio::test]
#[ignore = "a publish that has to wait makes a new envelope, with a new id, after the interceptors saw the first"]
async fn a_publish_that_waits_keeps_the_id_that_was_intercepted() {
    let ids = Log::new();
    let bus = Bus::builder("test").intercept(Ids(ids.clone()));
    let bus = bus.start().await.unwrap();
    let notes = bus.subscribe_fn::<Note, _>("notes", async |_: &Note, _: &mut Context<'_>| Ok(()));
    let notes = notes.mailbox(1).start().await.unwrap();
    notes.pause();
    let first = bus.publish(Note(0)).await.unwrap();
    let mut waiting = bus.publish(Note(1));
    assert!(poll_once(&mut waiting).is_pending());
    notes.resume().await;
    let second = soon("the publish", waiting).await.unwrap();
    end(&bus).await;
    assert_eq!(ids.all(), [first.id, second.id]);
}

/// Holds up publishes until it is told.
struct Holdup(std::sync::Mutex<std::sync::mpsc::Receiver<()>>, Log<u64>);

impl Interceptor for Holdup {
    fn publish(&self, message: &mut Outbound<'_>) -> Result<(), Refused> {
        if message.envelope().address() == Note::TOPIC {
            self.1.push(0);
            // Ends too when the test has gone.
            let _ = self.0.lock().unwrap().recv();
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_publish_that_is_overtaken_by_the_shutdown_is_refused() {
    let (go, wait) = std::sync::mpsc::channel();
    let entered = Log::new();
    let bus = Bus::builder("test").intercept(Holdup(std::sync::Mutex::new(wait), entered.clone()));
    let bus = bus.start().await.unwrap();
    bus.subscribe_fn::<Note, _>("notes", async |_: &Note, _: &mut Context<'_>| Ok(()))
        .start()
        .await
        .unwrap();
    let publishing = bus.clone();
    let publisher = std::thread::spawn(move || {
        block_on(async {
            publishing
                .publish(Note(1))
                .await
                .map_err(|error| error.into_parts())
        })
    });
    eventually("held up", || entered.len() == 1).await;
    end(&bus).await;
    go.send(()).unwrap();
    eventually("the publish ended", || publisher.is_finished()).await;
    let error = publisher.join().unwrap().unwrap_err();
    assert_eq!(error, (Refusal::Closed, Some(Note(1))));
}
