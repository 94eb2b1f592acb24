//! Request and reply, and every way in which there is none.

use std::time::Duration;

use super::Stage;
use super::props::{Ask, Count, Door, Journal, Lost, Misunderstood, Note, note, plain_error};
use super::unmet::{Step, Unmet, holds, same};
use crate::bus::Bus;
use crate::delivery::{Failure, Overflow, Retry};
use crate::observe::QueueSnapshot;
use crate::ports::RequestError;
use crate::subscriber::Context;

scenarios! {
    a_request_has_its_reply;
    a_reply_comes_after_a_retry;
    a_request_to_no_queue_says_so;
    a_request_to_a_full_queue_says_so if local_acceptance;
    a_request_that_became_a_dead_letter_says_so;
    a_request_that_was_discarded_says_so;
    a_request_that_was_dropped_says_so if drop_policies;
    a_request_without_a_reply_times_out_and_the_late_reply_is_counted;
    a_reply_of_another_type_is_undecodable;
    a_request_whose_queue_ends_loses_its_reply_path;
    a_request_of_a_handler_to_itself_would_deadlock;
    a_handler_may_ask_another;
}

fn queue() -> String {
    "conformance.ask".to_owned()
}

/// A command handler that fails like this.
async fn failing(bus: &Bus, failure: fn() -> Failure) -> Result<(), Unmet> {
    bus.handle_fn::<Ask, _>("ask", async move |_: &Ask, _: &mut Context<'_>| {
        Err(failure())
    })
    .retry(Retry::none())
    .start()
    .await
    .step("subscribing")?;
    Ok(())
}

async fn a_request_has_its_reply(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    bus.handle_fn::<Ask, _>("ask", async |ask: &Ask, _: &mut Context<'_>| Ok(ask.n + 1))
        .workers(3)
        .start()
        .await
        .step("subscribing")?;
    for n in 0..20 {
        same("the reply", bus.request(Ask { n }).await, Ok(n + 1))?;
    }
    // A command without a requester is handled like any other.
    bus.send(Ask { n: 1 }).await.step("sending")?;
    let acked = |queue: &QueueSnapshot| queue.acked;
    stage.books(&bus, "ask", "acked", acked, 21).await?;
    same("late replies", bus.snapshot().late_replies, 0)
}

async fn a_reply_comes_after_a_retry(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    bus.handle_fn::<Ask, _>("ask", async |ask: &Ask, cx: &mut Context<'_>| {
        if cx.attempt() == 1 {
            Err(plain_error())
        } else {
            Ok(ask.n + 1)
        }
    })
    .retry(Retry::fixed(Duration::ZERO).attempts(2))
    .start()
    .await
    .step("subscribing")?;
    same("the reply", bus.request(Ask { n: 1 }).await, Ok(2))
}

async fn a_request_to_no_queue_says_so(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let queue = "conformance.nowhere".to_owned();
    let reply = bus.request(Lost { n: 1 }).await;
    same("the reply", reply, Err(RequestError::NoQueue { queue }))
}

async fn a_request_to_a_full_queue_says_so(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let full = bus
        .handle_fn::<Ask, _>("ask", async |ask: &Ask, _: &mut Context<'_>| Ok(ask.n))
        .mailbox(1)
        .overflow(Overflow::Fail)
        .start()
        .await
        .step("subscribing")?;
    full.pause();
    bus.send(Ask { n: 1 }).await.step("filling the queue")?;
    let reply = bus.request(Ask { n: 2 }).await;
    same(
        "the reply",
        reply,
        Err(RequestError::Full {
            queue: "ask".to_owned(),
        }),
    )
}

async fn a_request_that_became_a_dead_letter_says_so(stage: &Stage) -> Result<(), Unmet> {
    for failure in [plain_error, || Failure::reject("no")] {
        stage.anew().await?;
        let bus = stage.bus().await?;
        failing(&bus, failure).await?;
        let reply = bus.request(Ask { n: 1 }).await;
        same(
            "the reply",
            reply,
            Err(RequestError::DeadLettered { queue: queue() }),
        )?;
        same("dead letters", stage.kept(&bus).await?, 1)?;
    }
    Ok(())
}

async fn a_request_that_was_discarded_says_so(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    failing(&bus, || Failure::discard("no")).await?;
    let reply = bus.request(Ask { n: 1 }).await;
    same(
        "the reply",
        reply,
        Err(RequestError::Discarded { queue: queue() }),
    )
}

async fn a_request_that_was_dropped_says_so(stage: &Stage) -> Result<(), Unmet> {
    for overflow in [Overflow::DropNewest, Overflow::DropOldest] {
        stage.anew().await?;
        let bus = stage.bus().await?;
        let full = bus
            .handle_fn::<Ask, _>("ask", async |ask: &Ask, _: &mut Context<'_>| Ok(ask.n + 1))
            .mailbox(1)
            .overflow(overflow)
            .start()
            .await
            .step("subscribing")?;
        full.pause();
        let older = tokio::task::spawn_local({
            let bus = bus.clone();
            async move { bus.request(Ask { n: 1 }).await }
        });
        let accepted = || {
            bus.snapshot()
                .queue("ask")
                .is_some_and(|ask| ask.accepted == 1)
        };
        stage.until("the older one is queued", accepted).await?;
        let younger = tokio::task::spawn_local({
            let bus = bus.clone();
            async move { bus.request(Ask { n: 2 }).await }
        });
        let dropped = || {
            bus.snapshot()
                .queue("ask")
                .is_some_and(|ask| ask.dropped == 1)
        };
        stage.until("one is dropped", dropped).await?;
        full.resume().await;
        let replies = (
            older.await.step("the older")?,
            younger.await.step("the younger")?,
        );
        let gone = RequestError::Discarded { queue: queue() };
        let expected = match overflow {
            Overflow::DropNewest => (Ok(2), Err(gone)),
            _ => (Err(gone), Ok(3)),
        };
        same("the replies", replies, expected)?;
    }
    Ok(())
}

async fn a_request_without_a_reply_times_out_and_the_late_reply_is_counted(
    stage: &Stage,
) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let door = Door::shut();
    let held = door.clone();
    bus.handle_fn::<Ask, _>("ask", async move |ask: &Ask, _: &mut Context<'_>| {
        held.enter().await;
        Ok(ask.n)
    })
    .no_timeout()
    .start()
    .await
    .step("subscribing")?;
    let asking = tokio::task::spawn_local({
        let (bus, patience) = (bus.clone(), stage.steps(20));
        async move { bus.request(Ask { n: 1 }).timeout(patience).await }
    });
    stage
        .until("it is in the handler", || door.waiting() == 1)
        .await?;
    // The requester sets its timer after the command was accepted.
    tokio::task::yield_now().await;
    stage.pass(&bus, 20).await;
    let reply = asking.await.step("the request")?;
    same(
        "the reply",
        reply,
        Err(RequestError::Timeout { queue: queue() }),
    )?;
    same("late replies before it", bus.snapshot().late_replies, 0)?;
    door.open();
    let late = || bus.snapshot().late_replies;
    stage.comes(&bus, "late replies", late, 1).await?;
    let acked = |queue: &QueueSnapshot| queue.acked;
    let what = "the delivery is a success";
    stage.books(&bus, "ask", what, acked, 1).await
}

