//! Request and reply: the reply or one of the contract's errors, never a hang.

use std::time::Duration;

use crate::common::{
    Door, Log, PATIENCE, block_on, bus, bus_at_rest, dead_letters, end, eventually, poll_once,
    queue, soon,
};
use postroom::{Bus, Command, Context, Event, Failure, Overflow, RequestError, Retry};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Double(u64);
impl Command for Double {
    const QUEUE: &'static str = "requests.double";
    type Reply = u64;
}

#[derive(Serialize, Deserialize)]
struct Ask(u64);
impl Command for Ask {
    const QUEUE: &'static str = "requests.ask";
    type Reply = Result<u64, String>;
}

#[derive(Serialize, Deserialize)]
struct Start(u64);
impl Event for Start {
    const TOPIC: &'static str = "requests.start";
}

const SECOND: Duration = Duration::from_secs(1);
const NAME: &str = "doubler";

fn double() -> String {
    Double::QUEUE.to_owned()
}

/// Boxed, so that it can be polled by hand.
fn request(bus: &Bus, number: u64) -> futures::Boxed<'_> {
    Box::pin(std::future::IntoFuture::into_future(
        bus.request(Double(number)),
    ))
}

mod futures {
    pub(crate) type Boxed<'a> =
        std::pin::Pin<Box<dyn Future<Output = Result<u64, postroom::RequestError>> + Send + 'a>>;
}

async fn start(
    bus: &Bus,
    handler: impl AsyncFn(&Double) -> Result<u64, Failure> + Send + Sync + 'static,
) -> postroom::Subscription {
    bus.handle_fn::<Double, _>(NAME, async move |command: &Double, _: &mut Context<'_>| {
        handler(command).await
    })
    .retry(Retry::fixed(Duration::ZERO).attempts(2))
    .mailbox(1)
    .start()
    .await
    .unwrap()
}

#[tokio::test]
async fn the_reply_comes_after_as_many_attempts_as_it_takes() {
    let bus = bus().await;
    let log = Log::new();
    let seen = log.clone();
    bus.handle_fn::<Double, _>(NAME, async move |command: &Double, cx: &mut Context<'_>| {
        seen.push((
            cx.attempt(),
            cx.envelope().header("h").map(str::to_owned),
            cx.envelope().correlation_id(),
        ));
        match cx.attempt() {
            1 => Err(Failure::retry("a failed attempt is never the reply")),
            2 => panic!("planned"),
            _ => Ok(command.0 * 2),
        }
    })
    .retry(Retry::fixed(Duration::ZERO).attempts(3))
    .start()
    .await
    .unwrap();
    let reply = bus
        .request(Double(4))
        .header("h", "v")
        .correlation("c")
        .key("k")
        .await;
    assert_eq!(reply, Ok(8));
    end(&bus).await;
    let seen = |attempt| (attempt, Some("v".to_owned()), "c".to_owned());
    assert_eq!(log.all(), [seen(1), seen(2), seen(3)]);
}

#[tokio::test]
async fn many_requests_at_a_time_each_have_their_own_reply() {
    let bus = bus().await;
    start(&bus, async |command| {
        tokio::task::yield_now().await;
        Ok(command.0 * 2)
    })
    .await;
    let requests: Vec<_> = (0..200)
        .map(|number| {
            let bus = bus.clone();
            tokio::spawn(async move { (number, bus.request(Double(number)).await) })
        })
        .collect();
    for request in requests {
        let (number, reply) = soon("a reply", request).await.unwrap();
        assert_eq!(reply, Ok(number * 2));
    }
    end(&bus).await;
}

#[tokio::test]
async fn a_plain_thread_can_ask() {
    let bus = bus().await;
    start(&bus, async |command| Ok(command.0 * 2)).await;
    let asking = bus.clone();
    let thread = std::thread::spawn(move || block_on(async { asking.request(Double(3)).await }));
    eventually("answered", || thread.is_finished()).await;
    assert_eq!(thread.join().unwrap(), Ok(6));
    end(&bus).await;
}

#[tokio::test]
async fn no_reply_in_time_is_a_timeout_and_the_reply_is_late() {
    let (bus, clock) = bus_at_rest().await;
    let door = Door::closed();
    let passing = door.clone();
    start(&bus, async move |command| {
        passing.pass().await;
        Ok(command.0)
    })
    .await;
    let mut asked = request(&bus, 1);
    assert!(poll_once(&mut asked).is_pending());
    eventually("in hand", || queue(&bus, NAME).in_flight == 1).await;
    clock.advance(29 * SECOND);
    assert!(poll_once(&mut asked).is_pending());
    clock.advance(SECOND);
    assert_eq!(
        soon("the timeout", asked).await,
        Err(RequestError::Timeout { queue: double() })
    );
    assert_eq!(bus.snapshot().late_replies, 0);
    door.open();
    eventually("late", || bus.snapshot().late_replies == 1).await;
    end(&bus).await;
    assert_eq!(queue(&bus, NAME).acked, 1, "a late reply fails no delivery");
}

