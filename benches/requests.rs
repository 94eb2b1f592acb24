//! Commands: sent to competing workers, and requested with a reply, on another thread and on the same.
#![allow(missing_docs)]

mod common;

use std::time::{Duration, Instant};

use common::{Handled, Rig};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use postroom::{Bus, Command, Threads};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Job(u64);

impl Command for Job {
    const QUEUE: &'static str = "bench.job";
    type Reply = ();
}

#[derive(Serialize, Deserialize)]
struct Question(u64);

impl Command for Question {
    const QUEUE: &'static str = "bench.question";
    type Reply = u64;
}

async fn sent(bus: &Bus, handled: &Handled, messages: u64) -> Duration {
    let until = handled.so_far() + messages;
    let start = Instant::now();
    for id in 0..messages {
        bus.send(Job(id)).await.expect("accepted");
    }
    handled.reaches(until).await;
    start.elapsed()
}

fn send(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("send");
    group.throughput(Throughput::Elements(1));
    for workers in [1, 4] {
        let rig = Rig::apart();
        let handled = Handled::default();
        let counts = handled.clone();
        let handler = rig.bus.handle_fn::<Job, _>("jobs", async move |_, _| {
            counts.count();
            Ok(())
        });
        rig.run(handler.workers(workers).start())
            .expect("a handler");
        group.bench_function(format!("{workers}_workers"), |bencher| {
            bencher.iter_custom(|messages| rig.run(sent(&rig.bus, &handled, messages)));
        });
        rig.end();
    }
    group.finish();
}

fn request(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    for (thread, threads) in [("cross", Threads::Own(1)), ("same", Threads::Current)] {
        let rig = Rig::new(threads, |builder| builder);
        let handler = rig
            .bus
            .handle_fn::<Question, _>("answers", async |question, _| Ok(question.0 + 1));
        rig.run(handler.start()).expect("a handler");
        group.bench_function(thread, |bencher| {
            bencher.iter_custom(|requests| {
                rig.run(async {
                    let start = Instant::now();
                    for id in 0..requests {
                        let reply = rig.bus.request(Question(id)).await;
                        assert_eq!(reply.ok(), Some(id + 1));
                    }
                    start.elapsed()
                })
            });
        });
        rig.end();
    }
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = send, request }
criterion_main!(benches);
