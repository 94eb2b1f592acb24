use super::*;
use crate::message::{CorrelationId, NameError};
use crate::ports::Refusal;

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[test]
fn a_message_has_the_standard_properties_and_comes_back_as_it_was() {
    let causation = MessageId::new();
    let sent = parcel(
        AddressKind::Topic,
        "ordering.order-paid",
        Metadata {
            key: Some("order 7".into()),
            expires_ms: Some(1_900_000_000_123),
            correlation: Some(CorrelationId::Other("checkout".into())),
            causation: Some(causation),
            traceparent: Some(TRACE.into()),
            headers: vec![("tenant".into(), "north".into())],
            ..Metadata::default()
        },
    );
    let properties = over_the_wire(&properties(&sent, "shop", None, FRAME).unwrap());
    let text = |text: &Option<lapin::types::ShortString>| text.as_ref().unwrap().to_string();
    let id = sent.envelope().id();
    assert_eq!(text(properties.content_type()), "application/json");
    assert_eq!(text(properties.message_id()), id.to_string());
    assert_eq!(text(properties.kind()), "ordering.order-paid");
    assert_eq!(text(properties.app_id()), "shop");
    assert_eq!(text(properties.correlation_id()), "checkout");
    assert_eq!(properties.timestamp().unwrap(), id.millis() / 1000);
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert!(properties.expiration().is_none() && properties.reply_to().is_none());
    assert_eq!(header(&properties, "tenant"), Some(&string("north")));

    let decoded = read(arrived(EVENTS, "ordering.order-paid", properties));
    let envelope = decoded.parcel.about();
    assert_eq!((envelope.id(), envelope.kind()), (id, AddressKind::Topic));
    assert_eq!(envelope.address(), "ordering.order-paid");
    assert_eq!(envelope.time(), sent.envelope().time());
    assert_eq!(envelope.key(), Some("order 7"));
    assert_eq!(envelope.expires_ms(), Some(1_900_000_000_123));
    assert_eq!(envelope.correlation_id(), "checkout");
    assert_eq!(envelope.causation_id(), Some(causation));
    assert_eq!(envelope.traceparent(), Some(TRACE));
    assert_eq!(
        envelope.headers().collect::<Vec<_>>(),
        [("tenant", "north")]
    );
    assert_eq!(
        (decoded.attempts, decoded.reply, decoded.undecodable),
        (0, None, None)
    );
}

#[test]
fn a_request_is_known_by_its_id_and_keeps_its_conversation() {
    for conversation in [None, Some("checkout")] {
        let sent = parcel(
            AddressKind::Queue,
            "payment.charge",
            Metadata {
                correlation: conversation.map(|text| CorrelationId::Other(text.into())),
                ..Metadata::default()
            },
        );
        let id = sent.envelope().id().to_string();
        let properties = properties(&sent, "shop", Some("amq.gen-1"), FRAME).unwrap();
        let decoded = read(arrived(
            COMMANDS,
            "payment.charge",
            over_the_wire(&properties),
        ));
        let envelope = decoded.parcel.about();
        assert_eq!(envelope.kind(), AddressKind::Queue);
        assert_eq!(envelope.correlation_id(), conversation.unwrap_or(&id));
        let reply = decoded.reply.unwrap();
        assert_eq!((reply.queue.as_str(), reply.correlation), ("amq.gen-1", id));
    }
}

#[test]
fn what_cannot_be_sent_is_refused() {
    let refused = |metadata: Metadata| {
        properties(
            &parcel(AddressKind::Topic, "a", metadata),
            "shop",
            None,
            FRAME,
        )
        .unwrap_err()
    };
    let with_header = |name: &str, value: &str| Metadata {
        headers: vec![(name.into(), value.into())],
        ..Metadata::default()
    };
    // `CC` as a string would close the channel; ours could be forged.
    for reserved in ["CC", "BCC", "x-death", "x-postroom-attempts", "traceparent"] {
        let why = refused(with_header(reserved, "b"));
        assert!(
            matches!(why, Refusal::Name(NameError::Reserved { .. })),
            "{reserved}: {why}"
        );
    }
    let long = "x".repeat(256);
    let too_long = |why| matches!(why, Refusal::Name(NameError::TooLong { length: 256, .. }));
    assert!(too_long(refused(with_header(&long, "b"))));
    let conversation = Metadata {
        correlation: Some(CorrelationId::Other(long.as_str().into())),
        ..Metadata::default()
    };
    assert!(too_long(refused(conversation)));
    let sent = parcel(AddressKind::Topic, "a", Metadata::default());
    assert!(too_long(properties(&sent, &long, None, FRAME).unwrap_err()));
    assert!(too_long(
        properties(&sent, "shop", Some(&long), FRAME).unwrap_err()
    ));
    let why = refused(with_header("big", &"x".repeat(FRAME)));
    assert!(matches!(why, Refusal::HeadersTooLarge { .. }), "{why}");
}

#[test]
fn what_may_be_published_can_be_retried_with_all_its_headers() {
    let biggest = |bytes: usize| {
        let headers = vec![("big".into(), "x".repeat(bytes).into())];
        let metadata = Metadata {
            headers,
            ..Metadata::default()
        };
        properties(
            &parcel(AddressKind::Topic, "a", metadata),
            "shop",
            None,
            FRAME,
        )
        .ok()
    };
    let bytes = (80_000..FRAME)
        .rev()
        .find(|bytes| biggest(*bytes).is_some())
        .unwrap();
    let slot = slot(read(arrived(EVENTS, "a", biggest(bytes).unwrap())));
    let slot = slot.noted(|record| record.attempts = 3);
    let copy = retry_copy(&slot, FRAME).unwrap();
    assert_eq!(header(&copy, "big"), Some(&string(&"x".repeat(bytes))));
    assert_eq!(header(&copy, names::HEADERS_DROPPED), None);
}
