mod arbitrary;
mod copies;
mod received;
mod sent;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use super::headers::Headers;
use super::incoming::Decoded;
use super::*;
use crate::mailbox::Slot;
use crate::message::{
    Address, Envelope, Held, MessageId, Metadata, Name, Parcel, Payload, RawBody,
};
use crate::ports::Refusal;

const EVENTS: &str = "postroom.events";
const COMMANDS: &str = "postroom.commands";
const DUE: &str = "postroom.due";
const FRAME: usize = 131_072;
const EXCHANGES: Exchanges<'static> = Exchanges {
    events: EVENTS,
    commands: COMMANDS,
    due: DUE,
    ladder: "postroom.delay.",
};

fn parcel(kind: AddressKind, name: &str, metadata: Metadata) -> Held {
    let envelope = Envelope {
        id: MessageId::new(),
        address: Address {
            kind,
            name: Name::Shared(name.into()),
        },
        metadata: Some(Box::new(metadata)),
    };
    Parcel::new(envelope, RawBody(serde_json::json!({"order": 7}))).own(|| None)
}

fn arrived(exchange: &str, routing_key: &str, properties: BasicProperties) -> Arrived {
    Arrived {
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        redelivered: false,
        properties,
        body: br#"{"order":7}"#.to_vec(),
    }
}

/// What a parcel is published with: [`outgoing`] in the bridge's own format.
fn properties(
    parcel: &Parcel,
    service: &str,
    reply_to: Option<&str>,
    frame_max: usize,
) -> Result<BasicProperties, Refusal> {
    outgoing(&PlainJson, parcel, service, reply_to, frame_max).map(|(properties, _)| properties)
}

fn read(arrived: Arrived) -> Decoded {
    decode_with(&PlainJson, arrived, EXCHANGES)
}

fn table(headers: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert((*name).into(), value.clone());
    }
    table
}

fn string(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn with_headers(headers: &[(&str, AMQPValue)]) -> BasicProperties {
    BasicProperties::default().with_headers(table(headers))
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

fn slot(decoded: Decoded) -> Slot {
    Slot::new(decoded.parcel.own(|| None)).noted(|record| {
        record.attempts = decoded.attempts;
        record.history = decoded.history;
    })
}

/// The bytes of a content header's frame, by lapin's own encoder.
fn encoded(properties: &BasicProperties) -> Vec<u8> {
    let write = lapin::protocol::basic::gen_properties::<Vec<u8>>(properties);
    write(Vec::new().into()).unwrap().into_inner().0
}

/// What a receiver gets: encoded and parsed by lapin.
fn over_the_wire(properties: &BasicProperties) -> BasicProperties {
    let bytes = encoded(properties);
    let (rest, parsed) = lapin::protocol::basic::parse_properties(&bytes[..]).unwrap();
    assert!(rest.is_empty());
    parsed
}
