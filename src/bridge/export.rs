use std::sync::Arc;
use std::time::Duration;

use super::publisher::{Confirmed, Publication};
use super::shared::Shared;
use super::wire;
use crate::message::{AddressKind, SharedParcel};
use crate::ports::{Bridged, Deadline, Refusal};

/// How a message of the bus becomes one of RabbitMQ's, and its fate an answer.
impl Shared {
    pub(super) async fn publish_parcel(
        &self,
        parcel: SharedParcel,
        patience: Duration,
    ) -> Result<Bridged, Refusal> {
        let envelope = parcel.envelope();
        let metadata = envelope.metadata.as_ref();
        let Some(port) = metadata.and_then(|metadata| metadata.reply.as_ref()) else {
            return self.publish_to(&parcel, None, patience).await;
        };
        let timers = &self.services.timers;
        let begun = timers.now();
        let mut deadline = Deadline::new(Arc::clone(timers), patience);
        let id = envelope.id().to_string();
        let Some(reply_to) = deadline.bound(self.replies.expect(&id, port)).await else {
            let trouble = self.consume_link.trouble();
            let why = trouble.map_or_else(
                || "replies can not be received".to_owned(),
                |why| why.to_string(),
            );
            return Err(Refusal::Unreachable { why });
        };
        let left = patience.saturating_sub(timers.now().saturating_duration_since(begun));
        let sent = self.publish_to(&parcel, Some(&reply_to), left).await;
        if sent.is_err() {
            self.replies.forget(&id);
        }
        sent
    }

    async fn publish_to(
        &self,
        parcel: &SharedParcel,
        reply_to: Option<&str>,
        patience: Duration,
    ) -> Result<Bridged, Refusal> {
        let envelope = parcel.envelope();
        let (properties, body) = wire::outgoing(
            &*self.format,
            parcel,
            &self.service,
            reply_to,
            self.frame_max(),
        )?;
        let limit = self.amqp.body_limit;
        if body.len() > limit {
            let size = body.len();
            return Err(Refusal::TooLarge { size, limit });
        }
        let names = &self.exchange_names;
        let exchange = match envelope.kind() {
            AddressKind::Topic => &names.events,
            AddressKind::Queue => &names.commands,
        };
        let publication = Publication {
            exchange: exchange.as_str().into(),
            routing_key: envelope.address().into(),
            properties,
            body,
        };
        let told = self.publisher.publish_told(publication, patience).await?;
        match (told.0, envelope.kind()) {
            (Confirmed::Routed, _) => Ok(Bridged::Routed),
            (Confirmed::Returned, AddressKind::Topic) => Ok(Bridged::Unrouted),
            _ => Err(self.publisher.refusal(told, || Refusal::NoQueue {
                queue: envelope.address().to_owned(),
            })),
        }
    }
}
