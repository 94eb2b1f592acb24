use std::sync::atomic::Ordering;

use super::Shared;
use super::link::{Link, LinkState};
use crate::ports::{BridgeSnapshot, Condition, HealthSource, Problem};

impl HealthSource for Shared {
    fn examine(&self, found: &mut Vec<Condition>) {
        for link in [&self.publish_link, &self.consume_link] {
            found.extend(condition_of(link));
        }
        let errors = self.topology_errors.lock();
        for (subject, error) in &*errors {
            found.push(Condition {
                detail: Some(error.clone()),
                ..Condition::new(subject, Problem::Topology)
            });
        }
        if !self.consume_link.is_up() {
            return;
        }
        for attached in self.queues.lock().values() {
            let group = &attached.group;
            let amqp = &attached.amqp;
            let is_due = attached.consumer.is_some() && !amqp.is_detached() && !amqp.is_resting();
            if is_due && !amqp.is_consuming.load(Ordering::Relaxed) && !errors.contains_key(group) {
                found.push(Condition {
                    detail: amqp.trouble.lock().clone(),
                    ..Condition::new(group, Problem::NoConsumer)
                });
            }
        }
    }
}

fn condition_of(link: &Link) -> Option<Condition> {
    let (problem, why) = match &*link.watch().borrow() {
        LinkState::Down { why } => (Problem::Disconnected, why.to_string()),
        LinkState::Up {
            blocked: Some(why), ..
        } => (Problem::Blocked, why.to_string()),
        LinkState::Up { blocked: None, .. } => return None,
    };
    Some(Condition {
        detail: Some(why),
        ..Condition::new(&link.name, problem)
    })
}

impl Shared {
    pub(super) fn counts(&self) -> BridgeSnapshot {
        let published = &self.publisher.counts;
        let mut lost_settlements = self.lost_settlements.load(Ordering::Relaxed);
        let mut consumers = 0;
        for attached in self.queues.lock().values() {
            lost_settlements += attached.amqp.lost.load(Ordering::Relaxed);
            consumers += u64::from(attached.amqp.is_consuming.load(Ordering::Relaxed));
        }
        BridgeSnapshot {
            confirmed: published.confirmed.load(Ordering::Relaxed),
            returned: published.returned.load(Ordering::Relaxed),
            nacked: published.nacked.load(Ordering::Relaxed),
            unconfirmed: published.unconfirmed.load(Ordering::Relaxed),
            repeated: published.repeated.load(Ordering::Relaxed),
            publish_connects: self.publish_link.connects.load(Ordering::Relaxed),
            consume_connects: self.consume_link.connects.load(Ordering::Relaxed),
            consumers,
            lost_settlements,
            late_replies: self.late_replies.load(Ordering::Relaxed),
            hidden_headers: self.hidden_headers.load(Ordering::Relaxed),
        }
    }
}
