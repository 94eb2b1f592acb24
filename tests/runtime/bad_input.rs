//! Bad input is an error that says what and why, and gives the message back; never a panic (contract, rule 12).

use std::time::Duration;

use crate::common::{Log, bus, dead_letters, end, eventually, queue};
use postroom::{
    Bus, Command, Context, Event, Failure, Filter, NameError, Outcome, Pattern, RawBody,
    RawMessage, RawSubscriber, Reason, Refusal, Retry, RetryError, StartError, SubscribeError,
    Threads,
};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Fine(u64);
impl Event for Fine {
    const TOPIC: &'static str = "input.fine";
}

/// Events with a topic that cannot be one, and a command with such a queue.
macro_rules! bad {
    ($event:ident, $topic:expr) => {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct $event(u64);
        impl Event for $event {
            const TOPIC: &'static str = $topic;
        }
    };
}

const LONGEST: &str = match std::str::from_utf8(&[b'n'; 255]) {
    Ok(name) => name,
    Err(_) => "",
};
const TOO_LONG: &str = match std::str::from_utf8(&[b'n'; 256]) {
    Ok(name) => name,
    Err(_) => "",
};

bad!(Unnamed, "");
bad!(Long, LONGEST);
bad!(TooLong, TOO_LONG);
bad!(Star, "input.*");
bad!(Hash, "#");
bad!(Bell, "input.\u{7}");

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Nowhere(u64);
impl Command for Nowhere {
    const QUEUE: &'static str = TOO_LONG;
    type Reply = ();
}

struct Everything(Log<String>);

impl RawSubscriber for Everything {
    async fn handle(&mut self, message: RawMessage<'_>, _: &mut Context<'_>) -> Outcome {
        if !message.address().starts_with("postroom.") {
            let body = message.json()?;
            self.0.push(String::from_utf8_lossy(body).into_owned());
        }
        Ok(())
    }
}

async fn everything(bus: &Bus) -> Log<String> {
    let log = Log::new();
    let kept = log.clone();
    bus.subscriber("everything", move || Everything(kept.clone()))
        .pattern("#")
        .retry(Retry::none())
        .start()
        .await
        .unwrap();
    log
}

async fn refused<E: Event + PartialEq + std::fmt::Debug>(bus: &Bus, make: fn() -> E) -> NameError {
    let mut refusals = Vec::new();
    let error = bus.publish(make()).await.unwrap_err();
    refusals.push(error.into_parts());
    let error = bus.publish(make()).key("k").await.unwrap_err();
    refusals.push(error.into_parts());
    let error = bus.try_publish(make()).unwrap_err();
    refusals.push(error.into_parts());
    let error = bus.publish(make()).delay(Duration::ZERO).await.unwrap_err();
    refusals.push(error.into_parts());
    let (Refusal::Name(first), _) = &refusals[0] else {
        panic!("{refusals:?}");
    };
    for (why, message) in &refusals {
        assert_eq!(
            (why, message),
            (&Refusal::Name(first.clone()), &Some(make()))
        );
    }
    first.clone()
}

#[tokio::test]
async fn a_topic_that_cannot_be_one_is_refused_with_or_without_subscribers() {
    let bus = bus().await;
    for subscribed in [false, true] {
        let log = if subscribed {
            everything(&bus).await
        } else {
            Log::new()
        };
        assert!(matches!(
            refused(&bus, || Unnamed(1)).await,
            NameError::Empty { .. }
        ));
        let long = refused(&bus, || TooLong(1)).await;
        assert!(
            matches!(long, NameError::TooLong { length: 256, .. }),
            "{long:?}"
        );
        let star = refused(&bus, || Star(1)).await;
        assert!(
            matches!(star, NameError::Wildcard { wildcard: '*', .. }),
            "{star:?}"
        );
        let hash = refused(&bus, || Hash(1)).await;
        assert!(
            matches!(hash, NameError::Wildcard { wildcard: '#', .. }),
            "{hash:?}"
        );
        let bell = refused(&bus, || Bell(1)).await;
        assert!(
            matches!(bell, NameError::Control { position: 6, .. }),
            "{bell:?}"
        );
        bus.publish(Long(1)).await.unwrap();
        let error = bus.publish_raw("", json!(7)).await.unwrap_err();
        assert_eq!(error.into_message(), Some(RawBody(json!(7))));
        assert!(bus.publish_raw(TOO_LONG, json!(7)).try_now().is_err());
        bus.settle().await;
        assert_eq!(
            log.len(),
            usize::from(subscribed),
            "only the longest that is allowed"
        );
    }
    let error = bus.send(Nowhere(1)).await.unwrap_err();
    assert_eq!(error.into_message(), Some(Nowhere(1)));
    assert!(bus.request(Nowhere(1)).await.is_err());
    end(&bus).await;
}

