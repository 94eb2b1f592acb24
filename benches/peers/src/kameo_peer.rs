//! kameo: `tell` to an actor with a bounded mailbox, `ask` for the round trip, and the publish and subscribe of
//! `kameo_actors` held by the publisher itself, its faster form. A queue with competing consumers does not
//! exist there: the sender deals the messages out to four actors in turn.

use std::time::Instant;

use kameo::actor::{ActorRef, Spawn};
use kameo::mailbox;
use kameo::message::{Context, Message};
use kameo_actors::DeliveryStrategy;
use kameo_actors::pubsub::PubSub;

use crate::case::{BURST, CAPACITY, Case, Outcome, Small, Tally, Total, message};
use crate::threads::{Receivers, runtime};

#[derive(kameo::Actor)]
struct Receiver(Tally);

impl Message<Small> for Receiver {
    type Reply = ();

    async fn handle(&mut self, small: Small, _: &mut Context<Self, ()>) {
        self.0.add(&small);
    }
}

#[derive(kameo::Actor)]
struct Answerer;

struct Question(u64);

impl Message<Question> for Answerer {
    type Reply = u64;

    async fn handle(&mut self, question: Question, _: &mut Context<Self, u64>) -> u64 {
        question.0 + 1
    }
}

async fn receivers(case: Case, messages: u64, total: &Total) -> Vec<ActorRef<Receiver>> {
    let (count, each) = match case {
        Case::Queue4Cross => (4, messages / 4),
        _ => (case.receivers(), messages),
    };
    let mut receivers = Vec::new();
    for _ in 0..count {
        let receiver = Receiver(Tally::new(each, total));
        let receiver = Receiver::spawn_with_mailbox(receiver, mailbox::bounded(CAPACITY));
        receiver.wait_for_startup().await;
        receivers.push(receiver);
    }
    receivers
}

enum Sender {
    Tell(Vec<ActorRef<Receiver>>),
    PubSub(PubSub<Small>),
}

impl Sender {
    fn new(receivers: Vec<ActorRef<Receiver>>, is_pubsub: bool) -> Self {
        if !is_pubsub {
            return Self::Tell(receivers);
        }
        let mut pubsub = PubSub::new(DeliveryStrategy::Guaranteed);
        for receiver in receivers {
            pubsub.subscribe(receiver);
        }
        Self::PubSub(pubsub)
    }

    async fn publish(&mut self, case: Case, messages: u64) -> anyhow::Result<()> {
        for id in 0..messages {
            match self {
                Self::Tell(receivers) if case == Case::Queue4Cross => {
                    receivers[(id % 4) as usize].tell(message(id)).await?;
                }
                Self::Tell(receivers) => {
                    for receiver in receivers {
                        receiver.tell(message(id)).await?;
                    }
                }
                Self::PubSub(pubsub) => pubsub.publish(message(id)).await,
            }
            if case.is_same_thread() && id % BURST == BURST - 1 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}

pub fn tell(case: Case, messages: u64) -> Outcome {
    run(case, messages, false)
}

pub fn pubsub(case: Case, messages: u64) -> Outcome {
    match case {
        Case::Queue4Cross | Case::RequestCross => Ok(None),
        _ => run(case, messages, true),
    }
}

fn run(case: Case, messages: u64, is_pubsub: bool) -> Outcome {
    let total = Total::default();
    let counts = total.clone();
    let deliveries = messages * case.receivers() as u64;
    let elapsed = match case {
        Case::OneSame | Case::SixteenSame => runtime().block_on(async {
            let receivers = receivers(case, messages, &total).await;
            let mut sender = Sender::new(receivers, is_pubsub);
            let start = Instant::now();
            sender.publish(case, messages).await?;
            total.wait_here(deliveries).await;
            anyhow::Ok(start.elapsed())
        })?,
        Case::OneCross | Case::SixteenCross | Case::Queue4Cross => {
            let (_thread, receivers) =
                Receivers::on_tokio(
                    move || async move { receivers(case, messages, &counts).await },
                )?;
            let mut sender = Sender::new(receivers, is_pubsub);
            runtime().block_on(async {
                let start = Instant::now();
                sender.publish(case, messages).await?;
                total.wait(deliveries);
                anyhow::Ok(start.elapsed())
            })?
        }
        Case::RequestCross => {
            let (_thread, answerer) = Receivers::on_tokio(|| async {
                Answerer::spawn_with_mailbox(Answerer, mailbox::bounded(CAPACITY))
            })?;
            runtime().block_on(async {
                let start = Instant::now();
                for id in 0..messages {
                    anyhow::ensure!(
                        answerer.ask(Question(id)).await? == id + 1,
                        "a wrong answer"
                    );
                }
                Ok(start.elapsed())
            })?
        }
    };
    Ok(Some(elapsed))
}
