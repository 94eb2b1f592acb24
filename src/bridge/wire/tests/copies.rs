use std::time::{Duration, SystemTime};

use super::*;
use crate::delivery::Reason;
use crate::mailbox::History;
use crate::ports::{DeadLetter, DeadLetterId};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn failed(decoded: Decoded, errors: Vec<String>) -> Slot {
    slot(decoded).noted(|record| {
        record.attempts = 3;
        record.history = Some(Box::new(History {
            last_failed_at: at(1_700_000_060),
            ..History::new(errors, at(1_700_000_000))
        }));
    })
}

fn foreign() -> BasicProperties {
    with_headers(&[
        ("number", AMQPValue::ShortUInt(7)),
        ("CC", AMQPValue::FieldArray(vec![string("b")].into())),
        ("x-death", AMQPValue::FieldArray(vec![].into())),
        ("x-first-death-queue", string("q")),
        ("x-last-death-reason", string("expired")),
        ("x-delivery-count", AMQPValue::LongLongInt(3)),
        ("x-acquired-count", AMQPValue::LongLongInt(3)),
        (names::ATTEMPTS, string("99")),
    ])
    .with_type("Order".into())
    .with_priority(4)
    .with_delivery_mode(1)
    .with_expiration("1000".into())
    .with_user_id("guest".into())
    .with_reply_to("q".into())
    .with_correlation_id("7".into())
}

fn letter(slot: Slot) -> DeadLetter {
    let history = slot.record().history.clone().unwrap();
    DeadLetter {
        id: DeadLetterId::of(MessageId::new()),
        queue: "shop.mailer".into(),
        reason: Reason::Exhausted,
        errors: history.errors,
        attempts: slot.record().attempts,
        first_failed_at: history.first_failed_at,
        last_failed_at: history.last_failed_at,
        queue_id: 0,
        token: 0,
        parcel: slot.share().1,
    }
}

fn read_dead(properties: BasicProperties) -> DeadMessage {
    let dead = arrived("", "shop.mailer.dead", over_the_wire(&properties));
    read_dead_letter(&PlainJson, dead, "shop.mailer", EXCHANGES)
}

#[test]
fn a_retry_keeps_what_was_foreign_and_loses_what_was_the_brokers() {
    let slot = failed(read(arrived("theirs", "key", foreign())), vec!["no".into()]);
    let copy = over_the_wire(&retry_copy(&slot, FRAME).unwrap());
    assert!(copy.expiration().is_none() && copy.user_id().is_none());
    assert_eq!((*copy.delivery_mode(), *copy.priority()), (Some(2), None));
    assert_eq!(header(&copy, names::PRIORITY), Some(&string("4")));
    assert_eq!(header(&copy, "number"), Some(&AMQPValue::ShortUInt(7)));
    assert_eq!(header(&copy, names::USER_ID), Some(&string("guest")));
    let names: Vec<_> = copy
        .headers()
        .iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    assert!(
        names
            .iter()
            .all(|name| *name == "number" || name.starts_with("x-postroom-"))
    );

    let again = read(arrived(DUE, "1.0.queue", copy));
    let envelope = again.parcel.about();
    assert_eq!(envelope.id(), slot.parcel().envelope().id());
    assert_eq!(
        (envelope.kind(), envelope.address()),
        (AddressKind::Topic, "Order")
    );
    assert_eq!(envelope.header("number"), Some("7"));
    assert_eq!(again.attempts, 3);
    let history = again.history.unwrap();
    assert_eq!(history.errors, ["no"]);
    assert_eq!(history.first_failed_at, at(1_700_000_000));
    assert_eq!(history.last_failed_at, at(1_700_000_060));
    assert_eq!(again.reply.unwrap().correlation, "7");
    assert_eq!(again.parcel.kept().exchange, "theirs");
    assert_eq!(again.parcel.kept().routing_key, "key");
}

