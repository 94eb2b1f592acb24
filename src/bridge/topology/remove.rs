//! Removing, which only ever happens when it is asked for: a rolling deploy must not unbind its successor.

use lapin::Connection;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;

use super::apply::{close, open, short};
use super::error::explain;
use super::plan::PlanObject;
use super::{GroupNames, Names, TopologyError};
use crate::message::Pattern;

/// Takes the bindings of a group's queue to these patterns and commands away. One that is not there is no error.
///
/// AMQP cannot list bindings, so the ones to go are named by whoever knows them.
pub(in crate::bridge) async fn prune(
    broker: &Connection,
    names: &Names,
    group: &GroupNames,
    patterns: &[Pattern],
    commands: &[&str],
) -> Result<(), TopologyError> {
    let channel = open(broker).await?;
    let events = patterns
        .iter()
        .map(|pattern| (names.events(), pattern.as_str()));
    let commands = commands.iter().map(|command| (names.commands(), *command));
    for (exchange, key) in events.chain(commands) {
        let unbound = channel.queue_unbind(
            short(group.queue()),
            short(&exchange),
            short(key),
            FieldTable::default(),
        );
        unbound.await.map_err(|error| {
            let queue = group.queue().to_owned();
            let key = key.to_owned();
            explain(
                &PlanObject::QueueBinding {
                    exchange,
                    key,
                    queue,
                },
                &error,
            )
        })?;
    }
    close(&channel).await
}

/// On what condition a queue is deleted, see [`AmqpAdmin`](crate::AmqpAdmin).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteOnly {
    /// When it has neither consumers nor messages that are ready.
    UnusedAndEmpty,
    /// Always, with what is in it.
    Always,
}

/// Deletes a queue, and says how many messages went with it; `None` when the condition was not met. A queue that
/// is not there had none.
///
/// The condition is looked at before the deletion and not with it, since quorum queues refuse the protocol's own
/// flags by closing the connection: what comes in between is lost. Stop the publishers first, or unbind it. What
/// others took by polling and hold unacknowledged may not be seen; what was just acknowledged may still count
/// as use.
pub(in crate::bridge) async fn delete(
    broker: &Connection,
    queue: &str,
    only: DeleteOnly,
) -> Result<Option<u32>, TopologyError> {
    let object = PlanObject::Queue {
        name: queue.to_owned(),
        arguments: Vec::new(),
    };
    let channel = open(broker).await?;
    if only == DeleteOnly::UnusedAndEmpty {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let found = channel.queue_declare(short(queue), options, FieldTable::default());
        match found.await.map_err(|error| explain(&object, &error)) {
            Ok(found) if found.message_count() > 0 || found.consumer_count() > 0 => {
                close(&channel).await?;
                return Ok(None);
            }
            Ok(_) => {}
            Err(TopologyError::Missing { .. }) => return Ok(Some(0)),
            Err(error) => return Err(error),
        }
    }
    let deleted = channel.queue_delete(short(queue), QueueDeleteOptions::default());
    let messages = deleted.await.map_err(|error| explain(&object, &error))?;
    close(&channel).await?;
    Ok(Some(messages))
}
