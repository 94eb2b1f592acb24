//! Threads of a program that outlive their bus, and threads of a bus that end with handlers in hand.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use postroom::{Bus, Command, Context, Event, Failure, Retry, SubscribeError, Threads};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

#[derive(Serialize, Deserialize)]
struct Ping;
impl Event for Ping {
    const TOPIC: &'static str = "thread-end.ping";
}

#[derive(Serialize, Deserialize)]
struct Pong;
impl Command for Pong {
    const QUEUE: &'static str = "thread-end.pong";
    type Reply = ();
}

#[tokio::test]
async fn a_publishing_thread_ends_after_the_queue_it_published_to() {
    let bus = Bus::builder("ending").start().await.unwrap();
    for _ in 0..20 {
        let kept_by_member = Arc::new(());
        let gone = Arc::downgrade(&kept_by_member);
        // A failure starts the actor of the queue.
        let failing = async move |_: &Ping, _: &mut Context<'_>| {
            let _ = &kept_by_member;
            Err(Failure::reject("no"))
        };
        let subscription = bus
            .subscribe_fn::<Ping, _>("failing", failing)
            .retry(Retry::none())
            .start()
            .await
            .unwrap();
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let publisher = std::thread::spawn({
            let bus = bus.clone();
            move || {
                bus.try_publish(Ping).unwrap();
                drop(bus);
                ends.recv().unwrap_err();
            }
        });
        while bus.snapshot().queue("failing").unwrap().dead_lettered == 0 {
            tokio::task::yield_now().await;
        }
        subscription.stop(Duration::from_secs(5)).await;
        drop(subscription);
        // The bus itself replaces the route that it knew.
        assert_eq!(bus.publish(Ping).await.unwrap().local.accepted, 0);
        while gone.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
        // Now only what the thread remembers holds the queue. A panic in its end would abort this process.
        drop(end);
        publisher.join().unwrap();
    }
    assert!(bus.shutdown(Duration::from_secs(5)).await.clean);
}

/// Tells whether it could spawn a task as it was dropped, as a connection does that goes back to its pool.
struct Spawns(mpsc::Sender<bool>);

impl Drop for Spawns {
    fn drop(&mut self) {
        self.0.send(Handle::try_current().is_ok()).unwrap();
    }
}