#[tokio::test]
async fn keys_and_headers_are_names_too() {
    let bus = bus().await;
    let log = everything(&bus).await;
    for bad in ["", TOO_LONG, "line\nbreak"] {
        let error = bus.publish(Fine(1)).key(bad).await.unwrap_err();
        assert!(matches!(error.kind(), Refusal::Name(_)), "{error:?}");
        assert_eq!(error.into_message(), Some(Fine(1)));
        let error = bus.publish(Fine(1)).header(bad, "v").await.unwrap_err();
        assert!(matches!(error.kind(), Refusal::Name(_)), "{error:?}");
        assert_eq!(error.into_message(), Some(Fine(1)));
    }
    bus.publish(Fine(2))
        .key(LONGEST)
        .header(LONGEST, "any\nvalue")
        .await
        .unwrap();
    end(&bus).await;
    assert_eq!(log.all(), ["2"]);
}

#[tokio::test]
async fn a_handler_that_sends_what_cannot_be_sent_fails_its_attempt() {
    let bus = bus().await;
    bus.subscribe_fn::<Fine, _>("fine", async |fine: &Fine, cx: &mut Context<'_>| {
        match fine.0 {
            0 => drop(cx.publish(TooLong(0))),
            1 => drop(cx.publish(Fine(9)).key("")),
            _ => drop(cx.publish(Fine(9)).header("", "")),
        }
        Ok(())
    })
    .retry(Retry::none())
    .start()
    .await
    .unwrap();
    bus.publish_all((0..3).map(Fine)).await.unwrap();
    end(&bus).await;
    let letters = bus
        .dead_letters()
        .list(&Filter::all().reason(Reason::ReleaseFailed))
        .await
        .unwrap();
    assert_eq!(letters.len(), 3);
    assert_eq!(queue(&bus, "fine").accepted, 3);
}