#[tokio::test]
async fn a_request_that_is_dropped_leaves_a_late_reply() {
    let bus = bus().await;
    let door = Door::closed();
    let passing = door.clone();
    start(&bus, async move |command| {
        passing.pass().await;
        Ok(command.0)
    })
    .await;
    let mut asked = request(&bus, 1);
    assert!(poll_once(&mut asked).is_pending());
    drop(asked);
    door.open();
    end(&bus).await;
    assert_eq!(bus.snapshot().late_replies, 1);
}

#[tokio::test]
async fn a_command_given_up_is_told_at_once() {
    let bus = bus().await;
    start(&bus, async |command| match command.0 {
        0 => Err(Failure::retry("never")),
        1 => Err(Failure::reject("no")),
        2 => panic!("planned"),
        _ => Err(Failure::discard("who asks")),
    })
    .await;
    let dead = Err(RequestError::DeadLettered { queue: double() });
    for number in 0..3 {
        assert_eq!(soon("the answer", request(&bus, number)).await, dead);
    }
    let discarded = Err(RequestError::Discarded { queue: double() });
    assert_eq!(soon("the answer", request(&bus, 3)).await, discarded);
    assert_eq!(dead_letters(&bus).await.len(), 3);
    end(&bus).await;
}

#[tokio::test]
async fn the_reply_to_a_replayed_command_is_late() {
    let bus = bus().await;
    let log = Log::new();
    let seen = log.clone();
    start(&bus, async move |command| {
        seen.push(command.0);
        if seen.len() == 1 {
            Err(Failure::reject("no"))
        } else {
            Ok(command.0)
        }
    })
    .await;
    assert!(soon("the answer", request(&bus, 0)).await.is_err());
    let letter = dead_letters(&bus).await.remove(0);
    bus.dead_letters().replay(letter.id).await.unwrap();
    end(&bus).await;
    assert_eq!((log.len(), bus.snapshot().late_replies), (2, 1));
}

#[tokio::test]
async fn nobody_there_is_told_at_once() {
    let bus = bus().await;
    let asked = request(&bus, 1).await;
    assert_eq!(asked, Err(RequestError::NoQueue { queue: double() }));
    end(&bus).await;
    let asked = request(&bus, 1).await;
    assert_eq!(asked, Err(RequestError::Refused(postroom::Refusal::Closed)));
}

#[tokio::test]
async fn a_full_queue_is_waited_for_until_the_requests_own_deadline() {
    let (bus, clock) = bus_at_rest().await;
    let doubler = start(&bus, async |command| Ok(command.0 * 2)).await;
    doubler.pause();
    bus.send(Double(0)).await.unwrap();
    let mut patient = request(&bus, 1);
    assert!(poll_once(&mut patient).is_pending());
    let mut asked = Box::pin(std::future::IntoFuture::into_future(
        bus.request(Double(2)).timeout(5 * SECOND),
    ));
    assert!(poll_once(&mut asked).is_pending());
    clock.advance(5 * SECOND);
    let full = RequestError::Full {
        queue: NAME.to_owned(),
    };
    assert_eq!(soon("the deadline", asked).await, Err(full));
    clock.advance(20 * SECOND);
    doubler.resume().await;
    assert_eq!(soon("the reply", patient).await, Ok(2));
    end(&bus).await;
}

#[tokio::test]
async fn a_queue_that_fails_or_drops_when_full_says_so() {
    let bus = bus().await;
    let start = |overflow| {
        bus.handle_fn::<Double, _>(NAME, async |command: &Double, _: &mut Context<'_>| {
            Ok(command.0)
        })
        .mailbox(1)
        .overflow(overflow)
        .start()
    };
    let full = Err(RequestError::Full {
        queue: NAME.to_owned(),
    });
    let discarded = Err(RequestError::Discarded { queue: double() });

    let doubler = start(Overflow::Fail).await.unwrap();
    doubler.pause();
    bus.send(Double(0)).await.unwrap();
    assert_eq!(soon("fail", request(&bus, 1)).await, full);
    doubler.stop(Duration::ZERO).await;

    let doubler = start(Overflow::DropNewest).await.unwrap();
    doubler.pause();
    bus.send(Double(0)).await.unwrap();
    assert_eq!(soon("drop newest", request(&bus, 1)).await, discarded);
    doubler.stop(Duration::ZERO).await;

    let doubler = start(Overflow::DropOldest).await.unwrap();
    doubler.pause();
    let mut oldest = request(&bus, 0);
    assert!(poll_once(&mut oldest).is_pending());
    let mut newest = request(&bus, 1);
    assert!(poll_once(&mut newest).is_pending());
    assert_eq!(soon("drop oldest", oldest).await, discarded);
    doubler.resume().await;
    assert_eq!(soon("the newest", newest).await, Ok(1));
    end(&bus).await;
}

#[tokio::test]
async fn a_command_that_expires_is_told() {
    let (bus, clock) = bus_at_rest().await;
    let doubler = start(&bus, async |command| Ok(command.0)).await;
    doubler.pause();
    let asked = bus.request(Double(1)).expires_in(SECOND);
    let mut asked = Box::pin(std::future::IntoFuture::into_future(asked));
    assert!(poll_once(&mut asked).is_pending());
    clock.advance(SECOND);
    doubler.resume().await;
    let expired = Err(RequestError::Expired { queue: double() });
    assert_eq!(soon("the answer", asked).await, expired);
    end(&bus).await;
}