/// Nobody has to shut a bus down. What its handlers have in hand is dropped where tasks can be spawned: a panic in such a
/// drop is mostly a second one, and the end of the process.
#[tokio::test]
async fn what_a_bus_leaves_in_hand_is_dropped_in_the_context_of_its_runtime() {
    let (dropped, drops) = mpsc::channel();
    let (begins, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let bus = Bus::builder("left").start().await.unwrap();
    let state = Arc::new(Spawns(dropped));
    let handler = async move |_: &Ping, _: &mut Context<'_>| {
        let _of_the_attempt = Spawns(state.0.clone());
        begins.send(()).unwrap();
        std::future::pending().await
    };
    let subscription = bus.subscribe_fn::<Ping, _>("left", handler).start();
    let subscription = subscription.await.unwrap();
    bus.publish(Ping).await.unwrap();
    begun.recv().await.unwrap();
    drop((subscription, bus));
    // Of the attempt, and of the handler.
    let told = tokio::task::spawn_blocking(move || drops.iter().collect::<Vec<_>>());
    assert_eq!(told.await.unwrap(), [true, true]);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_start_that_is_refused_leaves_no_thread() {
    let bus = crate::common::bus().await;
    let pings = || bus.subscribe_fn::<Ping, _>("refused-pings", async |_, _| Ok(()));
    let pongs = |name: &str| bus.handle_fn::<Pong, _>(name, async |_, _| Ok(()));
    pings().start().await.unwrap();
    pongs("pongs").start().await.unwrap();
    let differs = pings().mailbox(3).own_thread().start().await.unwrap_err();
    assert!(matches!(differs, SubscribeError::GroupMismatch { .. }));
    let taken = pongs("refused-pongs").own_thread().start().await;
    assert!(matches!(taken, Err(SubscribeError::CommandTaken { .. })));
    let no_store = pings().durable().own_thread().start().await.unwrap_err();
    assert!(matches!(no_store, SubscribeError::NotDurable { .. }));
    let ended = || super::health::threads_named("refused") == 0;
    crate::common::eventually("all threads have ended", ended).await;
    crate::common::end(&bus).await;
}

#[cfg(target_os = "linux")]
/// The future, unless it is to be polled more often than that.
async fn polled<F: Future>(times: u32, future: F) -> Option<F::Output> {
    use std::task::Poll;
    let (mut future, mut left) = (std::pin::pin!(future), times);
    std::future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        let polled = future.as_mut().poll(cx).map(Some);
        if polled.is_pending() && left == 0 {
            return Poll::Ready(None);
        }
        polled
    })
    .await
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_subscriber_whose_start_is_dropped_is_stopped_again() {
    let bus = crate::common::bus().await;
    let first = bus.subscribe_fn::<Ping, _>("dropped-group", async |_, _| Ok(()));
    let first = first.start().await.unwrap();
    for name in ["dropped-pings", "dropped-group"] {
        for own_thread in [false, true] {
            let (mut times, mut dropped) = (0, 0);
            loop {
                let kept_by_member = Arc::new(());
                let gone = Arc::downgrade(&kept_by_member);
                let handler = async move |_: &Ping, _: &mut Context<'_>| {
                    let _ = &kept_by_member;
                    Ok(())
                };
                let mut pings = bus.subscribe_fn::<Ping, _>(name, handler);
                if own_thread {
                    pings = pings.own_thread();
                }
                let started = polled(times, pings.start()).await;
                if let Some(started) = &started {
                    let started = started.as_ref().unwrap();
                    assert!(started.stop(Duration::from_secs(5)).await.in_time);
                }
                let is_done = started.is_some();
                drop(started);
                dropped += u32::from(!is_done);
                let ended = || {
                    let is_alone = bus.snapshot().queue("dropped-pings").is_none();
                    let threads = super::health::threads_named(name);
                    gone.strong_count() == 0 && is_alone && threads == 0
                };
                crate::common::eventually("nothing of it is left", ended).await;
                match (is_done, dropped) {
                    (true, 2..) => break,
                    // It was ready at once.
                    (true, _) => {}
                    (false, _) => times += 1,
                }
            }
        }
    }
    assert_eq!(first.state(), postroom::SubscriptionState::Running);
    let receipt = bus.publish(Ping).await.unwrap();
    assert_eq!(receipt.local.accepted, 1);
    let acked = || crate::common::queue(&bus, "dropped-group").acked;
    crate::common::eventually("the first handles on", || acked() == 1).await;
    // It is the last member: those that were dropped have left.
    first.stop(Duration::from_secs(5)).await;
    assert!(bus.snapshot().queue("dropped-group").is_none());
    crate::common::end(&bus).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_bus_whose_start_is_dropped_leaves_no_thread() {
    let left = || super::health::threads_named("dropped-start");
    let mut started = 0;
    // Each is given a little longer than the one before, until some are started in time.
    for wait in (0..).map(|step| Duration::from_micros(step * 20)) {
        let start = Bus::builder("dropped-start")
            .threads(Threads::Own(2))
            .start();
        started += usize::from(tokio::time::timeout(wait, start).await.is_ok());
        if started == 3 {
            break;
        }
    }
    crate::common::eventually("all threads have ended", || left() == 0).await;
}

#[cfg(all(target_os = "linux", feature = "amqp"))]
#[tokio::test]
async fn a_bus_that_fails_to_start_leaves_no_thread() {
    // A port on which nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://{}", port.local_addr().unwrap());
    drop(port);
    for _ in 0..3 {
        let amqp = postroom::Amqp::new(url.as_str()).connect_timeout(Duration::from_millis(50));
        let amqp = amqp.when_down(postroom::WhenDown::Fail);
        let refused = Bus::builder("failed-start").bridge(amqp).start().await;
        assert!(matches!(refused, Err(postroom::StartError::Bridge(_))));
    }
    let left = || super::health::threads_named("failed-start");
    crate::common::eventually("all threads have ended", || left() == 0).await;
}
