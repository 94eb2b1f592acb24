//! One run of one contestant: its queue is made ready before, and checked after.

use crate::broker::Broker;
use crate::case::{Case, Outcome, QUESTION, RELAYED, TOPIC, Work};

/// The service and the group that own the queue under test: it is named as the bridge names it.
pub const SERVICE: &str = "bench";
pub const GROUP: &str = "orders";
/// The queue behind a relay.
const BEHIND: &str = "bench.relayed";

/// What a contestant is given.
#[derive(Clone, Debug)]
pub struct Run {
    pub case: Case,
    pub url: String,
    pub queue: String,
    pub messages: u64,
}

pub async fn one<F: Future<Output = Outcome>>(
    broker: &Broker,
    case: Case,
    messages: u64,
    contestant: impl FnOnce(Run) -> F,
) -> Outcome {
    let queue = format!("{SERVICE}.{GROUP}");
    let run = Run {
        case,
        url: broker.url.clone(),
        queue: queue.clone(),
        messages,
    };
    let key = match case.work() {
        Work::Request => QUESTION,
        _ => TOPIC,
    };
    broker.make_queue(&queue, case.queue(), key).await?;
    if matches!(case.work(), Work::Consume | Work::Relay { .. }) {
        broker.fill(0..messages).await?;
    }
    if matches!(case.work(), Work::Relay { .. }) {
        broker.make_queue(BEHIND, case.queue(), RELAYED).await?;
    }
    let measured = contestant(run).await?;
    if measured.is_some() {
        match case.work() {
            Work::Publish => broker.drain(&queue, messages).await?,
            Work::Consume | Work::Request => broker.check_empty(&queue).await?,
            Work::Relay { .. } => {
                broker.check_empty(&queue).await?;
                broker.drain(BEHIND, messages).await?;
            }
        }
    }
    broker.delete_queue(&queue).await?;
    broker.delete_queue(&format!("{queue}.dead")).await?;
    broker.delete_queue(BEHIND).await?;
    Ok(measured)
}
