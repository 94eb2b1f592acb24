//! The unhappy path: a retry in hand, a retry that waits, a dead letter and its replay.
#![allow(missing_docs)]

mod common;

use std::time::{Duration, Instant};

use common::{Handled, Rig, Small, small};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use postroom::{Bus, Failure, Filter, Retry};

async fn all_handled(bus: &Bus, handled: &Handled, messages: u64) -> Duration {
    let until = handled.so_far() + messages;
    let start = Instant::now();
    for id in 0..messages {
        bus.publish(small(id)).await.expect("accepted");
    }
    handled.reaches(until).await;
    start.elapsed()
}

/// Every message fails once and succeeds at its second attempt.
fn retries(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("retry");
    group.throughput(Throughput::Elements(1));
    let waiting = Retry::fixed(Duration::from_millis(1)).attempts(2);
    let policies = [
        ("in_hand", waiting.clone().immediate(1)),
        ("after_1_ms", waiting),
    ];
    for (name, policy) in policies {
        let rig = Rig::apart();
        let handled = Handled::default();
        let counts = handled.clone();
        let subscriber = rig
            .bus
            .subscribe_fn::<Small, _>("flaky", async move |_, cx| {
                if cx.attempt() == 1 {
                    return Err(Failure::retry("not at the first attempt"));
                }
                counts.count();
                Ok(())
            });
        rig.run(subscriber.retry(policy).start())
            .expect("a subscriber");
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|messages| rig.run(all_handled(&rig.bus, &handled, messages)));
        });
        rig.end();
    }
    group.finish();
}

/// Every message is rejected, becomes a dead letter, is replayed, and then handled.
async fn rejected_and_replayed(bus: &Bus, handled: &Handled, messages: u64) -> Duration {
    // No more at once than the store keeps.
    const AT_ONCE: u64 = 1_000;
    let letters = bus.dead_letters();
    let start = Instant::now();
    let mut left = messages;
    while left > 0 {
        let now = left.min(AT_ONCE);
        let until = handled.so_far() + now;
        for id in 0..now {
            bus.publish(small(id)).await.expect("accepted");
        }
        while letters.ledger().kept < now {
            tokio::task::yield_now().await;
        }
        let replayed = letters.replay_all(&Filter::all()).await;
        assert_eq!(replayed.map(|done| done.replayed as u64).ok(), Some(now));
        handled.reaches(until).await;
        left -= now;
    }
    start.elapsed()
}

fn dead_letters(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dead_letter");
    group.throughput(Throughput::Elements(1));
    let rig = Rig::apart();
    let handled = Handled::default();
    let counts = handled.clone();
    let seen = std::sync::Mutex::new(std::collections::HashSet::new());
    let subscriber = rig
        .bus
        .subscribe_fn::<Small, _>("strict", async move |_, cx| {
            let mut seen = seen.lock().expect("nobody panics with it");
            if seen.insert(cx.id()) {
                return Err(Failure::reject("not at first sight"));
            }
            seen.remove(&cx.id());
            counts.count();
            Ok(())
        });
    rig.run(subscriber.start()).expect("a subscriber");
    group.bench_function("made_and_replayed", |bencher| {
        bencher
            .iter_custom(|messages| rig.run(rejected_and_replayed(&rig.bus, &handled, messages)));
    });
    rig.end();
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = retries, dead_letters }
criterion_main!(benches);
