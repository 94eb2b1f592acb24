use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection};

use super::TopologyError;
use super::error::{connection, explain};
use super::plan::{Argument, ExchangeKind, Plan, PlanObject};

/// What the bridge does about exchanges, queues and bindings at its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopologyMode {
    /// Declares what is missing. What is there otherwise than wanted is an error and stays as it is.
    #[default]
    Declare,
    /// Looks whether the exchanges and queues are there, and declares nothing. AMQP shows neither their arguments
    /// nor the bindings. The rungs of a delay are looked for when a retry first waits for so long
    /// ([`AmqpAdmin::delay_plan`](crate::AmqpAdmin::delay_plan)).
    Verify,
    /// Neither: somebody else cares for them, and for the rungs of the delays.
    Assume,
}

/// Declares or verifies a plan, on a channel of its own: an error closes no channel but that one.
///
/// Stops at the first error; what comes before it in the plan is declared. Declaring again is harmless.
/// Repeated on one channel it would not be: lapin remembers every binding made on a channel as long as that lives.
///
/// Waits as long as the broker does not answer: a blocked or frozen one is the matter of the caller's deadline.
///
/// # Cancel safety
/// Dropped, it leaves the plan declared up to some object, and closes its channel.
pub(in crate::bridge) async fn apply(
    broker: &Connection,
    plan: &Plan,
    mode: TopologyMode,
) -> Result<(), TopologyError> {
    if mode == TopologyMode::Assume {
        return Ok(());
    }
    let channel = open(broker).await?;
    for object in plan.objects() {
        let done = match mode {
            TopologyMode::Verify => verify(&channel, object).await,
            _ => declare(&channel, object).await,
        };
        done.map_err(|error| explain(object, &error))?;
    }
    close(&channel).await
}

pub(super) async fn open(broker: &Connection) -> Result<Channel, TopologyError> {
    let opened = broker.create_channel().await;
    opened.map_err(|error| connection(&error))
}

pub(super) async fn close(channel: &Channel) -> Result<(), TopologyError> {
    let closed = channel.close(200, ShortString::from("done")).await;
    closed.map_err(|error| connection(&error))
}

async fn declare(channel: &Channel, object: &PlanObject) -> lapin::Result<()> {
    match object {
        PlanObject::Exchange {
            name,
            kind,
            arguments,
        } => {
            let options = ExchangeDeclareOptions {
                durable: true,
                ..ExchangeDeclareOptions::default()
            };
            declare_exchange(channel, name, *kind, options, table(arguments)).await
        }
        PlanObject::Queue { name, arguments } => {
            let options = QueueDeclareOptions {
                durable: true,
                ..QueueDeclareOptions::default()
            };
            let declared = channel.queue_declare(short(name), options, table(arguments));
            declared.await.map(drop)
        }
        PlanObject::QueueBinding {
            exchange,
            key,
            queue,
        } => {
            let options = QueueBindOptions::default();
            let nothing = FieldTable::default();
            channel
                .queue_bind(short(queue), short(exchange), short(key), options, nothing)
                .await
        }
        PlanObject::ExchangeBinding { from, key, to } => {
            let options = ExchangeBindOptions::default();
            let nothing = FieldTable::default();
            channel
                .exchange_bind(short(to), short(from), short(key), options, nothing)
                .await
        }
    }
}

async fn verify(channel: &Channel, object: &PlanObject) -> lapin::Result<()> {
    match object {
        PlanObject::Exchange { name, kind, .. } => {
            let options = ExchangeDeclareOptions {
                passive: true,
                ..ExchangeDeclareOptions::default()
            };
            declare_exchange(channel, name, *kind, options, FieldTable::default()).await
        }
        PlanObject::Queue { name, .. } => {
            let options = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let found = channel.queue_declare(short(name), options, FieldTable::default());
            found.await.map(drop)
        }
        PlanObject::QueueBinding { .. } | PlanObject::ExchangeBinding { .. } => Ok(()),
    }
}

async fn declare_exchange(
    channel: &Channel,
    name: &str,
    kind: ExchangeKind,
    options: ExchangeDeclareOptions,
    arguments: FieldTable,
) -> lapin::Result<()> {
    let kind = match kind {
        ExchangeKind::Topic => lapin::ExchangeKind::Topic,
        ExchangeKind::Direct => lapin::ExchangeKind::Direct,
        ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
    };
    channel
        .exchange_declare(short(name), kind, options, arguments)
        .await
}

fn table(arguments: &[(&'static str, Argument)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, argument) in arguments {
        let value = match argument {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
            Argument::Flag(flag) => AMQPValue::Boolean(*flag),
        };
        table.insert(short(name), value);
    }
    table
}

/// A name in the protocol's form. Names, patterns and addresses are validated when they are made, so that none is
/// over 255 bytes: a longer one would panic.
pub(super) fn short(name: &str) -> ShortString {
    ShortString::from(name)
}
