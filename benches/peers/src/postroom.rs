//! Ours, as a service uses it: bounded mailboxes, panics caught, every delivery acknowledged and counted.

use std::time::{Duration, Instant};

use postroom::{
    Bus, Command, CommandHandler, Context, Event, Failure, Outcome as Handled, Subscriber, Threads,
};
use serde::{Deserialize, Serialize};

use crate::case::{BURST, CAPACITY, Case, Outcome, Small, Tally, Total, message};
use crate::threads::runtime;

impl Event for Small {
    const TOPIC: &'static str = "bench.small";
}

struct Receiver(Tally);

impl Subscriber<Small> for Receiver {
    async fn handle(&mut self, small: &Small, _: &mut Context<'_>) -> Handled {
        self.0.add(small);
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Job(Small);

impl Command for Job {
    const QUEUE: &'static str = "bench.job";
    type Reply = ();
}

struct Worker(Total);

impl CommandHandler<Job> for Worker {
    async fn handle(&mut self, job: &Job, _: &mut Context<'_>) -> Result<(), Failure> {
        self.0.add(1, job.0.amount);
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Question(u64);

impl Command for Question {
    const QUEUE: &'static str = "bench.question";
    type Reply = u64;
}

struct Answerer;

impl CommandHandler<Question> for Answerer {
    async fn handle(&mut self, question: &Question, _: &mut Context<'_>) -> Result<u64, Failure> {
        Ok(question.0 + 1)
    }
}

pub fn run(case: Case, messages: u64) -> Outcome {
    if case.is_same_thread() {
        actix::System::new().block_on(measure(case, messages, Threads::Current))
    } else {
        runtime().block_on(measure(case, messages, Threads::Own(1)))
    }
}

async fn measure(case: Case, messages: u64, threads: Threads) -> Outcome {
    let bus = Bus::builder("bench")
        .threads(threads)
        .mailbox(CAPACITY)
        .start()
        .await?;
    let total = Total::default();
    let elapsed = match case {
        Case::Queue4Cross => {
            let counts = total.clone();
            bus.subscriber("workers", move || Worker(counts.clone()))
                .command::<Job>()
                .workers(4)
                .start()
                .await?;
            let start = Instant::now();
            for id in 0..messages {
                bus.send(Job(message(id))).await?;
            }
            total.wait(messages);
            start.elapsed()
        }
        Case::RequestCross => {
            bus.subscriber("answerer", || Answerer)
                .command::<Question>()
                .start()
                .await?;
            let start = Instant::now();
            for id in 0..messages {
                anyhow::ensure!(bus.request(Question(id)).await? == id + 1, "a wrong answer");
            }
            start.elapsed()
        }
        _ => fan_out(&bus, case, messages, &total).await?,
    };
    bus.shutdown(Duration::from_secs(5)).await;
    Ok(Some(elapsed))
}

async fn fan_out(bus: &Bus, case: Case, messages: u64, total: &Total) -> anyhow::Result<Duration> {
    for receiver in 0..case.receivers() {
        let total = total.clone();
        let make = move || Receiver(Tally::new(messages, &total));
        bus.subscriber(format!("receiver-{receiver}"), make)
            .on::<Small>()
            .start()
            .await?;
    }
    let deliveries = messages * case.receivers() as u64;
    let start = Instant::now();
    for id in 0..messages {
        bus.publish(message(id)).await?;
        if case.is_same_thread() && id % BURST == BURST - 1 {
            tokio::task::yield_now().await;
        }
    }
    if case.is_same_thread() {
        total.wait_here(deliveries).await;
    } else {
        total.wait(deliveries);
    }
    Ok(start.elapsed())
}
