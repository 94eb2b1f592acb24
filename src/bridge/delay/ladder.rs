use super::entry::{LEVELS, UNIT};
use crate::bridge::topology::{
    Argument, ExchangeKind, GroupNames, NEVER, Names, Plan, QueueType, at_least_once,
};

/// The levels from 0 to this one. The base plan comes first.
///
/// Every level is declared before a higher one that leads to it. Declare it when a delay first needs the level, and
/// once more for each connection.
pub(in crate::bridge) fn ladder_plan(names: &Names, up_to: u8) -> Plan {
    let mut plan = Plan::default();
    for level in 0..=up_to.min(LEVELS - 1) {
        let name = names.delay(level);
        let below = match level {
            0 => names.due(),
            _ => names.delay(level - 1),
        };
        let wait = i64::try_from((UNIT * (1 << level)).as_millis()).unwrap_or(i64::MAX);
        let mut arguments = vec![
            ("x-queue-type", QueueType::Quorum.argument()),
            ("x-message-ttl", Argument::Number(wait)),
            // The routing key stays: the levels below read it.
            ("x-dead-letter-exchange", below.as_str().into()),
            // Whoever looks into a rung must not hasten what is in it.
            ("x-delivery-limit", Argument::Number(NEVER)),
        ];
        arguments.extend(at_least_once());
        plan.exchange(&name, ExchangeKind::Topic, Vec::new());
        plan.queue(&name, arguments);
        let higher = "*.".repeat((LEVELS - 1 - level).into());
        plan.bind_queue(&name, format!("{higher}1.#"), &name);
        plan.bind_exchange(&name, format!("{higher}0.#"), below);
    }
    plan
}

/// That what is due comes to a group's queue. Declared with the queue: one that was deleted and made anew has lost it.
pub(in crate::bridge) fn destination_plan(names: &Names, group: &GroupNames) -> Plan {
    let mut plan = Plan::default();
    plan.bind_queue(names.due(), format!("#.{}", group.address()), group.queue());
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_an_exchange_a_rung_and_two_ways() {
        let names = Names::new("app", "shop").unwrap();
        let rung = "x-delivery-limit=1000000000 x-dead-letter-strategy=at-least-once x-overflow=reject-publish";
        let (thirty, thirty_one) = ("*.".repeat(30), "*.".repeat(31));
        assert_eq!(
            ladder_plan(&names, 1).to_string(),
            format!(
                "\
exchange  app.delay.0  topic
queue     app.delay.0  x-queue-type=quorum x-message-ttl=100 x-dead-letter-exchange=app.due {rung}
binding   app.delay.0 -- {thirty_one}1.# -> app.delay.0
binding   app.delay.0 -- {thirty_one}0.# -> exchange app.due
exchange  app.delay.1  topic
queue     app.delay.1  x-queue-type=quorum x-message-ttl=200 x-dead-letter-exchange=app.delay.0 {rung}
binding   app.delay.1 -- {thirty}1.# -> app.delay.1
binding   app.delay.1 -- {thirty}0.# -> exchange app.delay.0
"
            )
        );
        assert_eq!(
            destination_plan(&names, &names.group("mailer").unwrap()).to_string(),
            "binding   app.due -- #.shop:mailer -> shop.mailer\n"
        );
    }

    #[test]
    fn the_whole_ladder_has_thirty_two_levels() {
        let names = Names::new("app", "shop").unwrap();
        let plan = ladder_plan(&names, u8::MAX);
        assert_eq!(plan, ladder_plan(&names, 31));
        assert_eq!(plan.objects().count(), 4 * 32);
        assert!(plan.to_string().contains("x-message-ttl=214748364800 "));
    }
}
