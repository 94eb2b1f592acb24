//! ractor: `cast` to an actor, which is unbounded; a call for the round trip. A queue with competing consumers:
//! the sender deals the messages out to four actors in turn, which costs less than its factory.

use std::time::Instant;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use crate::case::{BURST, Case, Outcome, Small, Tally, Total, message};
use crate::threads::{Receivers, runtime};

struct Receiver;


impl Actor for Receiver {
    type Msg = Small;
    type State = Tally;
    type Arguments = Tally;

    async fn pre_start(
        &self,
        _: ActorRef<Small>,
        tally: Tally,
    ) -> Result<Tally, ActorProcessingErr> {
        Ok(tally)
    }

    async fn handle(
        &self,
        _: ActorRef<Small>,
        small: Small,
        tally: &mut Tally,
    ) -> Result<(), ActorProcessingErr> {
        tally.add(&small);
        Ok(())
    }
}

struct Answerer;

struct Question(u64, RpcReplyPort<u64>);


impl Actor for Answerer {
    type Msg = Question;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Question>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Question>,
        Question(question, reply): Question,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        reply.send(question + 1)?;
        Ok(())
    }
}

async fn receivers(
    case: Case,
    messages: u64,
    total: &Total,
) -> anyhow::Result<Vec<ActorRef<Small>>> {
    let (count, each) = match case {
        Case::Queue4Cross => (4, messages / 4),
        _ => (case.receivers(), messages),
    };
    let mut receivers = Vec::new();
    for _ in 0..count {
        let (receiver, _) = Actor::spawn(None, Receiver, Tally::new(each, total)).await?;
        receivers.push(receiver);
    }
    Ok(receivers)
}

pub fn run(case: Case, messages: u64) -> Outcome {
    let total = Total::default();
    let counts = total.clone();
    let deliveries = messages * case.receivers() as u64;
    let elapsed = match case {
        Case::OneSame | Case::SixteenSame => runtime().block_on(async {
            let receivers = receivers(case, messages, &total).await?;
            let start = Instant::now();
            for id in 0..messages {
                for receiver in &receivers {
                    receiver.cast(message(id))?;
                }
                if id % BURST == BURST - 1 {
                    tokio::task::yield_now().await;
                }
            }
            total.wait_here(deliveries).await;
            anyhow::Ok(start.elapsed())
        })?,
        Case::OneCross | Case::SixteenCross | Case::Queue4Cross => {
            let (_thread, receivers) =
                Receivers::on_tokio(
                    move || async move { receivers(case, messages, &counts).await },
                )?;
            let receivers = receivers?;
            let start = Instant::now();
            for id in 0..messages {
                if case == Case::Queue4Cross {
                    receivers[(id % 4) as usize].cast(message(id))?;
                } else {
                    for receiver in &receivers {
                        receiver.cast(message(id))?;
                    }
                }
            }
            total.wait(deliveries);
            start.elapsed()
        }
        Case::RequestCross => {
            let (_thread, answerer) = Receivers::on_tokio(|| async {
                Actor::spawn(None, Answerer, ())
                    .await
                    .map(|(answerer, _)| answerer)
            })?;
            let answerer = answerer?;
            runtime().block_on(async {
                let start = Instant::now();
                for id in 0..messages {
                    let answer = ractor::call!(answerer, |reply| Question(id, reply))?;
                    anyhow::ensure!(answer == id + 1, "a wrong answer");
                }
                Ok(start.elapsed())
            })?
        }
    };
    Ok(Some(elapsed))
}
