//! Events accepted, handled and acknowledged: one receiver and sixteen, on another thread and on the same.
#![allow(missing_docs)]

mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use common::{Handled, Rig, small};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use postroom::{Overflow, Threads};

/// On one thread a publisher lets the receivers run after this many.
const BURST: u64 = 256;

async fn subscribe(rig: &Rig, receivers: u64) -> Handled {
    let handled = Handled::default();
    for receiver in 0..receivers {
        let counts = handled.clone();
        let subscriber = rig
            .bus
            .subscriber(format!("receiver-{receiver}"), move || counts.clone())
            .on::<common::Small>();
        subscriber.start().await.expect("a subscriber");
    }
    handled
}

async fn publish_and_handle(
    rig: &Rig,
    handled: &Handled,
    messages: u64,
    receivers: u64,
) -> Duration {
    let until = handled.so_far() + messages * receivers;
    let start = Instant::now();
    for id in 0..messages {
        rig.bus.publish(small(id)).await.expect("accepted");
        if id % BURST == BURST - 1 {
            tokio::task::yield_now().await;
        }
    }
    handled.reaches(until).await;
    start.elapsed()
}

fn publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish");
    for (thread, threads) in [("cross", Threads::Own(1)), ("same", Threads::Current)] {
        for receivers in [1, 16] {
            let rig = Rig::new(threads, |builder| builder);
            let handled = rig.run(subscribe(&rig, receivers));
            group.throughput(Throughput::Elements(receivers));
            let id = BenchmarkId::new(thread, format!("1to{receivers}"));
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|messages| {
                    rig.run(publish_and_handle(&rig, &handled, messages, receivers))
                });
            });
            rig.end();
        }
    }
    group.finish();
}

/// What a publish costs its caller when nobody takes the message out.
fn mailbox(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("full_mailbox");
    group.throughput(Throughput::Elements(1));
    for overflow in [Overflow::Fail, Overflow::DropNewest, Overflow::DropOldest] {
        let rig = Rig::apart();
        rig.run(async {
            let subscriber = rig.bus.subscriber("paused", Handled::default);
            let subscriber = subscriber.on::<common::Small>().overflow(overflow);
            let paused = subscriber.start().await.expect("a subscriber");
            paused.pause();
            while paused.snapshot().queued < 1024 {
                rig.bus.try_publish(small(0)).expect("there is room");
            }
        });
        group.bench_function(format!("{overflow:?}"), |bencher| {
            bencher.iter(|| black_box(rig.bus.try_publish(small(1)).is_ok()));
        });
        rig.end();
    }
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = publish, mailbox }
criterion_main!(benches);
