//! actix-broker: publish and subscribe by type, through its system-wide broker actor; unbounded.

use std::time::Instant;

use actix::{Actor, Context, Handler, Message, System};
use actix_broker::{Broker, BrokerSubscribe, SystemBroker};

use crate::case::{BURST, Case, Outcome, Small, Tally, Total, message};
use crate::threads::Receivers;

#[derive(Clone)]
struct Issued(Small);

impl Message for Issued {
    type Result = ();
}

struct Receiver(Tally);

impl Actor for Receiver {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.subscribe_sync::<SystemBroker, Issued>(ctx);
    }
}

impl Handler<Issued> for Receiver {
    type Result = ();

    fn handle(&mut self, issued: Issued, _: &mut Context<Self>) {
        self.0.add(&issued.0);
    }
}

async fn start(case: Case, messages: u64, total: &Total) {
    for _ in 0..case.receivers() {
        let receiver = Receiver(Tally::new(messages, total)).start();
        // Started, and so subscribed.
        while !receiver.connected() {
            tokio::task::yield_now().await;
        }
    }
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

pub fn run(case: Case, messages: u64) -> Outcome {
    let total = Total::default();
    let deliveries = messages * case.receivers() as u64;
    match case {
        Case::Queue4Cross | Case::RequestCross => Ok(None),
        Case::OneSame | Case::SixteenSame => Ok(Some(System::new().block_on(async {
            start(case, messages, &total).await;
            let begun = Instant::now();
            for id in 0..messages {
                Broker::<SystemBroker>::issue_async(Issued(message(id)));
                if id % BURST == BURST - 1 {
                    tokio::task::yield_now().await;
                }
            }
            total.wait_here(deliveries).await;
            begun.elapsed()
        }))),
        Case::OneCross | Case::SixteenCross => {
            let counts = total.clone();
            let (_thread, system) = Receivers::on_actix(move || async move {
                start(case, messages, &counts).await;
                System::current()
            })?;
            // The publisher's thread belongs to the same system, where the broker is.
            let publisher = std::thread::spawn(move || {
                System::set_current(system);
                let begun = Instant::now();
                for id in 0..messages {
                    Broker::<SystemBroker>::issue_async(Issued(message(id)));
                }
                total.wait(deliveries);
                begun.elapsed()
            });
            match publisher.join() {
                Ok(elapsed) => Ok(Some(elapsed)),
                Err(_) => anyhow::bail!("the publisher panicked"),
            }
        }
    }
}
