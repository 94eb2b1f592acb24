use super::*;

#[test]
fn a_message_of_nobody_has_its_address_from_the_way_it_came() {
    let of = |exchange, routing_key| {
        let decoded = read(arrived(exchange, routing_key, BasicProperties::default()));
        let envelope = decoded.parcel.about();
        assert!(envelope.time() > std::time::SystemTime::UNIX_EPOCH);
        assert_eq!(envelope.correlation_id(), envelope.id().to_string());
        (envelope.kind(), envelope.address().to_owned())
    };
    let topic = |name: &str| (AddressKind::Topic, name.to_owned());
    assert_eq!(of(EVENTS, "a.b"), topic("a.b"));
    assert_eq!(of(COMMANDS, "a.b"), (AddressKind::Queue, "a.b".to_owned()));
    assert_eq!(of("theirs", "a.b"), topic("a.b"));
    assert_eq!(of("theirs", ""), topic("theirs"));
    assert_eq!(of("", ""), topic("unnamed"));
    assert_eq!(of("theirs", "a.#"), topic("theirs"));
}

#[test]
fn a_type_is_the_address_unless_our_exchange_says_otherwise() {
    let of = |exchange, name: &str| {
        let properties = BasicProperties::default().with_type(name.into());
        let decoded = read(arrived(exchange, "key", properties));
        decoded.parcel.about().address().to_owned()
    };
    assert_eq!(of("theirs", "order-paid"), "order-paid");
    assert_eq!(of("theirs", "not\na name"), "key");
    assert_eq!(of(EVENTS, "Com.House.OrderPaid"), "key");
}

#[test]
fn an_identity_is_a_uuid_or_becomes_one() {
    let of = |id: &str| {
        let properties = BasicProperties::default().with_message_id(id.into());
        read(arrived("theirs", "a", properties)).parcel.about().id()
    };
    let theirs = "8c6f61f1-29d7-4b56-9d0b-0bd1a1c4d1ea";
    assert_eq!(of(theirs).to_string(), theirs);
    assert_eq!(of(&theirs.to_uppercase()).to_string(), theirs);
    assert_eq!(of("order 7"), of("order 7"));
    assert_ne!(of("order 7"), of("order 8"));
    assert_ne!(of(""), of(""));
    let nil = "00000000-0000-0000-0000-000000000000";
    assert_ne!(of(nil), of(nil));
}

