//! The fault matrix: a queue that is deleted, declared otherwise, full, or held for too long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::common::load::{
    Load, Setup, at_once, declare_classic, delete_queue, end_in_time, taking,
};
use crate::common::proxy::Proxy;
use crate::common::rabbit::Rabbit;
use crate::common::{Door, soon};
use postroom::LifecycleKind;

const DEADLINE: Duration = Duration::from_secs(60);

async fn delete(load: &Load) {
    let queue = load.queue();
    delete_queue(&load.setup.look_url, &format!("{queue}.dead")).await;
    delete_queue(&load.setup.look_url, &queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_is_deleted_under_its_consumer() {
    let rabbit = Rabbit::shared();
    let door = Door::closed();
    let (is_shut, at_the_door) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let (behind, shut, waiting) = (door.clone(), is_shut.clone(), at_the_door.clone());
    let setup = Setup {
        handler: Arc::new(move |_, _| {
            let (door, shut, waiting) = (behind.clone(), shut.clone(), waiting.clone());
            Box::pin(async move {
                if shut.load(Ordering::SeqCst) {
                    waiting.fetch_add(1, Ordering::SeqCst);
                    door.pass().await;
                }
                Ok(())
            })
        }),
        workers: 8,
        ..Setup::at(&rabbit)
    };
    let load = Load::start("queue deleted under its consumer", setup).await;
    let queue = load.queue();
    load.burst(297, 10, DEADLINE).end().await;
    load.until("all are handled", async || {
        load.oracle.verdict(&[&queue]).handled >= 297
    })
    .await;
    // These are in hand when the queue goes: each with a worker, and none behind another one.
    is_shut.store(true, Ordering::SeqCst);
    for more in 1..=3 {
        load.publish(DEADLINE).await;
        load.until("it is in hand", async || {
            at_the_door.load(Ordering::SeqCst) == more
        })
        .await;
    }
    is_shut.store(false, Ordering::SeqCst);
    delete_queue(rabbit.url(), &queue).await;
    load.told(LifecycleKind::Restarted).await;
    door.open();
    load.healed().await;
    load.burst(300, 10, DEADLINE).end().await;
    load.check().await;
    load.shutdown_during(
        async || {
            // What the queue holds goes with it: the load ends first.
            load.until("all is handled", async || load.oracle.complete(&[&queue]))
                .await;
        },
        async || {},
    )
    .await;
    delete(&load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_is_there_with_other_arguments() {
    let rabbit = Rabbit::shared();
    let proxy = Proxy::start(rabbit.authority());
    let service = Rabbit::unique("sink");
    let queue = format!("{service}.work");
    declare_classic(rabbit.url(), &queue).await;
    let setup = Setup {
        consume_url: rabbit.url_through(proxy.address()),
        ..Setup::at(&rabbit)
    };
    let load = Load::start_unconsumed("406 on declare", setup, &service).await;
    // It is told, with the argument, and the connection stays.
    let says = |word: &str| {
        load.lifecycle.all().iter().any(|event| {
            event.subject.contains("consumer")
                && event.why.as_ref().is_some_and(|why| why.contains(word))
        })
    };
    load.until("the mismatch is told", async || {
        says("is there with another")
    })
    .await;
    let opened = proxy.opened();
    load.until("it is tried again", async || {
        let events = load.lifecycle.all();
        let consumers = events
            .iter()
            .filter(|event| event.subject.contains("consumer"));
        consumers.count() >= 4
    })
    .await;
    assert_eq!(proxy.opened(), opened, "no reconnect storm");
    delete_queue(rabbit.url(), &queue).await;
    load.healed().await;
    load.burst(200, 10, DEADLINE).end().await;
    load.check().await;
    assert_eq!(proxy.opened(), opened);
    load.end().await;
    delete(&load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_is_shut_down_while_its_queue_cannot_be_declared() {
    let rabbit = Rabbit::shared();
    let service = Rabbit::unique("sink");
    let queue = format!("{service}.work");
    declare_classic(rabbit.url(), &queue).await;
    let load =
        Load::start_unconsumed("406 on declare: shutdown", Setup::at(&rabbit), &service).await;
    load.told(LifecycleKind::Restarted).await;
    load.end().await;
    delete(&load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_holds_a_message_longer_than_the_broker_allows() {
    let rabbit =
        tokio::task::spawn_blocking(|| Rabbit::start_with(&["--consumer-timeout", "1000"]))
            .await
            .unwrap();
    let (door, starts) = (Door::closed(), Arc::new(AtomicU32::new(0)));
    let (behind, started) = (door.clone(), Arc::clone(&starts));
    let setup = Setup {
        handler: Arc::new(move |id, _| {
            let (door, started) = (behind.clone(), Arc::clone(&started));
            Box::pin(async move {
                // The first hand-over of this one is held.
                if id == 100 && started.fetch_add(1, Ordering::SeqCst) == 0 {
                    door.pass().await;
                }
                Ok(())
            })
        }),
        ..Setup::at(&rabbit)
    };
    let load = Load::start("consumer timeout", setup).await;
    let flow = load.flow(10, DEADLINE);
    load.told(LifecycleKind::Restarted).await;
    load.until("it comes again", async || {
        starts.load(Ordering::SeqCst) == 2
    })
    .await;
    door.open();
    load.healed().await;
    flow.end().await;
    load.check().await;
    let events = load.lifecycle.all();
    let lost = events
        .iter()
        .find(|event| event.kind == LifecycleKind::Disconnected);
    assert!(
        lost.is_none(),
        "only the channel was to be closed: {events:?}"
    );
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_rejects() {
    let rabbit = tokio::task::spawn_blocking(Rabbit::controlled)
        .await
        .unwrap();
    let door = Door::closed();
    let behind = door.clone();
    let setup = Setup {
        amqp: |amqp| amqp.prefetch(10),
        handler: Arc::new(move |_, _| {
            let door = behind.clone();
            Box::pin(async move {
                door.pass().await;
                Ok(())
            })
        }),
        ..Setup::at(&rabbit)
    };
    let load = Load::start("full queue with reject-publish", setup).await;
    let (queue, policy) = (load.queue(), Rabbit::unique("full"));
    let (pattern, name) = (format!("^{}$", queue.replace('.', "[.]")), policy.clone());
    rabbit
        .run(move |rabbit| {
            let limit = r#"{"max-length":50,"overflow":"reject-publish"}"#;
            rabbit.ctl(&["set_policy", "--apply-to", "queues", &name, &pattern, limit]);
        })
        .await;
    let mut rejected = 0;
    while rejected < 100 {
        let outcomes = load.burst(50, 10, DEADLINE).end().await;
        assert_eq!(outcomes.accepted + outcomes.rejected, 50, "{outcomes:?}");
        rejected += outcomes.rejected;
    }
    door.open();
    load.until("there is room again", async || {
        load.publish(DEADLINE).await.accepted == 1
    })
    .await;
    load.healed().await;
    load.check().await;
    rabbit
        .run(move |rabbit| rabbit.ctl(&["clear_policy", &policy]))
        .await;
    load.shutdown_during(async || {}, async || {}).await;
    delete(&load).await;
}

/// Unstarted messages are back on the broker, and handled by the next bus.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_gives_back_what_was_not_started() {
    let rabbit = Rabbit::shared();
    let setup = Setup {
        handler: taking(Duration::from_millis(300)),
        workers: 2,
        ..Setup::at(&rabbit)
    };
    let load = Load::start("shutdown with a queue in hand", setup).await;
    let outcomes = load.burst(200, 10, DEADLINE).end().await;
    assert_eq!(outcomes.accepted, 200);
    end_in_time(&load.cell, &load.handling, Duration::from_secs(2)).await;
    check_the_rest(&load, 200).await;
}

/// The handlers end one after the other while RabbitMQ takes many messages back, and the channel is closed right behind the last of
/// their acknowledgements.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_that_gives_back_many_acknowledges_what_was_done() {
    let rabbit = Rabbit::shared();
    let door = Door::closed();
    let (inside, begun) = (door.clone(), Arc::new(AtomicU32::new(0)));
    let setup = Setup {
        handler: Arc::new(move |_, _| {
            let (door, nth) = (inside.clone(), begun.fetch_add(1, Ordering::Relaxed));
            Box::pin(async move {
                door.pass().await;
                tokio::time::sleep(nth * Duration::from_millis(1)).await;
                Ok(())
            })
        }),
        workers: 8,
        amqp: |amqp| amqp.prefetch(1_000),
        ..Setup::at(&rabbit)
    };
    let load = Load::start("shutdown with a thousand in hand", setup).await;
    let outcomes = load.burst(1_000, 100, DEADLINE).end().await;
    assert_eq!(outcomes.accepted, 1_000);
    load.until("all are in hand", async || {
        load.subscription.snapshot().accepted == 1_000
    })
    .await;
    let ending = tokio::spawn({
        let load = Arc::clone(&load);
        async move { end_in_time(&load.cell, &load.handling, Duration::from_secs(5)).await }
    });
    // At once, not at the next look.
    let going_back = async {
        while load.subscription.snapshot().queued > 0 {
            tokio::task::yield_now().await;
        }
    };
    soon("they go back", going_back).await;
    door.open();
    ending.await.unwrap();
    check_the_rest(&load, 1_000).await;
}

/// What was not handled is on RabbitMQ, and nothing else.
async fn check_the_rest(load: &Load, messages: u64) {
    let books = load.subscription.snapshot();
    assert_eq!(books.abandoned, 0, "{books:?}");
    let left = messages - books.acked;
    let queue = load.queue();
    load.until("the rest is back", async || {
        u64::from(load.ready(&queue).await) == left
    })
    .await;
    let (successor, _) = load.successor(at_once()).await;
    load.until("the rest is handled", async || {
        load.oracle.complete(&[&queue])
    })
    .await;
    let verdict = load.record(&load.cell);
    assert_eq!(
        verdict.duplicated.len(),
        0,
        "what was handled was acknowledged"
    );
    end_in_time(&load.cell, &successor, Duration::from_secs(5)).await;
    end_in_time(&load.cell, &load.publishing, Duration::from_secs(5)).await;
    delete(load).await;
}