async fn a_reply_of_another_type_is_undecodable(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    bus.handle_fn::<Ask, _>("ask", async |ask: &Ask, _: &mut Context<'_>| Ok(ask.n))
        .start()
        .await
        .step("subscribing")?;
    let reply = bus.request(Misunderstood { n: 1 }).await;
    same(
        "the reply",
        reply,
        Err(RequestError::Undecodable { queue: queue() }),
    )?;
    let acked = |queue: &QueueSnapshot| queue.acked;
    let what = "the delivery is a success";
    stage.books(&bus, "ask", what, acked, 1).await
}

async fn a_request_whose_queue_ends_loses_its_reply_path(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let subscriber = bus
        .handle_fn::<Ask, _>("ask", async |ask: &Ask, _: &mut Context<'_>| Ok(ask.n))
        .start()
        .await
        .step("subscribing")?;
    subscriber.pause();
    let asking = tokio::task::spawn_local({
        let bus = bus.clone();
        async move { bus.request(Ask { n: 1 }).await }
    });
    let queued = || {
        bus.snapshot()
            .queue("ask")
            .is_some_and(|ask| ask.queued == 1)
    };
    stage.until("it is queued", queued).await?;
    let report = subscriber.stop(Duration::ZERO).await;
    if !stage.is_local() {
        // Its queue has not ended, and the next one answers.
        same("abandoned", report.abandoned.len(), 0)?;
        bus.handle_fn::<Ask, _>("ask", async |ask: &Ask, _: &mut Context<'_>| Ok(ask.n + 1))
            .start()
            .await
            .step("subscribing again")?;
        return same("the reply", asking.await.step("the request")?, Ok(2));
    }
    same("abandoned", report.abandoned.len(), 1)?;
    let reply = asking.await.step("the request")?;
    same(
        "the reply",
        reply,
        Err(RequestError::ReplyPathLost { queue: queue() }),
    )
}

async fn a_request_of_a_handler_to_itself_would_deadlock(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let seen = Journal::new();
    let write = seen.clone();
    let patience = stage.steps(10);
    bus.handle_fn::<Ask, _>("ask", async move |ask: &Ask, cx: &mut Context<'_>| {
        if ask.n == 1 {
            write.write(cx.request(Ask { n: 2 }).timeout(patience).await);
        }
        Ok(ask.n + 1)
    })
    .start()
    .await
    .step("subscribing")?;
    same("the outer reply", bus.request(Ask { n: 1 }).await, Ok(2))?;
    // Who else serves a queue that other processes may serve is not known: there it ends by its timeout.
    let inner = match stage.is_local() {
        true => RequestError::WouldDeadlock { queue: queue() },
        false => RequestError::Timeout { queue: queue() },
    };
    same("the inner reply", seen.read(), [Err(inner)])
}

async fn a_handler_may_ask_another(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let asked = Count::default();
    let (count, seen) = (asked.clone(), Journal::new());
    let write = seen.clone();
    bus.handle_fn::<Ask, _>("ask", async move |ask: &Ask, _: &mut Context<'_>| {
        count.up();
        Ok(ask.n + 1)
    })
    .start()
    .await
    .step("subscribing")?;
    let patience = stage.steps(100);
    bus.subscribe_fn::<Note, _>("asking", async move |note: &Note, cx: &mut Context<'_>| {
        let reply = cx.request(Ask { n: note.n }).timeout(patience).await?;
        write.write(reply);
        // What was asked is not undone by a failure after it.
        if cx.attempt() == 1 {
            Err(plain_error())
        } else {
            Ok(())
        }
    })
    .retry(Retry::none().attempts(2))
    .start()
    .await
    .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    stage.comes(&bus, "replies", || seen.read(), [2, 2]).await?;
    same("asked", asked.get(), 2)?;
    holds(
        "nothing is late",
        bus.snapshot().late_replies == 0,
        bus.snapshot().late_replies,
    )
}