#[test]
fn a_foreign_time_is_believed_within_reason() {
    let of = |seconds| {
        let properties = BasicProperties::default()
            .with_message_id("7".into())
            .with_timestamp(seconds);
        let decoded = read(arrived("theirs", "a", properties));
        let time = decoded.parcel.about().time();
        time.duration_since(std::time::SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    assert_eq!(of(1_000_000_000), 1_000_000_000);
    let now = of(u64::MAX);
    assert!(now > 1_700_000_000 && now < 10_000_000_000, "{now}");
}

#[test]
fn attempts_are_believed_only_of_our_retry_exchange_and_only_if_they_are_a_number() {
    let of = |exchange, value: AMQPValue| {
        let now = string("1700000000000");
        let properties = with_headers(&[(names::ATTEMPTS, value), (names::LAST_FAILED, now)]);
        let decoded = read(arrived(exchange, "a", properties));
        (decoded.attempts, decoded.history.is_some())
    };
    assert_eq!(of(DUE, string("7")), (7, true));
    assert_eq!(of(DUE, AMQPValue::LongLongInt(7)), (7, true));
    for elsewhere in [EVENTS, COMMANDS, "", "theirs"] {
        assert_eq!(of(elsewhere, string("7")), (0, false), "{elsewhere}");
    }
    for forged in [
        string("-7"),
        string("4294967296"),
        string("seven"),
        AMQPValue::LongLongInt(-7),
        AMQPValue::LongLongInt(i64::MAX),
        AMQPValue::Boolean(true),
        AMQPValue::FieldTable(FieldTable::default()),
        AMQPValue::Void,
    ] {
        assert_eq!(of(DUE, forged.clone()), (0, false), "{forged:?}");
    }
}

#[test]
fn forged_headers_of_ours_are_not_shown_and_do_not_move_a_message() {
    let properties = with_headers(&[
        (names::KIND, string("command")),
        (names::ADDRESS, string("elsewhere")),
        (names::EXCHANGE, string(COMMANDS)),
        (names::ROUTING_KEY, string("elsewhere")),
        (names::EXPIRES, string("99999999999999999999")),
        (names::KEY, string("not\na key")),
        (names::CAUSATION, AMQPValue::Boolean(true)),
        ("traceparent", string("00-not-one")),
        ("x-death", AMQPValue::Void),
    ]);
    let decoded = read(arrived(EVENTS, "a", properties));
    let envelope = decoded.parcel.about();
    assert_eq!(
        (envelope.kind(), envelope.address()),
        (AddressKind::Topic, "a")
    );
    assert_eq!(envelope.headers().count(), 0);
    assert_eq!((envelope.key(), envelope.expires_at()), (None, None));
    assert_eq!(
        (envelope.causation_id(), envelope.traceparent()),
        (None, None)
    );
}

#[test]
fn of_too_many_headers_a_thousand_are_shown_and_copies_keep_all() {
    let mut headers = FieldTable::default();
    for n in 0..2_500 {
        headers.insert(format!("z{n}").into(), AMQPValue::LongInt(n));
    }
    headers.insert(names::KEY.into(), string("k"));
    let properties = BasicProperties::default().with_headers(headers);
    let decoded = read(arrived(EVENTS, "a", properties));
    let envelope = decoded.parcel.about();
    assert_eq!(
        (envelope.headers().count(), decoded.hidden_headers),
        (1_000, 1_500)
    );
    assert_eq!(envelope.key(), Some("k"));
    let copy = retry_copy(&slot(decoded), FRAME).unwrap();
    assert_eq!(header(&copy, "z2499"), Some(&AMQPValue::LongInt(2_499)));
}

#[test]
fn an_encoded_body_is_undecodable() {
    let of = |encoding: &str| {
        let properties = BasicProperties::default().with_content_encoding(encoding.into());
        read(arrived(EVENTS, "a", properties)).undecodable
    };
    assert_eq!((of("identity"), of("UTF-8"), of("")), (None, None, None));
    assert_eq!(
        of("gzip").unwrap(),
        "the body has the content encoding `gzip`"
    );
}

#[test]
fn a_request_without_a_correlation_is_answered_by_its_message_id() {
    let of = |properties: BasicProperties| {
        let decoded = read(arrived(COMMANDS, "a", properties));
        let id = decoded.parcel.about().id().to_string();
        (decoded.reply.map(|reply| reply.correlation), id)
    };
    let request = BasicProperties::default().with_reply_to("q".into());
    let named = request.clone().with_message_id("their 7".into());
    assert_eq!(of(named).0.unwrap(), "their 7");
    let (correlation, id) = of(request);
    assert_eq!(correlation.unwrap(), id);
    let nowhere = BasicProperties::default().with_reply_to("".into());
    assert_eq!(of(nowhere).0, None);
}

struct Wrapped;

impl WireFormat for Wrapped {
    fn encode(&self, _message: &OutgoingMessage<'_>) -> Result<WireMessage, WireFormatError> {
        panic!("a fault of the user's")
    }

    fn decode(&self, wire: &IncomingWire<'_>) -> Result<IncomingMessage, WireFormatError> {
        match wire.body {
            b"panic" => panic!("a fault of the user's"),
            b"error" => Err(WireFormatError::new("not ours")),
            body => Ok(IncomingMessage {
                address: Some(format!("{}/{}", wire.exchange, wire.routing_key)),
                key: wire
                    .properties
                    .priority
                    .map(|priority| priority.to_string()),
                body: Some([b"[", body, b"]"].concat()),
                ..IncomingMessage::default()
            }),
        }
    }
}

#[test]
fn a_format_of_the_users_reads_a_retry_as_it_read_the_original() {
    let decoded = decode_with(
        &Wrapped,
        arrived("theirs", "a", BasicProperties::default().with_priority(4)),
        EXCHANGES,
    );
    let slot = slot(decoded);
    assert_eq!(slot.parcel().envelope().key(), Some("4"));
    assert_eq!(slot.raw().json().unwrap(), br#"[{"order":7}]"#);
    let copy = retry_copy(&slot, FRAME).unwrap();
    let again = Arrived {
        body: copy_body(slot.parcel()).unwrap().to_vec(),
        ..arrived(DUE, "0.1.0.queue", copy)
    };
    let again = decode_with(&Wrapped, again, EXCHANGES).parcel.own(|| None);
    assert_eq!(again.envelope().address(), "theirs/a");
    assert_eq!(again.envelope().key(), Some("4"), "its priority");
    assert_eq!(again.envelope().id(), slot.parcel().envelope().id());
    assert_eq!(again.json().unwrap(), br#"[{"order":7}]"#);
}

#[test]
fn a_format_that_fails_makes_an_undecodable_message_or_a_refusal() {
    for (body, why) in [("panic", "the wire format panicked"), ("error", "not ours")] {
        let broken = Arrived {
            body: body.into(),
            ..arrived(EVENTS, "a", BasicProperties::default())
        };
        let decoded = decode_with(&Wrapped, broken, EXCHANGES);
        assert_eq!(decoded.undecodable.as_deref(), Some(why));
        assert_eq!(decoded.parcel.about().address(), "a");
    }
    let sent = parcel(AddressKind::Topic, "a", Metadata::default());
    assert!(outgoing(&Wrapped, &sent, "shop", None, FRAME).is_err());
}
