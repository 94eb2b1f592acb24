use std::time::{Duration, SystemTime};

use super::format::{
    IncomingMessage, IncomingWire, OutgoingMessage, Properties, WireFormat, WireFormatError,
    WireMessage,
};
use super::value::digits;
use super::{names, seconds};
use crate::message::CorrelationId;

pub(super) const JSON: &str = "application/json";
/// The last second of the year 9999: what is beyond it is no time.
pub(super) const LAST_SECOND: u64 = 253_402_300_799;

/// The bridge's own format: a plain JSON body, the standard properties, string headers.
///
/// It is described for other languages in `docs/wire-format.md`. A format of your own may call it and change
/// what differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlainJson;

impl WireFormat for PlainJson {
    fn encode(&self, message: &OutgoingMessage<'_>) -> Result<WireMessage, WireFormatError> {
        let envelope = message.envelope;
        let mut headers = Vec::new();
        if let Some(metadata) = &envelope.metadata {
            let mut set = |name: &str, value: String| headers.push((name.to_owned(), value));
            if let Some(key) = &metadata.key {
                set(names::KEY, key.to_string());
            }
            if let Some(causation) = metadata.causation {
                set(names::CAUSATION, causation.to_string());
            }
            if let Some(expires) = metadata.expires_ms {
                set(names::EXPIRES, expires.to_string());
            }
            if let Some(traceparent) = &metadata.traceparent {
                set(names::TRACEPARENT, traceparent.to_string());
            }
            for (name, value) in envelope.headers() {
                set(name, value.to_owned());
            }
        }
        let correlation = envelope
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.correlation.as_ref());
        let properties = Properties {
            content_type: Some(JSON.to_owned()),
            message_id: Some(envelope.id.to_string()),
            correlation_id: correlation.map(CorrelationId::to_string),
            message_type: Some(envelope.address().to_owned()),
            timestamp: seconds(envelope.time()),
            app_id: (!message.service.is_empty()).then(|| message.service.to_owned()),
            headers,
            ..Properties::default()
        };
        Ok(WireMessage {
            properties,
            body: None,
        })
    }

    fn decode(&self, wire: &IncomingWire<'_>) -> Result<IncomingMessage, WireFormatError> {
        Ok(self.read(wire))
    }
}

impl PlainJson {
    /// Total: anything that RabbitMQ can carry is a message.
    pub(super) fn read(self, wire: &IncomingWire<'_>) -> IncomingMessage {
        let properties = wire.properties;
        let header = |name| properties.header(name);
        let time = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        // Our exchanges route by the address; what a sender calls the type is then its own matter.
        let address = match wire.came_by {
            Some(_) => Some(wire.routing_key.to_owned()),
            None => properties.message_type.clone(),
        };
        let seconds = properties
            .timestamp
            .filter(|seconds| *seconds <= LAST_SECOND);
        IncomingMessage {
            id: properties.message_id.clone(),
            kind: wire.came_by,
            address,
            key: header(names::KEY).map(str::to_owned),
            correlation: header(names::CONVERSATION)
                .or(properties.correlation_id.as_deref())
                .map(str::to_owned),
            causation: header(names::CAUSATION).and_then(|id| id.parse().ok()),
            time: seconds.map(|seconds| time(seconds * 1000)),
            expires_at: header(names::EXPIRES)
                .and_then(digits)
                .filter(|ms| *ms / 1000 <= LAST_SECOND)
                .map(time),
            traceparent: header(names::TRACEPARENT).map(str::to_owned),
            headers: properties.headers.clone(),
            body: None,
        }
    }
}
