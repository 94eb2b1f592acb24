//! The fault matrix: a broker that is there and does nothing: frozen, or blocking publishers.

use std::alloc::System;
use std::time::{Duration, Instant};

use crate::common::load::{Load, Numbered, Setup, soaks};
use crate::common::rabbit::Rabbit;
use postroom::{LifecycleKind, Problem, Refusal};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::task::JoinSet;

const DEADLINE: Duration = Duration::from_secs(120);
/// The deadline of a publish that is to run out.
const IMPATIENT: Duration = Duration::from_secs(1);
/// What a timer may be late by on a busy machine.
const LATE: Duration = Duration::from_secs(2);

async fn private() -> Rabbit {
    tokio::task::spawn_blocking(Rabbit::start).await.unwrap()
}

/// RabbitMQ does the same then as when it is short of memory, and says which.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_are_blocked_by_a_full_disk() {
    let rabbit = private().await;
    let load = Load::start("publishers blocked by a full disk", Setup::at(&rabbit)).await;
    let flow = load.flow(10, DEADLINE);
    load.flows(200).await;
    rabbit.run(|rabbit| rabbit.disk_alarm(true)).await;
    load.told(LifecycleKind::Blocked).await;
    let health = load.publishing.health();
    assert!(!health.is_ready() && health.is_live());
    let mut found = health.conditions().iter();
    let blocked = found.find(|found| found.problem == Problem::Blocked);
    let why = blocked.and_then(|found| found.detail.clone());
    assert!(
        why.as_ref().is_some_and(|why| why.contains("disk")),
        "{why:?}"
    );
    let message = Numbered {
        id: load.next_id(),
        padding: String::new(),
    };
    let waits_in_vain = load.publishing.publish(message.clone()).timeout(IMPATIENT);
    let refused = waits_in_vain.await.unwrap_err();
    assert!(
        matches!(refused.kind(), Refusal::Unreachable { .. }),
        "{refused}"
    );
    assert_eq!(refused.into_message().unwrap().id, message.id);
    rabbit.run(|rabbit| rabbit.disk_alarm(false)).await;
    load.told(LifecycleKind::Unblocked).await;
    load.healed().await;
    flow.end_none_refused().await;
    load.check().await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_is_frozen() {
    let rabbit = private().await;
    let seconds = if soaks() { 60 } else { 5 };
    let load = Load::start(
        &format!("broker frozen for {seconds} s"),
        Setup::at(&rabbit),
    )
    .await;
    let flow = load.flow(10, DEADLINE);
    load.flows(200).await;
    rabbit.run(Rabbit::freeze).await;
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let begun = Instant::now();
        let outcomes = load.burst(20, 20, IMPATIENT).end().await;
        assert_eq!(
            outcomes.unreachable + outcomes.unconfirmed,
            20,
            "{outcomes:?}"
        );
        assert!(begun.elapsed() < IMPATIENT + LATE, "{:?}", begun.elapsed());
    }
    load.told(LifecycleKind::Disconnected).await;
    rabbit.run(Rabbit::thaw).await;
    load.healed().await;
    flow.end_none_refused().await;
    load.check().await;
    load.shutdown_during(
        async || rabbit.run(Rabbit::freeze).await,
        async || rabbit.run(Rabbit::thaw).await,
    )
    .await;
}

// Of the whole program; it counts, and allocates as the system does.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The bytes that this process has allocated and not freed. Its resident memory is more, by what the allocator keeps.
fn held() -> usize {
    let stats = ALLOCATOR.stats();
    stats
        .bytes_allocated
        .saturating_sub(stats.bytes_deallocated)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_are_blocked_by_a_memory_alarm() {
    let rabbit = private().await;
    let load = Load::start("publishers blocked by a memory alarm", Setup::at(&rabbit)).await;
    let flow = load.flow(10, DEADLINE);
    load.flows(200).await;
    rabbit.run(|rabbit| rabbit.memory_alarm(true)).await;
    load.told(LifecycleKind::Blocked).await;
    let mut after_the_first = None;
    for _ in 0..if soaks() { 20 } else { 4 } {
        let begun = Instant::now();
        let mut waiting = JoinSet::new();
        for _ in 0..3_000 {
            let load = std::sync::Arc::clone(&load);
            waiting.spawn(async move {
                let (id, padding) = (load.next_id(), "x".repeat(10_000));
                load.publish_message(Numbered { id, padding }, IMPATIENT)
                    .await
            });
        }
        for outcomes in waiting.join_all().await {
            assert_eq!(
                outcomes.unreachable + outcomes.unconfirmed,
                1,
                "{outcomes:?}"
            );
        }
        assert!(
            begun.elapsed() < IMPATIENT + 2 * LATE,
            "{:?}",
            begun.elapsed()
        );
        after_the_first.get_or_insert_with(held);
    }
    if let Some(first) = after_the_first {
        let grown = held().saturating_sub(first);
        // The messages of one time are 30 MB; the oracle keeps some bytes of each.
        assert!(grown < 3_000_000, "{grown} bytes more");
    }
    rabbit.run(|rabbit| rabbit.memory_alarm(false)).await;
    load.told(LifecycleKind::Unblocked).await;
    load.healed().await;
    flow.end_none_refused().await;
    load.check().await;
    load.shutdown_during(
        async || rabbit.run(|rabbit| rabbit.memory_alarm(true)).await,
        async || rabbit.run(|rabbit| rabbit.memory_alarm(false)).await,
    )
    .await;
}
