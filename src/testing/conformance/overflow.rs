//! Rule 2: no buffer is unbounded.

use super::Stage;
use super::props::{Count, Door, Journal, Note, attempts, note, plain_error, poll_once};
use super::unmet::{Step, Unmet, holds, same};
use crate::bus::{Bus, Subscription};
use crate::delivery::Overflow;
use crate::observe::QueueSnapshot;
use crate::ports::Refusal;
use crate::subscriber::Context;

scenarios! {
    rule_2_overflow_wait_holds_the_publisher if local_acceptance;
    rule_2_overflow_fail_refuses_at_once if local_acceptance;
    rule_2_overflow_drop_newest_is_counted if drop_policies, local_receipts;
    rule_2_overflow_drop_oldest_is_counted if drop_policies, local_receipts;
    rule_2_a_drop_in_one_queue_leaves_the_others if drop_policies, local_receipts, local_acceptance;
    rule_2_a_credit_is_held_until_settlement;
    rule_2_waiting_retries_hold_at_most_half;
}

/// A paused subscriber with three places, that writes what it handles.
async fn paused(
    bus: &Bus,
    name: &str,
    overflow: Overflow,
) -> Result<(Subscription, Journal<u32>), Unmet> {
    let journal = Journal::new();
    let write = journal.clone();
    let subscriber = bus
        .subscribe_fn::<Note, _>(name, async move |note: &Note, _: &mut Context<'_>| {
            write.write(note.n);
            Ok(())
        })
        .mailbox(3)
        .overflow(overflow)
        .start()
        .await
        .step("subscribing")?;
    subscriber.pause();
    Ok((subscriber, journal))
}

async fn rule_2_overflow_wait_holds_the_publisher(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let (subscriber, journal) = paused(&bus, "full", Overflow::Wait).await?;
    for n in 1..=3 {
        bus.publish(note(n)).await.step("publishing with room")?;
    }
    let mut fourth = bus.publish(note(4));
    let mut fifth = bus.publish(note(5));
    holds(
        "the fourth waits",
        poll_once(&mut fourth).is_pending(),
        "an answer",
    )?;
    holds(
        "the fifth waits",
        poll_once(&mut fifth).is_pending(),
        "an answer",
    )?;
    let refused = bus
        .try_publish(note(6))
        .err()
        .step("being refused at once")?;
    let full = Refusal::Full {
        queue: "full".to_owned(),
    };
    same("who does not wait is refused", refused.kind(), &full)?;
    same("accepted", stage.queue(&bus, "full")?.accepted, 3)?;
    subscriber.resume().await;
    fourth.await.step("the fourth")?;
    fifth.await.step("the fifth")?;
    bus.settle().await;
    same("handled", journal.read(), [1, 2, 3, 4, 5])
}

async fn rule_2_overflow_fail_refuses_at_once(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let (subscriber, journal) = paused(&bus, "full", Overflow::Fail).await?;
    for n in 1..=3 {
        bus.publish(note(n)).await.step("publishing with room")?;
    }
    let refused = bus.publish(note(4)).await.err().step("being refused")?;
    let full = Refusal::Full {
        queue: "full".to_owned(),
    };
    same("the refusal", refused.kind(), &full)?;
    same(
        "the message given back",
        refused.into_message(),
        Some(note(4)),
    )?;
    subscriber.resume().await;
    bus.settle().await;
    same("handled", journal.read(), [1, 2, 3])
}

async fn rule_2_overflow_drop_newest_is_counted(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let (subscriber, journal) = paused(&bus, "full", Overflow::DropNewest).await?;
    for n in 1..=3 {
        bus.publish(note(n)).await.step("publishing with room")?;
    }
    for n in 4..=5 {
        let receipt = bus.publish(note(n)).await.step("publishing without room")?;
        same(
            "the receipt",
            (receipt.local.accepted, receipt.local.dropped),
            (0, 1),
        )?;
    }
    same("dropped", stage.queue(&bus, "full")?.dropped, 2)?;
    subscriber.resume().await;
    bus.settle().await;
    same("handled", journal.read(), [1, 2, 3])
}

async fn rule_2_overflow_drop_oldest_is_counted(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let (subscriber, journal) = paused(&bus, "full", Overflow::DropOldest).await?;
    for n in 1..=3 {
        bus.publish(note(n)).await.step("publishing with room")?;
    }
    for n in 4..=5 {
        let receipt = bus.publish(note(n)).await.step("publishing without room")?;
        same(
            "the receipt",
            (receipt.local.accepted, receipt.local.dropped),
            (1, 1),
        )?;
    }
    same("dropped", stage.queue(&bus, "full")?.dropped, 2)?;
    subscriber.resume().await;
    bus.settle().await;
    same("handled", journal.read(), [3, 4, 5])
}