#[tokio::test]
async fn a_queue_that_ends_with_the_command_in_it_loses_the_reply_path() {
    let bus = bus().await;
    let doubler = start(&bus, async |command| Ok(command.0)).await;
    doubler.pause();
    let mut asked = request(&bus, 1);
    assert!(poll_once(&mut asked).is_pending());
    let report = doubler.stop(Duration::ZERO).await;
    assert_eq!(report.abandoned.len(), 1);
    let lost = Err(RequestError::ReplyPathLost { queue: double() });
    assert_eq!(soon("the answer", asked).await, lost);
    end(&bus).await;
}

#[tokio::test]
async fn a_request_from_a_handler_is_sent_at_once() {
    let bus = bus().await;
    start(&bus, async |command| Ok(command.0 * 2)).await;
    let log = Log::new();
    let seen = log.clone();
    bus.subscribe_fn::<Start, _>("asker", async move |start: &Start, cx: &mut Context<'_>| {
        seen.push(cx.request(Double(start.0)).timeout(PATIENCE).await);
        Err(Failure::discard("not undone"))
    })
    .start()
    .await
    .unwrap();
    bus.publish(Start(21)).await.unwrap();
    end(&bus).await;
    assert_eq!(log.all(), [Ok(42)]);
    assert_eq!(queue(&bus, NAME).acked, 1);
}

#[tokio::test]
async fn waiting_for_itself_is_refused_and_with_a_second_worker_it_is_not() {
    let bus = bus().await;
    let ask = async |ask: &Ask, cx: &mut Context<'_>| {
        if ask.0 == 0 {
            return Ok(Ok(7));
        }
        let reply = cx.request(Ask(0)).timeout(PATIENCE).await;
        Ok(reply
            .map_err(|error| error.to_string())
            .and_then(|reply| reply))
    };
    let alone = bus.handle_fn::<Ask, _>("alone", ask).start().await.unwrap();
    let deadlock = RequestError::WouldDeadlock {
        queue: Ask::QUEUE.into(),
    };
    assert_eq!(bus.request(Ask(1)).await, Ok(Err(deadlock.to_string())));
    alone.stop(PATIENCE).await;
    bus.handle_fn::<Ask, _>("two", ask)
        .workers(2)
        .start()
        .await
        .unwrap();
    assert_eq!(bus.request(Ask(1)).await, Ok(Ok(7)));
    end(&bus).await;
}

#[tokio::test]
async fn a_longer_cycle_ends_by_its_timeout_for_room_and_reply_together() {
    let (bus, clock) = bus_at_rest().await;
    let log = Log::new();
    let (seen, time) = (log.clone(), clock.clone());
    let doubler = start(&bus, async |command| Ok(command.0)).await;
    doubler.pause();
    bus.send(Double(0)).await.unwrap();
    bus.subscribe_fn::<Start, _>("asker", async move |start: &Start, cx: &mut Context<'_>| {
        let reply = cx.request(Double(start.0)).timeout(10 * SECOND).await;
        seen.push((reply, time.elapsed()));
        Ok(())
    })
    .no_timeout()
    .start()
    .await
    .unwrap();
    bus.publish(Start(1)).await.unwrap();
    crate::common::advance_until(&clock, SECOND / 2, "it ends", || log.len() == 1).await;
    let (reply, _) = log.all().remove(0);
    assert_eq!(
        reply,
        Err(RequestError::Full {
            queue: NAME.to_owned()
        })
    );
    doubler.resume().await;
    end(&bus).await;
}

#[tokio::test]
async fn a_handler_hears_of_a_missing_reply_before_it_is_cut_off() {
    let (bus, clock) = bus_at_rest().await;
    let log = Log::new();
    let (seen, time) = (log.clone(), clock.clone());
    let doubler = start(&bus, async |command| Ok(command.0)).await;
    doubler.pause();
    bus.subscribe_fn::<Start, _>("asker", async move |start: &Start, cx: &mut Context<'_>| {
        let reply = cx.request(Double(start.0)).await;
        seen.push((reply, time.elapsed()));
        Ok(())
    })
    .timeout(10 * SECOND)
    .start()
    .await
    .unwrap();
    bus.publish(Start(1)).await.unwrap();
    crate::common::advance_until(&clock, SECOND / 2, "it ends", || log.len() == 1).await;
    let (reply, waited) = log.all().remove(0);
    assert_eq!(reply, Err(RequestError::Timeout { queue: double() }));
    assert!(waited >= 5 * SECOND, "{waited:?}");
    assert_eq!(queue(&bus, "asker").restarts, 0);
    doubler.resume().await;
    end(&bus).await;
}

#[tokio::test]
async fn a_request_without_end_waits() {
    let bus = bus().await;
    start(&bus, async |command| Ok(command.0)).await;
    let asked = bus.request(Double(5)).timeout(Duration::MAX).await;
    assert_eq!(asked, Ok(5));
    end(&bus).await;
}
