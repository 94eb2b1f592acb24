//! Bare actix: `do_send`, which is unbounded; `send` for the round trip. A queue with competing consumers
//! does not exist there: the sender deals the messages out to four actors in turn.

use std::time::Instant;

use actix::{Actor, Addr, Context, Handler, Message};

use crate::case::{BURST, Case, Outcome, Small, Tally, Total, message};
use crate::threads::{Receivers, runtime};

impl Message for Small {
    type Result = ();
}

struct Receiver(Tally);

impl Actor for Receiver {
    type Context = Context<Self>;
}

impl Handler<Small> for Receiver {
    type Result = ();

    fn handle(&mut self, small: Small, _: &mut Context<Self>) {
        self.0.add(&small);
    }
}

struct Question(u64);

impl Message for Question {
    type Result = u64;
}

struct Answerer;

impl Actor for Answerer {
    type Context = Context<Self>;
}

impl Handler<Question> for Answerer {
    type Result = u64;

    fn handle(&mut self, question: Question, _: &mut Context<Self>) -> u64 {
        question.0 + 1
    }
}

fn receivers(case: Case, messages: u64, total: &Total) -> Vec<Addr<Receiver>> {
    let (count, each) = match case {
        Case::Queue4Cross => (4, messages / 4),
        _ => (case.receivers(), messages),
    };
    (0..count)
        .map(|_| Receiver(Tally::new(each, total)).start())
        .collect()
}

pub fn run(case: Case, messages: u64) -> Outcome {
    let total = Total::default();
    let deliveries = messages * case.receivers() as u64;
    let elapsed = match case {
        Case::OneSame | Case::SixteenSame => actix::System::new().block_on(async {
            let receivers = receivers(case, messages, &total);
            let start = Instant::now();
            for id in 0..messages {
                for receiver in &receivers {
                    receiver.do_send(message(id));
                }
                if id % BURST == BURST - 1 {
                    tokio::task::yield_now().await;
                }
            }
            total.wait_here(deliveries).await;
            start.elapsed()
        }),
        Case::RequestCross => {
            let (_thread, answerer) = Receivers::on_actix(|| async { Answerer.start() })?;
            runtime().block_on(async {
                let start = Instant::now();
                for id in 0..messages {
                    anyhow::ensure!(
                        answerer.send(Question(id)).await? == id + 1,
                        "a wrong answer"
                    );
                }
                Ok(start.elapsed())
            })?
        }
        Case::OneCross | Case::SixteenCross | Case::Queue4Cross => {
            let counts = total.clone();
            let (_thread, receivers) =
                Receivers::on_actix(move || async move { receivers(case, messages, &counts) })?;
            let start = Instant::now();
            if case == Case::Queue4Cross {
                for id in 0..messages {
                    receivers[(id % 4) as usize].do_send(message(id));
                }
            } else {
                for id in 0..messages {
                    for receiver in &receivers {
                        receiver.do_send(message(id));
                    }
                }
            }
            total.wait(deliveries);
            start.elapsed()
        }
    };
    Ok(Some(elapsed))
}