#[test]
fn a_retry_keeps_the_id_and_the_time_that_the_message_was_given() {
    for id in [
        None,
        Some("order 7"),
        Some("00000000-0000-0000-0000-000000000000"),
    ] {
        let mut properties = BasicProperties::default();
        if let Some(id) = id {
            properties = properties.with_message_id(id.into());
        }
        let slot = failed(read(arrived("theirs", "a", properties)), vec![]);
        let copy = retry_copy(&slot, FRAME).unwrap();
        let first = slot.parcel().envelope();
        let again = read(arrived(DUE, "1.queue", copy));
        assert_eq!(again.parcel.about().id(), first.id(), "{id:?}");
        let gap = first.time().duration_since(again.parcel.about().time());
        assert!(
            gap.unwrap() < Duration::from_secs(1),
            "only the milliseconds are lost"
        );
        // Nobody else can say who a message is to us.
        let forged = with_headers(&[(names::ID, string(&first.id().to_string()))]);
        assert_ne!(
            read(arrived(EVENTS, "a", forged)).parcel.about().id(),
            first.id()
        );
    }
}

#[test]
fn a_retry_of_a_command_is_a_command() {
    let slot = failed(
        read(arrived(COMMANDS, "charge", BasicProperties::default())),
        vec![],
    );
    let again = read(arrived(DUE, "1.queue", retry_copy(&slot, FRAME).unwrap()));
    let envelope = again.parcel.about();
    assert_eq!(
        (envelope.kind(), envelope.address()),
        (AddressKind::Queue, "charge")
    );
}

#[test]
fn a_dead_letter_is_read_back_and_replayed_with_its_attempts_anew() {
    let slot = failed(
        read(arrived(EVENTS, "order.paid", foreign())),
        vec!["no".into(), "because".into()],
    );
    let letter = letter(slot);
    let sent = dead_letter(&letter, FRAME).unwrap();
    let headers = sent.headers().as_ref();
    let origin = Headers(headers).string(names::QUEUE);
    assert_eq!(origin.as_deref(), Some("shop.mailer"));
    let dead = read_dead(sent);
    assert_eq!(dead.id, letter.id);
    assert_eq!((dead.reason, dead.attempts), (Reason::Exhausted, 3));
    assert_eq!(dead.errors, letter.errors);
    assert_eq!(dead.first_failed_at, letter.first_failed_at);
    assert_eq!(dead.last_failed_at, letter.last_failed_at);
    assert_eq!(dead.parcel.kept().exchange, EVENTS);
    assert_eq!(dead.parcel.kept().routing_key, "order.paid");
    assert_eq!(dead.parcel.about().address(), "order.paid");

    let parcel = dead.parcel.own(|| None);
    let replay = replayed(&parcel, FRAME).unwrap();
    let of_failures = [
        names::ATTEMPTS,
        names::AWAITED_HANDLER,
        names::FIRST_FAILED,
        names::LAST_FAILED,
        names::ERRORS,
        names::DEAD_LETTER_ID,
        names::REASON,
        names::QUEUE,
    ];
    assert!(
        of_failures
            .iter()
            .all(|name| header(&replay, name).is_none())
    );
    let again = read(arrived("", "shop.mailer", over_the_wire(&replay)));
    assert_eq!((again.attempts, again.history.is_none()), (0, true));
    assert_eq!(again.parcel.about().id(), letter.envelope().id());
    assert_eq!(again.parcel.about().address(), "order.paid");
    assert_eq!(again.parcel.about().header("number"), Some("7"));
}

#[test]
fn every_reason_is_read_back() {
    for reason in [
        Reason::Exhausted,
        Reason::Rejected,
        Reason::Undecodable,
        Reason::UnknownType,
        Reason::ReleaseFailed,
    ] {
        let slot = failed(
            read(arrived(EVENTS, "a", BasicProperties::default())),
            vec![],
        );
        let letter = DeadLetter {
            reason,
            ..letter(slot)
        };
        assert_eq!(
            read_dead(dead_letter(&letter, FRAME).unwrap()).reason,
            reason
        );
    }
}

