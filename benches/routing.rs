//! Routes: of topics made at run time, known and new; and after a change among many subscriptions.
#![allow(missing_docs)]

mod common;

use std::time::{Duration, Instant};

use common::{Handled, Rig};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use postroom::{Context, Outcome, Overflow, RawMessage, RawSubscriber, Subscription};
use serde_json::Value;

impl RawSubscriber for Handled {
    async fn handle(&mut self, _: RawMessage<'_>, _: &mut Context<'_>) -> Outcome {
        self.count();
        Ok(())
    }
}

/// Paused and dropping what is too much: only the way to the queue is measured.
async fn subscribe(rig: &Rig, name: String, pattern: &str) -> Subscription {
    let subscriber = rig.bus.subscriber(name, Handled::default).pattern(pattern);
    let subscriber = subscriber.mailbox(1).overflow(Overflow::DropNewest);
    let subscription = subscriber.start().await.expect("a subscriber");
    subscription.pause();
    subscription
}

/// Each device has a subscription of its own, and one sees all of them.
async fn devices(rig: &Rig, count: u64) {
    for device in 0..count {
        subscribe(
            rig,
            format!("device-{device}"),
            &format!("device.{device}.#"),
        )
        .await;
    }
    subscribe(rig, "all".to_owned(), "device.*.reading").await;
}

fn raw_topic(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("raw_topic");
    for subscriptions in [10, 10_000] {
        let rig = Rig::apart();
        rig.run(devices(&rig, subscriptions));
        let publish = |topic: String| {
            let publish = rig.bus.publish_raw(topic, Value::Null).try_now();
            publish.expect("accepted").local.dropped
        };
        group.bench_function(BenchmarkId::new("known", subscriptions), |bencher| {
            bencher.iter(|| publish("device.7.reading".to_owned()));
        });
        let mut next = 0u64;
        group.bench_function(BenchmarkId::new("new", subscriptions), |bencher| {
            bencher.iter(|| {
                next += 1;
                publish(format!("device.7.reading.{next}"))
            });
        });
        rig.end();
    }
    group.finish();
}

/// One wildcard subscription comes and goes among many, and the next publish finds its route anew.
fn change(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wildcard_change");
    group.sample_size(10);
    for subscriptions in [10, 10_000] {
        let rig = Rig::apart();
        rig.run(devices(&rig, subscriptions));
        group.bench_function(BenchmarkId::from_parameter(subscriptions), |bencher| {
            bencher.iter_custom(|changes| {
                rig.run(async {
                    let start = Instant::now();
                    for _ in 0..changes {
                        let changed = subscribe(&rig, "changed".to_owned(), "device.#").await;
                        let publish = rig.bus.publish_raw("device.7.reading", Value::Null);
                        publish.try_now().expect("accepted");
                        changed.stop(Duration::ZERO).await;
                    }
                    start.elapsed()
                })
            });
        });
        rig.end();
    }
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = raw_topic, change }
criterion_main!(benches);