#[tokio::test]
async fn names_of_services_subscribers_and_supervisors() {
    for bad in ["", TOO_LONG, "nul\0"] {
        assert!(matches!(
            Bus::builder(bad).start().await,
            Err(StartError::Name(_))
        ));
    }
    let bus = Bus::builder(LONGEST).start().await.unwrap();
    for bad in ["", TOO_LONG, "nul\0"] {
        let fine = bus.subscribe_fn::<Fine, _>(bad, async |_: &Fine, _: &mut Context<'_>| Ok(()));
        let error = fine.own_thread().start().await.unwrap_err();
        assert!(matches!(error, SubscribeError::Name(_)), "{error:?}");
        assert!(matches!(
            bus.supervisor(bad).start().await,
            Err(SubscribeError::Name(_))
        ));
        assert!(Pattern::new(bad).is_err());
        let raw = bus
            .subscriber("raw", || Everything(Log::new()))
            .pattern("a.b")
            .pattern(bad);
        assert!(matches!(raw.start().await, Err(SubscribeError::Name(_))));
    }
    bus.subscribe_fn::<Fine, _>(LONGEST, async |_: &Fine, _: &mut Context<'_>| Ok(()))
        .own_thread()
        .start()
        .await
        .unwrap();
    let star = bus.subscribe_fn::<Star, _>("star", async |_: &Star, _: &mut Context<'_>| Ok(()));
    let error = star.start().await.unwrap_err();
    assert!(
        matches!(error, SubscribeError::Name(NameError::Wildcard { .. })),
        "{error:?}"
    );
    let nowhere =
        bus.handle_fn::<Nowhere, _>("nowhere", async |_: &Nowhere, _: &mut Context<'_>| Ok(()));
    assert!(matches!(
        nowhere.start().await,
        Err(SubscribeError::Name(_))
    ));
    assert_eq!(
        bus.snapshot().queues.len(),
        1,
        "the refused ones left nothing"
    );
    end(&bus).await;
}

#[tokio::test]
async fn limits_of_zero_are_refused_where_they_make_no_sense() {
    let zero =
        |what| move |error: StartError| matches!(error, StartError::Zero(known) if known == what);
    let start = |builder: postroom::Builder| builder.start();
    assert!(
        start(Bus::builder("b").mailbox(0))
            .await
            .is_err_and(zero("mailbox"))
    );
    let threads = Bus::builder("b").threads(Threads::Own(0));
    assert!(start(threads).await.is_err_and(zero("threads")));
    let letters = Bus::builder("b").dead_letter_capacity(0);
    assert!(
        start(letters)
            .await
            .is_err_and(zero("dead_letter_capacity"))
    );
    let retry = Bus::builder("b").retry(Retry::default().attempts(0));
    assert!(matches!(
        retry.start().await,
        Err(StartError::Retry(RetryError::NoAttempts))
    ));

    let bus = bus().await;
    let fine = || bus.subscribe_fn::<Fine, _>("fine", async |_: &Fine, _: &mut Context<'_>| Ok(()));
    let zero = |what| SubscribeError::Zero {
        name: "fine".into(),
        what,
    };
    assert_eq!(
        fine().mailbox(0).start().await.unwrap_err(),
        zero("mailbox")
    );
    assert_eq!(
        fine().workers(0).start().await.unwrap_err(),
        zero("number of workers")
    );
    assert_eq!(
        fine().keyed(0).start().await.unwrap_err(),
        zero("number of workers")
    );
    let retry = fine()
        .retry(Retry::default().attempts(0))
        .start()
        .await
        .unwrap_err();
    assert_eq!(retry, SubscribeError::Retry(RetryError::NoAttempts));
    assert!(
        fine()
            .retry(Retry::default().factor(0.5))
            .start()
            .await
            .is_err()
    );
    let two = fine().keyed(8).workers(4).start().await;
    assert_eq!(
        two.unwrap_err(),
        SubscribeError::TwoOrders("fine".to_owned())
    );
    let nothing = bus
        .subscriber("nothing", || Everything(Log::new()))
        .start()
        .await;
    assert_eq!(
        nothing.unwrap_err(),
        SubscribeError::HandlesNothing("nothing".into())
    );
    // Of no time at all.
    fine()
        .timeout(Duration::ZERO)
        .stop_timeout(Duration::ZERO)
        .start()
        .await
        .unwrap();
    bus.publish(Fine(1)).timeout(Duration::ZERO).await.unwrap();
    bus.publish(Fine(2))
        .expires_in(Duration::ZERO)
        .await
        .unwrap();
    // No time to stop in: it may be said to have been cut off, but has lost nothing.
    let report = bus.shutdown(Duration::from_secs(5)).await;
    assert_eq!(report.abandoned, []);
    let books = queue(&bus, "fine");
    assert_eq!((books.acked, books.expired), (1, 1));
}

/// Cannot be encoded when its number is odd.
#[derive(Debug, PartialEq, Deserialize)]
struct Odd(u64);
impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 % 2 == 1 {
            return Err(serde::ser::Error::custom("odd"));
        }
        serializer.serialize_u64(self.0)
    }
}
impl Event for Odd {
    const TOPIC: &'static str = "input.odd";
}

#[tokio::test]
async fn a_body_that_cannot_be_encoded_fails_only_who_needs_it_encoded() {
    let bus = bus().await;
    let log = everything(&bus).await;
    let own = Log::new();
    let seen = own.clone();
    bus.subscribe_fn::<Odd, _>("own", async move |odd: &Odd, _: &mut Context<'_>| {
        seen.push(odd.0);
        Err(Failure::reject("to have a dead letter"))
    })
    .start()
    .await
    .unwrap();
    for id in 1..3 {
        bus.publish(Odd(id)).await.unwrap();
    }
    eventually("given up", || bus.dead_letters().ledger().kept == 3).await;
    assert_eq!((own.all(), log.all()), (vec![1, 2], vec!["2".to_owned()]));
    let letters = bus
        .dead_letters()
        .list(&Filter::all().queue("everything"))
        .await
        .unwrap();
    assert!(
        letters[0].errors[0].contains("cannot be encoded"),
        "{:?}",
        letters[0].errors
    );
    assert!(letters[0].json().is_err());
    end(&bus).await;
}

#[tokio::test]
async fn a_deadline_may_be_for_ever() {
    let bus = bus().await;
    let handled = Log::new();
    let log = handled.clone();
    let handler = async move |fine: &Fine, _: &mut Context<'_>| {
        log.push(fine.0);
        Ok(())
    };
    let subscriber = bus.subscribe_fn::<Fine, _>("fine", handler);
    let subscription = subscriber.start().await.unwrap();
    bus.publish(Fine(1)).await.unwrap();
    let report = subscription.stop(Duration::MAX).await;
    assert!(report.in_time, "{report:?}");
    assert_eq!(handled.all(), [1]);
    bus.subscribe_fn::<Fine, _>("fine", async |_, _| Ok(()))
        .start()
        .await
        .unwrap();
    let report = bus.shutdown(Duration::MAX).await;
    assert!(report.clean, "{report:?}");
    let refused = bus.publish(Fine(2)).await.unwrap_err();
    assert_eq!(*refused.kind(), Refusal::Closed);
}

#[tokio::test]
async fn a_limit_on_bodies_holds_for_publishers_and_handlers() {
    let bus = Bus::builder("test").body_limit(4).start().await.unwrap();
    bus.subscribe_fn::<Fine, _>("fine", async |fine: &Fine, cx: &mut Context<'_>| {
        if fine.0 == 1 {
            cx.publish(Fine(10_000));
        }
        Ok(())
    })
    .retry(Retry::none())
    .start()
    .await
    .unwrap();
    bus.publish(Fine(9_999)).await.unwrap();
    let error = bus.publish(Fine(10_000)).await.unwrap_err();
    let too_large = Refusal::TooLarge { size: 5, limit: 4 };
    assert_eq!(error.into_parts(), (too_large, Some(Fine(10_000))));
    let error = bus.publish(Odd(1)).delay(Duration::ZERO).await.unwrap_err();
    assert_eq!(
        error.into_parts(),
        (Refusal::Codec("odd".into()), Some(Odd(1)))
    );
    bus.publish(Fine(1)).await.unwrap();
    end(&bus).await;
    let letter = dead_letters(&bus).await.remove(0);
    assert_eq!(letter.reason, Reason::ReleaseFailed);
    assert_eq!(queue(&bus, "fine").accepted, 2);
}

