use lapin::BasicProperties;
use lapin::types::FieldTable;

use super::headers::Headers;
use super::incoming::Arrived;
use super::outgoing::basic;
use super::plain::JSON;
use super::size::{Way, check, insert, string};
use super::{Properties, names};
use crate::message::{MessageId, ReplyRefusal};
use crate::ports::Refusal;

/// The body of a refusal.
pub(in crate::bridge) const NO_REPLY: &[u8] = b"null";

/// The properties of a reply, whose body is the reply as JSON. Not persistent: neither is the queue it goes to.
pub(in crate::bridge) fn reply(
    correlation: &str,
    service: &str,
    frame_max: usize,
) -> Result<BasicProperties, Refusal> {
    let id = MessageId::new();
    let neutral = Properties {
        content_type: Some(JSON.to_owned()),
        message_id: Some(id.to_string()),
        correlation_id: Some(correlation.to_owned()),
        timestamp: Some(id.millis() / 1000),
        app_id: Some(service.to_owned()),
        ..Properties::default()
    };
    let properties = basic(neutral)?.with_delivery_mode(1);
    check(&properties, frame_max, Way::Queue)?;
    Ok(properties)
}

/// The properties that tell a requester that no reply will come; the body is [`NO_REPLY`].
pub(in crate::bridge) fn refusal(
    correlation: &str,
    why: ReplyRefusal,
    service: &str,
    frame_max: usize,
) -> Result<BasicProperties, Refusal> {
    let mut headers = FieldTable::default();
    insert(&mut headers, names::REFUSAL, string(text_of(why)));
    let properties = reply(correlation, service, 0)?.with_headers(headers);
    check(&properties, frame_max, Way::Queue)?;
    Ok(properties)
}

/// A message of the reply queue: what it answers, and the reply's body or why there is none. None: it answers
/// nothing.
pub(in crate::bridge) fn read_reply(
    arrived: Arrived,
) -> Option<(String, Result<Vec<u8>, ReplyRefusal>)> {
    let correlation = arrived.properties.correlation_id().as_ref()?.to_string();
    let headers = Headers(arrived.properties.headers().as_ref());
    let answer = match headers.get(names::REFUSAL) {
        None => Ok(arrived.body),
        // One that a later version made up still says that no reply will come.
        Some(_) => Err(headers
            .string(names::REFUSAL)
            .and_then(|text| ALL.into_iter().find(|why| text_of(*why) == text))
            .unwrap_or(ReplyRefusal::Abandoned)),
    };
    Some((correlation, answer))
}

const ALL: [ReplyRefusal; 5] = [
    ReplyRefusal::DeadLettered,
    ReplyRefusal::Discarded,
    ReplyRefusal::Expired,
    ReplyRefusal::Abandoned,
    ReplyRefusal::Undecodable,
];

fn text_of(why: ReplyRefusal) -> &'static str {
    match why {
        ReplyRefusal::DeadLettered => "dead-lettered",
        ReplyRefusal::Discarded => "discarded",
        ReplyRefusal::Expired => "expired",
        ReplyRefusal::Abandoned => "abandoned",
        ReplyRefusal::Undecodable => "undecodable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrived(properties: BasicProperties, body: &[u8]) -> Arrived {
        Arrived {
            properties,
            body: body.to_vec(),
            ..Arrived::default()
        }
    }

    #[test]
    fn a_reply_comes_back_under_its_correlation() {
        let sent = reply("request 7", "shop", 0).unwrap();
        let read = read_reply(arrived(sent, b"true"));
        assert_eq!(read, Some(("request 7".into(), Ok(b"true".to_vec()))));
        assert_eq!(read_reply(Arrived::default()), None);
        assert!(reply(&"x".repeat(256), "shop", 0).is_err());
    }

    #[test]
    fn every_refusal_comes_back_as_it_was() {
        for why in ALL {
            let sent = refusal("7", why, "shop", 131_072).unwrap();
            let read = read_reply(arrived(sent, NO_REPLY));
            assert_eq!(read, Some(("7".into(), Err(why))));
        }
        let mut headers = FieldTable::default();
        insert(&mut headers, names::REFUSAL, string("of a later version"));
        let sent = reply("7", "shop", 0).unwrap().with_headers(headers);
        let read = read_reply(arrived(sent, NO_REPLY));
        assert_eq!(read, Some(("7".into(), Err(ReplyRefusal::Abandoned))));
    }
}
