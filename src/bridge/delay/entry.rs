use std::time::Duration;

use super::Address;

/// What the lowest rung waits. Delays are rounded up to it.
pub(in crate::bridge) const UNIT: Duration = Duration::from_millis(100);
/// How many levels the ladder has: with all digits set it is 13.6 years long.
pub(in crate::bridge) const LEVELS: u8 = 32;
/// A digit and a dot for each level.
pub(super) const DIGITS_LENGTH: usize = LEVELS as usize * 2;

/// Where a delayed message enters the ladder, and by which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bridge) struct Entry {
    units: u32,
}

/// The way for a delay; `None` for no delay at all.
///
/// Never early: rounded up to the [`UNIT`], so that a message is late by less than one unit, and by what the
/// broker takes to hand it on, at most once a level. (A rung counts in milliseconds of the broker's clock, of which
/// it may take one off.) A delay that is longer than the ladder is as long as the ladder.
pub(in crate::bridge) fn entry(delay: Duration) -> Option<Entry> {
    let units = delay.as_nanos().div_ceil(UNIT.as_nanos());
    let units = u32::try_from(units).unwrap_or(u32::MAX);
    (units > 0).then_some(Entry { units })
}

impl Entry {
    /// The level whose exchange the message is published to: the highest that it waits in.
    pub(in crate::bridge) fn level(self) -> u8 {
        // At least one digit is set, and there are 32.
        (self.units.ilog2() & 31) as u8
    }

    /// The routing key to a queue; at most 255 bytes.
    pub(in crate::bridge) fn routing_key(self, address: &Address) -> String {
        let mut key = String::with_capacity(DIGITS_LENGTH + address.as_str().len());
        for level in (0..LEVELS).rev() {
            key.push_str(if (self.units >> level) & 1 == 1 {
                "1."
            } else {
                "0."
            });
        }
        key.push_str(address.as_str());
        key
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{destination_plan, ladder_plan};
    use super::*;
    use crate::bridge::topology::{Argument, Names, Plan, PlanObject, base_plan};
    use crate::message::Pattern;

    /// Walks a message through a plan as the broker does, with nothing but the plan to go by: how long it waited,
    /// and in which queues it ended.
    fn walk(plan: &Plan, exchange: &str, key: &str) -> (Duration, Vec<String>) {
        let (mut exchange, mut waited) = (exchange.to_owned(), Duration::ZERO);
        for _ in 0..=2 * LEVELS {
            let (mut queues, mut exchanges) = (Vec::new(), Vec::new());
            for object in plan.objects() {
                match object {
                    PlanObject::QueueBinding {
                        exchange: from,
                        key: pattern,
                        queue,
                    } if *from == exchange && Pattern::new(pattern).unwrap().matches(key) => {
                        queues.push(queue.clone());
                    }
                    PlanObject::ExchangeBinding {
                        from,
                        key: pattern,
                        to,
                    } if *from == exchange && Pattern::new(pattern).unwrap().matches(key) => {
                        exchanges.push(to.clone());
                    }
                    _ => {}
                }
            }
            assert!(
                queues.len() + exchanges.len() <= 1,
                "one way: {queues:?} {exchanges:?}"
            );
            if let Some(next) = exchanges.pop() {
                exchange = next;
            } else if let Some((ttl, next)) = queues.first().and_then(|queue| rung(plan, queue)) {
                waited += ttl;
                exchange = next;
            } else {
                return (waited, queues);
            }
        }
        panic!("a circle");
    }

    /// The time to live of a rung and where it dead-letters to; `None` for other queues.
    fn rung(plan: &Plan, queue: &str) -> Option<(Duration, String)> {
        let arguments = plan.objects().find_map(|object| match object {
            PlanObject::Queue { name, arguments } if name == queue => Some(arguments),
            _ => None,
        })?;
        let argument = |wanted: &str| {
            let found = arguments.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| value.clone())
        };
        match (
            argument("x-message-ttl")?,
            argument("x-dead-letter-exchange")?,
        ) {
            (Argument::Number(ttl), Argument::Text(exchange)) => {
                Some((Duration::from_millis(ttl.try_into().unwrap()), exchange))
            }
            other => panic!("{other:?}"),
        }
    }

    fn delays() -> impl proptest::strategy::Strategy<Value = Duration> {
        // Every magnitude alike, from nanoseconds to beyond the ladder.
        (0_u32..64, any::<u64>()).prop_map(|(bits, any)| Duration::from_nanos(any >> bits))
    }

    proptest! {
        #[test]
        fn holds_a_message_for_its_delay_and_leads_to_its_queue(delay in delays()) {
            let names = Names::new("app", "shop").unwrap();
            let (mine, other) = (names.group("mailer").unwrap(), names.group("mailer2").unwrap());
            let Some(entry) = entry(delay) else {
                prop_assert_eq!(delay, Duration::ZERO);
                return Ok(());
            };
            let plan = base_plan(&names)
                .and(ladder_plan(&names, entry.level()))
                .and(destination_plan(&names, &other))
                .and(destination_plan(&names, &mine));
            let key = entry.routing_key(mine.address());
            prop_assert!(key.len() <= 255);
            let (waited, queues) = walk(&plan, &names.delay(entry.level()), &key);
            prop_assert_eq!(queues, vec![mine.queue().to_owned()]);
            prop_assert_eq!(waited, UNIT * entry.units);
            let longest = UNIT * u32::MAX;
            prop_assert!(waited >= delay.min(longest), "never early: {waited:?}");
            prop_assert!(waited < delay + UNIT, "late by less than a unit: {waited:?}");
        }
    }

    #[test]
    fn the_edges() {
        assert_eq!(entry(Duration::ZERO), None);
        let level = |delay| entry(delay).map(Entry::level);
        assert_eq!(level(Duration::from_nanos(1)), Some(0));
        assert_eq!(level(UNIT), Some(0));
        assert_eq!(level(UNIT + Duration::from_nanos(1)), Some(1));
        assert_eq!(level(UNIT * (1 << 31)), Some(31));
        assert_eq!(entry(Duration::MAX), entry(UNIT * u32::MAX));
        assert_eq!(entry(Duration::MAX).unwrap().level(), LEVELS - 1);
    }

    #[test]
    fn the_longest_key_is_just_what_the_protocol_carries() {
        let address = Address::new(&"q".repeat(191)).unwrap();
        assert_eq!(
            entry(Duration::MAX).unwrap().routing_key(&address).len(),
            255
        );
        let key = entry(UNIT * 5)
            .unwrap()
            .routing_key(&Address::new("a.b").unwrap());
        assert_eq!(key, format!("{}1.0.1.a:b", "0.".repeat(29)));
    }
}