fn nested(depth: usize) -> Value {
    let mut value = json!(1);
    for _ in 0..depth {
        value = Value::Array(vec![value]);
    }
    value
}

#[tokio::test]
async fn deep_nesting_is_an_error() {
    let bus = bus().await;
    let log = everything(&bus).await;
    bus.subscribe_fn::<Fine, _>("typed", async |_: &Fine, _: &mut Context<'_>| Ok(()))
        .retry(Retry::none())
        .start()
        .await
        .unwrap();
    bus.publish_raw("input.deep", nested(127)).await.unwrap();
    bus.settle().await;
    let deep = log.all().remove(0);
    assert_eq!(serde_json::from_str::<Value>(&deep).unwrap(), nested(127));
    for depth in [128, 1000] {
        bus.publish_raw(Fine::TOPIC, nested(depth)).await.unwrap();
    }
    bus.publish(Fine(5)).await.unwrap();
    end(&bus).await;
    assert_eq!(log.all()[1..], ["5"]);
    let letters = dead_letters(&bus).await;
    assert_eq!(letters.len(), 4, "each twice, and the others flow");
    assert!(
        letters
            .iter()
            .all(|letter| letter.errors[1].contains("127"))
    );
    assert_eq!(queue(&bus, "typed").acked, 1);
}

#[tokio::test]
async fn texts_without_end_are_cut_and_panics_without_a_text_are_told() {
    let bus = bus().await;
    bus.subscribe_fn::<Fine, _>(
        "fine",
        async |fine: &Fine, _: &mut Context<'_>| match fine.0 {
            0 => Err(Failure::reject("é".repeat(1_000_000))),
            1 => std::panic::panic_any(7),
            _ => panic!("{}", "x".repeat(1_000_000)),
        },
    )
    .retry(Retry::none())
    .start()
    .await
    .unwrap();
    bus.publish_all((0..3).map(Fine)).await.unwrap();
    end(&bus).await;
    let letters = dead_letters(&bus).await;
    let errors: Vec<_> = letters
        .iter()
        .map(|letter| letter.errors[0].chars().count())
        .collect();
    assert_eq!(errors.len(), 3);
    assert!(errors.iter().all(|length| *length <= 1000), "{errors:?}");
    assert_eq!(letters[1].errors, ["panicked: a panic without a text"]);
}
