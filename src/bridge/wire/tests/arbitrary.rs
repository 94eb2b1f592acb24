use lapin::types::{DecimalValue, ShortString};
use proptest::prelude::*;

use super::*;
use crate::mailbox::History;

fn short() -> impl Strategy<Value = ShortString> {
    prop_oneof![
        "[ -~]{0,20}".prop_map(ShortString::from),
        "\\PC{0,60}".prop_map(ShortString::from),
        any::<u128>().prop_map(|bits| ShortString::from(uuid::Uuid::from_u128(bits).to_string())),
    ]
}

/// Names that mean something, and others.
fn name() -> impl Strategy<Value = ShortString> {
    let known = [
        names::ID,
        names::KEY,
        names::CAUSATION,
        names::EXPIRES,
        names::CONVERSATION,
        names::ADDRESS,
        names::KIND,
        names::EXCHANGE,
        names::ROUTING_KEY,
        names::ATTEMPTS,
        names::FIRST_FAILED,
        names::LAST_FAILED,
        names::ERRORS,
        names::HEADERS_DROPPED,
        names::DEAD_LETTER_ID,
        names::REASON,
        names::QUEUE,
        names::TRACEPARENT,
        names::REFUSAL,
        "x-death",
        "CC",
        "x-delivery-count",
    ];
    prop_oneof![
        proptest::sample::select(known.to_vec()).prop_map(ShortString::from),
        short(),
    ]
}

fn value() -> impl Strategy<Value = AMQPValue> {
    let texts = [
        "event",
        "command",
        "7",
        "-1",
        "18446744073709551616",
        "1700000000000",
    ];
    let leaf = prop_oneof![
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i8>().prop_map(AMQPValue::ShortShortInt),
        any::<u8>().prop_map(AMQPValue::ShortShortUInt),
        any::<i16>().prop_map(AMQPValue::ShortInt),
        any::<u16>().prop_map(AMQPValue::ShortUInt),
        any::<i32>().prop_map(AMQPValue::LongInt),
        any::<u32>().prop_map(AMQPValue::LongUInt),
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        any::<f32>().prop_map(AMQPValue::Float),
        any::<f64>().prop_map(AMQPValue::Double),
        any::<(u8, u32)>()
            .prop_map(|(scale, value)| AMQPValue::DecimalValue(DecimalValue { scale, value })),
        any::<u64>().prop_map(AMQPValue::Timestamp),
        any::<Vec<u8>>().prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
        any::<Vec<u8>>().prop_map(|bytes| AMQPValue::LongString(bytes.into())),
        proptest::sample::select(texts.to_vec()).prop_map(string),
        Just(AMQPValue::Void),
    ];
    leaf.prop_recursive(6, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6)
                .prop_map(|items| AMQPValue::FieldArray(items.into())),
            proptest::collection::btree_map(name(), inner, 0..6)
                .prop_map(|fields| AMQPValue::FieldTable(fields.into())),
        ]
    })
}

fn some_properties() -> impl Strategy<Value = BasicProperties> {
    let headers = proptest::collection::btree_map(name(), value(), 0..12);
    let texts = proptest::collection::vec(proptest::option::of(short()), 10);
    (
        proptest::option::of(headers),
        texts,
        any::<(Option<u64>, Option<u8>, Option<u8>)>(),
    )
        .prop_map(|(headers, texts, (timestamp, mode, priority))| {
            let mut all = BasicProperties::default();
            let setters = [
                BasicProperties::with_content_type,
                BasicProperties::with_content_encoding,
                BasicProperties::with_correlation_id,
                BasicProperties::with_reply_to,
                BasicProperties::with_expiration,
                BasicProperties::with_message_id,
                BasicProperties::with_type,
                BasicProperties::with_user_id,
                BasicProperties::with_app_id,
                BasicProperties::with_cluster_id,
            ];
            for (set, text) in setters.into_iter().zip(texts) {
                if let Some(text) = text {
                    all = set(all, text);
                }
            }
            if let Some(headers) = headers {
                all = all.with_headers(headers.into());
            }
            if let Some(seconds) = timestamp {
                all = all.with_timestamp(seconds);
            }
            if let Some(mode) = mode {
                all = all.with_delivery_mode(mode);
            }
            if let Some(priority) = priority {
                all = all.with_priority(priority);
            }
            all
        })
}

fn any_arrived() -> impl Strategy<Value = Arrived> {
    let exchange = proptest::sample::select(&[EVENTS, COMMANDS, DUE, "", "theirs", "a\nb"][..]);
    let key = "[a-z#*.]{0,12}|\\PC{0,40}";
    (
        exchange,
        key,
        any::<bool>(),
        some_properties(),
        any::<Vec<u8>>(),
    )
        .prop_map(
            |(exchange, routing_key, redelivered, properties, body)| Arrived {
                exchange: exchange.to_owned(),
                routing_key,
                redelivered,
                properties,
                body,
            },
        )
}

proptest! {
    #[test]
    fn a_header_weighs_what_lapin_writes(properties in some_properties()) {
        // Frame type, channel, length and end, class, weight and body size are around what is written.
        prop_assert_eq!(size::frame(&properties), encoded(&properties).len() + 8 + 12);
    }

    #[test]
    fn anything_is_read_and_its_copies_stay_the_same_message(
        arrived in any_arrived(),
        errors in proptest::collection::vec("\\PC{0,200}", 0..20),
        attempts in any::<u32>(),
    ) {
        let exchange = arrived.exchange.clone();
        let body = arrived.body.clone();
        let decoded = read(arrived.clone());
        prop_assert!(exchange == DUE || (decoded.attempts == 0 && decoded.history.is_none()));
        let slot = slot(decoded);
        let envelope = slot.parcel().envelope();
        prop_assert!(!envelope.address().is_empty());
        prop_assert!(envelope.headers().all(|(name, _)| !names::is_ours(name) && !names::is_brokers(name)));
        let (id, address) = (envelope.id(), envelope.address().to_owned());
        let (kind, key) = (envelope.kind(), envelope.key().map(str::to_owned));
        let headers: Vec<_> = envelope.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        prop_assert_eq!(slot.parcel().json().unwrap(), &body[..]);

        let slot = slot.noted(|record| {
            record.attempts = attempts;
            record.history = Some(Box::new(History::new(errors, std::time::SystemTime::UNIX_EPOCH)));
        });
        let copy = retry_copy(&slot, FRAME).unwrap();
        prop_assert!(size::frame(&copy) <= size::limit(FRAME, size::Way::Ladder));
        let again = read(Arrived {
            body,
            ..super::arrived(DUE, "1.0.1.queue", over_the_wire(&copy))
        });
        let envelope = again.parcel.about();
        prop_assert_eq!((envelope.id(), envelope.kind()), (id, kind));
        prop_assert_eq!(envelope.address(), address);
        prop_assert_eq!(envelope.key().map(str::to_owned), key);
        let same: Vec<_> = envelope.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        prop_assert_eq!(same, headers);
        prop_assert_eq!(again.attempts, attempts);

        let dead = read_dead_letter(&PlainJson, arrived.clone(), "shop.mailer", EXCHANGES);
        replayed(&dead.parcel.own(|| None), FRAME).unwrap();
        let _ = read_reply(arrived);
    }
}