#[test]
fn what_rabbitmq_gave_up_is_read_too() {
    let death = |queue: &str, reason: &str, exchange: &str, key: &str| {
        AMQPValue::FieldTable(table(&[
            ("queue", string(queue)),
            ("reason", string(reason)),
            ("exchange", string(exchange)),
            (
                "routing-keys",
                AMQPValue::FieldArray(vec![string(key)].into()),
            ),
            ("time", AMQPValue::Timestamp(1_700_000_000)),
            ("count", AMQPValue::LongLongInt(1)),
        ]))
    };
    let deaths = vec![
        death("postroom.delay.1", "expired", "postroom.delay.1", "1.queue"),
        death("shop.mailer", "delivery_limit", EVENTS, "order.paid"),
    ];
    let properties = with_headers(&[("x-death", AMQPValue::FieldArray(deaths.into()))]);
    let dead = read_dead(properties.clone());
    assert_eq!(dead.reason, Reason::Exhausted);
    assert_eq!(
        dead.errors,
        ["RabbitMQ gave it up in `shop.mailer`: delivery_limit"]
    );
    assert_eq!(
        (dead.first_failed_at, dead.last_failed_at),
        (at(1_700_000_000), at(1_700_000_000))
    );
    assert_eq!(dead.parcel.about().address(), "order.paid");
    assert_eq!(dead.parcel.kept().exchange, EVENTS);
    assert_eq!(
        dead.id,
        read_dead(properties).id,
        "found again under the same id"
    );

    for properties in [
        BasicProperties::default(),
        BasicProperties::default().with_message_id("order 7".into()),
    ] {
        let unknown = read_dead(properties.clone());
        assert_eq!(unknown.reason, Reason::Rejected);
        assert_eq!(unknown.id, read_dead(properties).id);
    }
}

#[test]
fn a_copy_fits_its_frame_whatever_its_errors_and_headers() {
    let errors = vec!["é".repeat(100_000); 40];
    for (count, bytes) in [(0, 0), (1, 130_000), (40, 3_000), (9_000, 1)] {
        let mut headers = FieldTable::default();
        for n in 0..count {
            headers.insert(format!("h{n:04}").into(), string(&"x".repeat(bytes)));
        }
        let properties = BasicProperties::default().with_headers(headers);
        let slot = failed(read(arrived(EVENTS, "a", properties)), errors.clone());
        for frame_max in [8_192, FRAME] {
            let copy = retry_copy(&slot, frame_max).unwrap();
            assert!(encoded(&copy).len() + 22 < frame_max);
            let again = read(arrived(DUE, "1.queue", copy));
            assert_eq!(again.attempts, 3, "ours are never left out");
        }
        let dead = dead_letter(&letter(slot), FRAME).unwrap();
        assert!(encoded(&dead).len() + 22 < FRAME);
        let dropped = header(&dead, names::HEADERS_DROPPED).is_some();
        assert_eq!(
            dropped,
            bytes == 130_000,
            "{count} headers of {bytes} bytes"
        );
    }
}

#[test]
fn what_others_wrote_under_our_prefix_never_keeps_a_copy_from_fitting() {
    let long = string(&"x".repeat(50_000));
    let theirs = with_headers(&[
        ("x-postroom-junk", long.clone()),
        (names::KEY, long.clone()),
        (names::HEADERS_DROPPED, long.clone()),
        ("number", AMQPValue::ShortUInt(7)),
    ]);
    let slot = failed(read(arrived("theirs", "key", theirs)), vec!["no".into()]);
    let retry = retry_copy(&slot, FRAME).unwrap();
    let dead = dead_letter(&letter(slot), FRAME).unwrap();
    for copy in [retry, dead] {
        let copy = over_the_wire(&copy);
        for gone in ["x-postroom-junk", names::KEY, names::HEADERS_DROPPED] {
            assert_eq!(header(&copy, gone), None);
        }
        assert_eq!(header(&copy, "number"), Some(&AMQPValue::ShortUInt(7)));
    }
}
