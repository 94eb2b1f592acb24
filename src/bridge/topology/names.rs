use crate::bridge::delay::Address;
use crate::message::{NameError, validate_length, validate_part};

/// The longest name on the broker, in bytes: an AMQP 0-9-1 short string.
const LONGEST: usize = 255;
/// What stands behind the prefix in the longest of our names, `{prefix}.undeliverable`.
const LONGEST_SUFFIX: usize = ".undeliverable".len();
const DEAD: &str = ".dead";

/// The names on the broker of one service of one application. All of them fit into 255 bytes.
///
/// Applications that share a virtual host have different prefixes; the services of one application share a
/// prefix. A dot in a service's name is allowed: `a` with a group `b.c` and `a.b` with a group `c` mean the same
/// queue, and it is up to the user not to name them so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::bridge) struct Names {
    prefix: String,
    service: String,
}

/// The names of one subscription's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::bridge) struct GroupNames {
    queue: String,
    dead: String,
    address: Address,
}

impl Names {
    /// The names that are made of a prefix and a service.
    ///
    /// # Errors
    /// When one is empty, too long for the names made of it, has control characters, or when the prefix is of
    /// the broker's own names (`amq.`).
    pub(in crate::bridge) fn new(prefix: &str, service: &str) -> Result<Self, NameError> {
        validate_part("prefix", prefix)?;
        validate_part("service", service)?;
        validate_length("prefix", prefix, LONGEST - LONGEST_SUFFIX)?;
        if prefix == "amq" || prefix.starts_with("amq.") {
            return Err(NameError::Reserved {
                what: "prefix",
                name: prefix.to_owned(),
                purpose: "the exchanges of RabbitMQ itself",
            });
        }
        Ok(Self {
            prefix: prefix.to_owned(),
            service: service.to_owned(),
        })
    }

    /// The exchange that events are published to.
    pub(in crate::bridge) fn events(&self) -> String {
        self.of_prefix("events")
    }

    /// The exchange that commands are published to.
    pub(in crate::bridge) fn commands(&self) -> String {
        self.of_prefix("commands")
    }

    /// The exchange that a delayed message comes to when its time has come. Only the delay ladder and a retry
    /// without delay publish to it.
    pub(in crate::bridge) fn due(&self) -> String {
        self.of_prefix("due")
    }

    /// The exchange, and behind it the queue, of delayed messages whose queue is gone.
    pub(in crate::bridge) fn undeliverable(&self) -> String {
        self.of_prefix("undeliverable")
    }

    /// The exchange, and the queue, of one level of the delay ladder.
    pub(in crate::bridge) fn delay(&self, level: u8) -> String {
        self.of_prefix(&format!("delay.{level}"))
    }

    /// How the names of the delay ladder's exchanges begin.
    pub(in crate::bridge) fn ladder(&self) -> String {
        self.of_prefix("delay.")
    }

    /// The names of a group's queue.
    ///
    /// # Errors
    /// When the group is empty, has control characters, is too long for the names and addresses made of it, or
    /// would have a name that is another object's.
    pub(in crate::bridge) fn group(&self, group: &str) -> Result<GroupNames, NameError> {
        validate_part("group", group)?;
        let queue = format!("{}.{group}", self.service);
        validate_length("queue", &queue, LONGEST - DEAD.len())?;
        let reserved = |purpose| {
            Err(NameError::Reserved {
                what: "queue",
                name: queue.clone(),
                purpose,
            })
        };
        if queue.starts_with("amq.") {
            return reserved("the queues of RabbitMQ itself");
        }
        if group.ends_with(DEAD) {
            return reserved("dead letters");
        }
        if queue.starts_with(&self.of_prefix("delay.")) {
            return reserved("the delay ladder");
        }
        if queue == self.undeliverable() {
            return reserved("delayed messages whose queue is gone");
        }
        Ok(GroupNames {
            address: Address::new(&queue)?,
            dead: format!("{queue}{DEAD}"),
            queue,
        })
    }

    fn of_prefix(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }
}

impl GroupNames {
    /// The queue, shared by all replicas of the service.
    pub(in crate::bridge) fn queue(&self) -> &str {
        &self.queue
    }

    /// The queue of its dead letters.
    pub(in crate::bridge) fn dead(&self) -> &str {
        &self.dead
    }

    /// Where delayed messages for the queue are addressed to.
    pub(in crate::bridge) fn address(&self) -> &Address {
        &self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_as_documented() {
        let names = Names::new("postroom", "shop").unwrap();
        let group = names.group("mailer").unwrap();
        assert_eq!(names.events(), "postroom.events");
        assert_eq!(names.commands(), "postroom.commands");
        assert_eq!(names.due(), "postroom.due");
        assert_eq!(names.delay(31), "postroom.delay.31");
        assert_eq!(group.queue(), "shop.mailer");
        assert_eq!(group.dead(), "shop.mailer.dead");
    }

    #[test]
    fn every_name_fits_or_is_refused() {
        let longest = "p".repeat(241);
        let names = Names::new(&longest, "s").unwrap();
        assert_eq!(names.undeliverable().len(), 255);
        assert!(names.delay(31).len() <= 255 && names.commands().len() <= 255);
        let refused = Names::new(&"p".repeat(242), "s");
        assert!(
            matches!(refused, Err(NameError::TooLong { most: 241, .. })),
            "{refused:?}"
        );
        assert!(matches!(
            Names::new("", "s"),
            Err(NameError::Empty { what: "prefix" })
        ));
        assert!(matches!(
            Names::new("p", "a\0"),
            Err(NameError::Control { .. })
        ));
        // The address must fit beside the bits of the delay: 191 bytes for `s.` and the group.
        assert_eq!(
            names.group(&"g".repeat(189)).unwrap().dead().len(),
            191 + ".dead".len()
        );
        for length in [190, 248, 249, 255, 256, 70_000] {
            let refused = names.group(&"g".repeat(length));
            assert!(
                matches!(refused, Err(NameError::TooLong { .. })),
                "{length}: {refused:?}"
            );
        }
    }

    #[test]
    fn a_group_cannot_take_the_name_of_another_object() {
        let names = Names::new("postroom", "postroom").unwrap();
        for group in ["delay.3", "mailer.dead", "undeliverable"] {
            assert!(
                matches!(names.group(group), Err(NameError::Reserved { .. })),
                "{group}"
            );
        }
        for prefix in ["amq", "amq.x"] {
            assert!(
                matches!(Names::new(prefix, "s"), Err(NameError::Reserved { .. })),
                "{prefix}"
            );
        }
        assert!(
            names.group("dead").is_ok(),
            "no queue is named as the service alone"
        );
        assert!(names.group("deadline").is_ok() && names.group("delayed").is_ok());
        assert!(Names::new("p", "shop").unwrap().group("delay.3").is_ok());
    }
}