async fn rule_2_a_drop_in_one_queue_leaves_the_others(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let (_newest, _) = paused(&bus, "newest", Overflow::DropNewest).await?;
    let (_oldest, _) = paused(&bus, "oldest", Overflow::DropOldest).await?;
    let (roomy, handled) = paused(&bus, "roomy", Overflow::Wait).await?;
    for n in 1..=3 {
        bus.publish(note(n)).await.step("publishing with room")?;
    }
    roomy.resume().await;
    bus.settle().await;
    let receipt = bus.publish(note(4)).await.step("publishing")?;
    same(
        "the receipt",
        (receipt.local.accepted, receipt.local.dropped),
        (2, 2),
    )?;
    bus.settle().await;
    same("handled by the one with room", handled.read(), [1, 2, 3, 4])?;
    // Where the publish is refused by another queue, nothing may have been dropped for it.
    roomy.pause();
    for _ in 0..2 {
        bus.publish(note(5)).await.step("filling")?;
    }
    let before = stage.queue(&bus, "oldest")?.dropped;
    bus.publish(note(6)).await.step("filling")?;
    same(
        "dropped meanwhile",
        stage.queue(&bus, "oldest")?.dropped,
        before + 1,
    )?;
    let refused = bus.try_publish(note(7)).err().step("being refused")?;
    same(
        "the refusal",
        refused.kind(),
        &Refusal::Full {
            queue: "roomy".to_owned(),
        },
    )?;
    same(
        "dropped by a refused publish",
        stage.queue(&bus, "oldest")?.dropped,
        before + 1,
    )
}

/// Where the queue is elsewhere, the credits bound what is handed over.
async fn handed_over_up_to_the_bound(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let door = Door::shut();
    let held = door.clone();
    bus.subscribe_fn::<Note, _>("full", async move |_: &Note, _: &mut Context<'_>| {
        held.enter().await;
        Ok(())
    })
    .mailbox(5)
    .start()
    .await
    .step("subscribing")?;
    for n in 1..=12 {
        bus.publish(note(n)).await.step("publishing")?;
    }
    let read = |queue: &QueueSnapshot| queue.in_flight + queue.queued;
    stage
        .books(&bus, "full", "in this process", read, 5)
        .await?;
    stage.pass(&bus, 2).await;
    stage
        .books(&bus, "full", "in this process", read, 5)
        .await?;
    door.open();
    stage
        .books(&bus, "full", "acked in the end", |queue| queue.acked, 12)
        .await
}

async fn rule_2_a_credit_is_held_until_settlement(stage: &Stage) -> Result<(), Unmet> {
    if !stage.is_local() {
        return handed_over_up_to_the_bound(stage).await;
    }
    let bus = stage.bus().await?;
    let door = Door::shut();
    let held = door.clone();
    bus.subscribe_fn::<Note, _>("full", async move |note: &Note, cx: &mut Context<'_>| {
        if note.n == 1 && cx.attempt() == 1 {
            return Err(plain_error());
        }
        held.enter().await;
        Ok(())
    })
    .retry(attempts(2, stage.steps(30)))
    .mailbox(5)
    .start()
    .await
    .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    bus.settle().await;
    for n in 2..=5 {
        bus.publish(note(n)).await.step("publishing with room")?;
    }
    stage
        .until("the second is in hand", || door.waiting() == 1)
        .await?;
    let queue = stage.queue(&bus, "full")?;
    same("waiting for its retry", queue.waiting, 1)?;
    same("in flight or queued", queue.in_flight + queue.queued, 4)?;
    holds(
        "there is no room left",
        bus.try_publish(note(6)).is_err(),
        "room",
    )?;
    door.open();
    bus.settle().await;
    same("acked", stage.queue(&bus, "full")?.acked, 4)?;
    // The one that waits still has its place.
    for n in 7..=10 {
        bus.publish(note(n)).await.step("publishing with room")?;
    }
    let acked = |queue: &QueueSnapshot| queue.acked;
    stage
        .books_after(&bus, 30, "full", "acked in the end", acked, 9)
        .await
}

/// Where the queue is elsewhere, a copy that waits there holds no credit here.
async fn waiting_elsewhere_holds_no_credit(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    bus.subscribe_fn::<Note, _>("failing", async |_: &Note, _: &mut Context<'_>| {
        Err(plain_error())
    })
    .retry(attempts(2, stage.steps(1000)))
    .mailbox(8)
    .start()
    .await
    .step("subscribing")?;
    for n in 0..20 {
        bus.publish(note(n)).await.step("publishing")?;
    }
    // All of them before the first wait is over, which is far beyond what is waited for.
    let read = |queue: &QueueSnapshot| (queue.retried, queue.waiting);
    let what = "failed, waiting here";
    stage.books(&bus, "failing", what, read, (20, 0)).await
}

async fn rule_2_waiting_retries_hold_at_most_half(stage: &Stage) -> Result<(), Unmet> {
    if !stage.is_local() {
        return waiting_elsewhere_holds_no_credit(stage).await;
    }
    let bus = stage.bus().await?;
    let starts = Count::default();
    let count = starts.clone();
    bus.subscribe_fn::<Note, _>("failing", async move |_: &Note, cx: &mut Context<'_>| {
        count.up();
        if cx.attempt() == 1 {
            return Err(plain_error());
        }
        Ok(())
    })
    .retry(attempts(2, stage.steps(30)))
    .mailbox(8)
    .start()
    .await
    .step("subscribing")?;
    for n in 0..8 {
        bus.publish(note(n)).await.step("publishing with room")?;
    }
    bus.settle().await;
    let queue = stage.queue(&bus, "failing")?;
    same("waiting, of 8 credits", queue.waiting, 4)?;
    same("starts", starts.get(), 4)?;
    same("stalls counted", queue.stalls, 1)?;
    let acked = |queue: &QueueSnapshot| (queue.acked, queue.waiting);
    stage
        .books_after(
            &bus,
            100,
            "failing",
            "acked, waiting in the end",
            acked,
            (8, 0),
        )
        .await?;
    same("starts in the end", starts.get(), 16)
}
