use super::plan::{Argument, ExchangeKind, Plan};
use super::{GroupNames, Names};
use crate::message::Pattern;

/// How RabbitMQ keeps a subscription's queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueType {
    /// Replicated and always on disk, with a limit of deliveries and dead letters that are not lost.
    #[default]
    Quorum,
    /// On one node. Without a limit of deliveries, so that a message which crashes the process comes back for
    /// ever; what the broker itself dead-letters is moved without a confirm.
    Classic,
}

/// A limit of deliveries for queues that must never lose a message to one. Not unlimited: 3.10 knows no way to
/// say so, and without a limit 4.x takes 20.
pub(in crate::bridge) const NEVER: i64 = 1_000_000_000;

/// What a subscription's queue is like, beside its names.
#[derive(Clone, Copy, Debug)]
pub(in crate::bridge) struct SubscriptionShape {
    pub(in crate::bridge) queue_type: QueueType,
    /// One consumer of all replicas at a time: for keyed order.
    pub(in crate::bridge) single_active_consumer: bool,
    /// After how many failed deliveries the broker gives a message up, on quorum queues. The last resort against
    /// one that crashes the process: our own count of attempts is another.
    pub(in crate::bridge) delivery_limit: u32,
}

impl Default for SubscriptionShape {
    fn default() -> Self {
        Self {
            queue_type: QueueType::Quorum,
            single_active_consumer: false,
            delivery_limit: 100,
        }
    }
}

/// What every service of an application needs: the exchanges, and where delayed messages end whose queue is gone.
pub(in crate::bridge) fn base_plan(names: &Names) -> Plan {
    let mut plan = Plan::default();
    plan.exchange(names.events(), ExchangeKind::Topic, Vec::new());
    plan.exchange(names.commands(), ExchangeKind::Direct, Vec::new());
    // A rung keeps a message that it cannot hand on, and stops after 32 of them: without an alternate, one
    // deleted queue would hold up the delays of all others.
    let undeliverable = names.undeliverable();
    plan.exchange(&undeliverable, ExchangeKind::Fanout, Vec::new());
    plan.queue(&undeliverable, kept(QueueType::Quorum));
    plan.bind_queue(&undeliverable, "", &undeliverable);
    plan.exchange(
        names.due(),
        ExchangeKind::Topic,
        vec![("alternate-exchange", undeliverable.into())],
    );
    plan
}

/// The queue of a group, the queue of its dead letters, and what the group is bound to. The base plan comes
/// first.
pub(in crate::bridge) fn subscription_plan(
    names: &Names,
    group: &GroupNames,
    patterns: &[Pattern],
    commands: &[&str],
    shape: SubscriptionShape,
) -> Plan {
    let mut plan = dead_letter_plan(group, shape.queue_type);
    plan.queue(group.queue(), queue_arguments(group, shape));
    for pattern in patterns {
        plan.bind_queue(names.events(), pattern.as_str(), group.queue());
    }
    for command in commands {
        plan.bind_queue(names.commands(), *command, group.queue());
    }
    plan
}

/// The queue of a group's dead letters alone.
pub(in crate::bridge) fn dead_letter_plan(group: &GroupNames, queue_type: QueueType) -> Plan {
    let mut plan = Plan::default();
    plan.queue(group.dead(), kept(queue_type));
    plan
}

fn queue_arguments(group: &GroupNames, shape: SubscriptionShape) -> Vec<(&'static str, Argument)> {
    let mut arguments = vec![
        ("x-queue-type", shape.queue_type.argument()),
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", group.dead().into()),
    ];
    if shape.queue_type == QueueType::Quorum {
        let limit = Argument::Number(shape.delivery_limit.into());
        arguments.push(("x-delivery-limit", limit));
        arguments.extend(at_least_once());
    }
    if shape.single_active_consumer {
        arguments.push(("x-single-active-consumer", Argument::Flag(true)));
    }
    arguments
}

/// A queue that nothing leaves by itself, however often it is looked through.
fn kept(queue_type: QueueType) -> Vec<(&'static str, Argument)> {
    let mut arguments = vec![("x-queue-type", queue_type.argument())];
    if queue_type == QueueType::Quorum {
        arguments.push(("x-delivery-limit", Argument::Number(NEVER)));
    }
    arguments
}

/// What a quorum queue gives up is confirmed where it goes before it is removed. Needs `reject-publish`.
pub(in crate::bridge) fn at_least_once() -> [(&'static str, Argument); 2] {
    [
        ("x-dead-letter-strategy", "at-least-once".into()),
        ("x-overflow", "reject-publish".into()),
    ]
}

impl QueueType {
    pub(in crate::bridge) fn argument(self) -> Argument {
        match self {
            Self::Quorum => "quorum".into(),
            Self::Classic => "classic".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new("postroom", "shop").unwrap()
    }

    fn patterns(patterns: &[&str]) -> Vec<Pattern> {
        patterns
            .iter()
            .map(|pattern| Pattern::new(pattern).unwrap())
            .collect()
    }

    #[test]
    fn the_base_is_printed_one_line_an_object() {
        assert_eq!(
            base_plan(&names()).to_string(),
            "\
exchange  postroom.events  topic
exchange  postroom.commands  direct
exchange  postroom.undeliverable  fanout
queue     postroom.undeliverable  x-queue-type=quorum x-delivery-limit=1000000000
binding   postroom.undeliverable --  -> postroom.undeliverable
exchange  postroom.due  topic alternate-exchange=postroom.undeliverable
"
        );
    }

    #[test]
    fn a_quorum_subscription_has_explicit_limits_and_safe_dead_letters() {
        let names = names();
        let plan = subscription_plan(
            &names,
            &names.group("mailer").unwrap(),
            &patterns(&["ordering.#", "ordering.#", "catalog.*"]),
            &["shop.mail"],
            SubscriptionShape {
                single_active_consumer: true,
                ..SubscriptionShape::default()
            },
        );
        assert_eq!(
            plan.to_string(),
            "\
queue     shop.mailer.dead  x-queue-type=quorum x-delivery-limit=1000000000
queue     shop.mailer  x-queue-type=quorum x-dead-letter-exchange=\"\" x-dead-letter-routing-key=shop.mailer.dead \
x-delivery-limit=100 x-dead-letter-strategy=at-least-once x-overflow=reject-publish x-single-active-consumer=true
binding   postroom.events -- ordering.# -> shop.mailer
binding   postroom.events -- catalog.* -> shop.mailer
binding   postroom.commands -- shop.mail -> shop.mailer
"
        );
    }

    #[test]
    fn a_classic_subscription_has_what_classic_queues_know() {
        let names = names();
        let plan = subscription_plan(
            &names,
            &names.group("mailer").unwrap(),
            &[],
            &[],
            SubscriptionShape {
                queue_type: QueueType::Classic,
                ..SubscriptionShape::default()
            },
        );
        assert_eq!(
            plan.to_string(),
            "\
queue     shop.mailer.dead  x-queue-type=classic
queue     shop.mailer  x-queue-type=classic x-dead-letter-exchange=\"\" x-dead-letter-routing-key=shop.mailer.dead
"
        );
    }

    #[test]
    fn plans_join_without_repeating() {
        let base = base_plan(&names());
        assert_eq!(base.clone().and(base.clone()), base);
    }
}
