use std::time::SystemTime;

use crate::message::{AddressKind, Envelope, MessageId};

/// How messages look on RabbitMQ: what stands in the properties, in the headers, in the body.
///
/// Without one of your own the bridge speaks [`PlainJson`](crate::PlainJson). A format of your own lets it talk to a house that
/// wraps its messages, or that names its headers otherwise. It maps what a message *says*; what makes delivery
/// safe stays the bridge's own and is not seen here: attempts, retry copies, dead letters, the reply address,
/// persistence. A copy for a retry or a dead letter keeps the properties and the body as they came, so whatever
/// `encode` and `decode` leave out is not lost by a failure.
///
/// Both methods run on the bridge's thread, so they must not block. A panic in one is caught, and counts as
/// its error.
///
/// ```
/// use postroom::{
///     IncomingMessage, IncomingWire, OutgoingMessage, PlainJson, WireFormat, WireFormatError, WireMessage,
/// };
/// use serde_json::{Value, json};
///
/// /// A house whose body is an envelope: `{"event": …, "data": …}`.
/// struct Enveloped;
///
/// impl WireFormat for Enveloped {
///     fn encode(&self, message: &OutgoingMessage<'_>) -> Result<WireMessage, WireFormatError> {
///         let mut wire = PlainJson.encode(message)?;
///         let data: Value = serde_json::from_slice(message.body).map_err(WireFormatError::new)?;
///         let envelope = json!({"event": message.envelope.address(), "data": data});
///         wire.body = Some(envelope.to_string().into_bytes());
///         Ok(wire)
///     }
///
///     fn decode(&self, wire: &IncomingWire<'_>) -> Result<IncomingMessage, WireFormatError> {
///         let mut message = PlainJson.decode(wire)?;
///         let envelope: Value = serde_json::from_slice(wire.body).map_err(WireFormatError::new)?;
///         message.address = envelope["event"].as_str().map(str::to_owned);
///         message.body = Some(envelope["data"].to_string().into_bytes());
///         Ok(message)
///     }
/// }
///
/// let wire = IncomingWire {
///     came_by: None,
///     exchange: "theirs",
///     routing_key: "any",
///     properties: &Default::default(),
///     body: br#"{"event": "ordering.order-paid", "data": {"order": 7}}"#,
/// };
/// let message = Enveloped.decode(&wire).unwrap();
/// assert_eq!(message.address.as_deref(), Some("ordering.order-paid"));
/// assert_eq!(message.body.as_deref(), Some(&br#"{"order":7}"#[..]));
/// ```
pub trait WireFormat: Send + Sync + 'static {
    /// What is sent for a message.
    ///
    /// The bridge adds the delivery mode and, for a request, the reply address and its `correlation_id`; and
    /// it sets the `message_id` where this leaves it out.
    ///
    /// # Errors
    /// When the message cannot be said in this format: its publisher gets the error.
    fn encode(&self, message: &OutgoingMessage<'_>) -> Result<WireMessage, WireFormatError>;

    /// What came, in our words.
    ///
    /// # Errors
    /// When it is not a message of this format: it becomes a dead letter, undecodable, with the error.
    fn decode(&self, wire: &IncomingWire<'_>) -> Result<IncomingMessage, WireFormatError>;
}

/// A message that a format cannot read or write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WireFormatError(String);

impl WireFormatError {
    /// An error with this text.
    pub fn new(why: impl ToString) -> Self {
        Self(why.to_string())
    }
}

/// A message to be sent.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingMessage<'a> {
    /// Who it is and where it goes.
    pub envelope: &'a Envelope,
    /// Its body as JSON.
    pub body: &'a [u8],
    /// The name of the bus that sends it.
    pub service: &'a str,
}

/// A message as a format writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WireMessage {
    /// Properties and headers.
    pub properties: Properties,
    /// The body, where it is another than the message's JSON.
    pub body: Option<Vec<u8>>,
}

/// A message as it came.
#[derive(Clone, Copy, Debug)]
pub struct IncomingWire<'a> {
    /// The bridge's own exchange that brought it first: the one of events means a topic, the one of commands
    /// a queue, and the routing key is then its name. None: it came by another exchange.
    pub came_by: Option<AddressKind>,
    /// The exchange that it was first published to; empty for RabbitMQ's default exchange.
    pub exchange: &'a str,
    /// The routing key that it was first published with.
    pub routing_key: &'a str,
    /// Properties and headers.
    pub properties: &'a Properties,
    /// The body.
    pub body: &'a [u8],
}

/// The properties of an AMQP 0-9-1 message that a format maps. Each text of a property, and each name of a
/// header, is at most 255 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// The MIME type of the body.
    pub content_type: Option<String>,
    /// How the body is encoded. What came with another than `identity` is undecodable, unless the format
    /// decodes it and gives a body.
    pub content_encoding: Option<String>,
    /// The message's identity.
    pub message_id: Option<String>,
    /// The conversation it belongs to.
    pub correlation_id: Option<String>,
    /// The kind of message: the property `type`.
    pub message_type: Option<String>,
    /// Seconds since the Unix epoch.
    pub timestamp: Option<u64>,
    /// The application that sent it.
    pub app_id: Option<String>,
    /// The queue that a reply goes to. Read only: what a format writes here is not sent.
    pub reply_to: Option<String>,
    /// 0 to 9, for queues that have priorities.
    pub priority: Option<u8>,
    /// The headers as text, sorted by name when they came, at most 1,000 of them. A number is in decimal
    /// digits, a timestamp in seconds, bytes are hexadecimal, a table or an array is JSON.
    pub headers: Vec<(String, String)>,
}

impl Properties {
    /// A header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// A received message in our words. What is left out is found otherwise, as the fields say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IncomingMessage {
    /// The message's identity. A text that is not a UUID becomes one, always the same. None: a new id.
    pub id: Option<String>,
    /// Whether it is an event or a command. None: as the exchange that brought it says, or an event.
    pub kind: Option<AddressKind>,
    /// The topic or the queue's name. None, or one that cannot be: the routing key, then the exchange.
    pub address: Option<String>,
    /// The ordering key.
    pub key: Option<String>,
    /// The conversation. None: the message's own id.
    pub correlation: Option<String>,
    /// The message that this one follows from.
    pub causation: Option<MessageId>,
    /// When it was sent. Asked only where the id does not tell. None: when it arrived.
    pub time: Option<SystemTime>,
    /// After this moment it is not handed to a handler any more.
    pub expires_at: Option<SystemTime>,
    /// The W3C trace context; one that is none is ignored.
    pub traceparent: Option<String>,
    /// The user's headers. Those of the bridge and of RabbitMQ are taken out afterwards.
    pub headers: Vec<(String, String)>,
    /// The body as JSON, where it is another than what came.
    pub body: Option<Vec<u8>>,
}
