//! Keyed order, and unordered workers, beside a plain queue: what the order of each key costs.
#![allow(missing_docs)]

mod common;

use std::time::{Duration, Instant};

use common::{Handled, Rig, small};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use postroom::Order;

/// So many different keys, in turn.
const KEYS: u64 = 100;

async fn with_keys(rig: &Rig, handled: &Handled, messages: u64) -> Duration {
    let until = handled.so_far() + messages;
    let start = Instant::now();
    for id in 0..messages {
        let publish = rig.bus.publish(small(id)).key(id % KEYS);
        publish.await.expect("accepted");
    }
    handled.reaches(until).await;
    start.elapsed()
}

/// All three publish with a key, so that only the queue differs.
fn order(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("order");
    group.throughput(Throughput::Elements(1));
    let orders = [
        ("fifo", Order::Fifo),
        ("unordered_4_workers", Order::Unordered { workers: 4 }),
        ("keyed_4_lanes", Order::Keyed { lanes: 4 }),
    ];
    for (name, order) in orders {
        let rig = Rig::apart();
        let handled = Handled::default();
        let counts = handled.clone();
        let subscriber = rig.bus.subscriber("receiver", move || counts.clone());
        let subscriber = subscriber.on::<common::Small>().order(order);
        rig.run(subscriber.start()).expect("a subscriber");
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|messages| rig.run(with_keys(&rig, &handled, messages)));
        });
        rig.end();
    }
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = order }
criterion_main!(benches);
