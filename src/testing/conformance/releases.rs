//! Rule 9: what a handler sends.

use super::Stage;
use super::props::{Count, Effect, Journal, Lost, Note, attempts, note, plain_error};
use super::unmet::{Step, Unmet, same};
use crate::bus::Bus;
use crate::delivery::{Overflow, Reason};
use crate::message::MessageId;
use crate::observe::QueueSnapshot;
use crate::subscriber::Context;

scenarios! {
    rule_9_sends_are_released_in_order;
    rule_9_a_failed_attempt_sends_nothing;
    rule_9_sends_wait_for_the_handlers_end;
    rule_9_correlation_and_causation_are_filled_in;
    rule_9_a_continuation_into_its_own_full_queue_does_not_deadlock;
    rule_9_a_full_target_is_waited_for if local_acceptance;
    rule_9_an_impossible_release_fails_the_attempt;
}

/// Writes the numbers of all effects.
async fn effects(bus: &Bus) -> Result<Journal<u32>, Unmet> {
    let journal = Journal::new();
    let write = journal.clone();
    bus.subscribe_fn::<Effect, _>(
        "effects",
        async move |effect: &Effect, _: &mut Context<'_>| {
            write.write(effect.n);
            Ok(())
        },
    )
    .start()
    .await
    .step("subscribing to effects")?;
    Ok(journal)
}

async fn rule_9_sends_are_released_in_order(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let seen = effects(&bus).await?;
    bus.subscribe_fn::<Note, _>("sending", async |note: &Note, cx: &mut Context<'_>| {
        for n in 0..3 {
            cx.publish(Effect { n: note.n + n });
        }
        Ok(())
    })
    .start()
    .await
    .step("subscribing")?;
    for n in [10, 20, 30] {
        bus.publish(note(n)).await.step("publishing")?;
    }
    let effects = [10, 11, 12, 20, 21, 22, 30, 31, 32];
    stage.comes(&bus, "effects", || seen.read(), effects).await
}

async fn rule_9_a_failed_attempt_sends_nothing(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let seen = effects(&bus).await?;
    bus.subscribe_fn::<Note, _>("sending", async |_: &Note, cx: &mut Context<'_>| {
        cx.publish(Effect { n: cx.attempt() });
        match cx.attempt() {
            1 => Err(plain_error()),
            2 => panic!("on purpose"),
            3 => std::future::pending().await,
            _ => Ok(()),
        }
    })
    .retry(attempts(4, stage.steps(1)).immediate(1))
    .timeout(stage.steps(1))
    .start()
    .await
    .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    stage
        .books_after(&bus, 20, "sending", "acked", |queue| queue.acked, 1)
        .await?;
    // What a failed attempt has sent would come before this.
    bus.publish(Effect { n: 9 }).await.step("publishing")?;
    stage
        .comes(&bus, "effects", || seen.read().last().copied(), Some(9))
        .await?;
    same("effects", seen.read(), [4, 9])
}

async fn rule_9_sends_wait_for_the_handlers_end(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let seen = effects(&bus).await?;
    let door = super::props::Door::shut();
    let held = door.clone();
    bus.subscribe_fn::<Note, _>("sending", async move |note: &Note, cx: &mut Context<'_>| {
        cx.publish(Effect { n: note.n });
        held.enter().await;
        Ok(())
    })
    .start()
    .await
    .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    stage
        .until("it is in the handler", || door.waiting() == 1)
        .await?;
    // What was sent before this would come before it.
    bus.publish(Effect { n: 9 }).await.step("publishing")?;
    stage
        .until("another effect comes", || seen.read().contains(&9))
        .await?;
    same("effects before its end", seen.read(), [9])?;
    door.open();
    stage.comes(&bus, "effects", || seen.read(), [9, 1]).await
}

async fn rule_9_correlation_and_causation_are_filled_in(stage: &Stage) -> Result<(), Unmet> {
    type Traces = Journal<(String, Option<MessageId>, Option<String>)>;
    let bus = stage.bus().await?;
    let traces: Traces = Journal::new();
    let write = traces.clone();
    bus.subscribe_fn::<Effect, _>("effects", async move |_: &Effect, cx: &mut Context<'_>| {
        let envelope = cx.envelope();
        let parent = envelope.traceparent().map(ToOwned::to_owned);
        write.write((envelope.correlation_id(), envelope.causation_id(), parent));
        Ok(())
    })
    .start()
    .await
    .step("subscribing to effects")?;
    bus.subscribe_fn::<Note, _>("sending", async |note: &Note, cx: &mut Context<'_>| {
        cx.publish(Effect { n: note.n });
        Ok(())
    })
    .start()
    .await
    .step("subscribing")?;
    let own = bus.publish(note(1)).await.step("publishing")?.id;
    stage.comes(&bus, "effects", || traces.len(), 1).await?;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let named = bus
        .publish(note(2))
        .correlation("order-7")
        .traceparent(parent)
        .await
        .step("publishing with a correlation")?
        .id;
    let expected = [
        (own.to_string(), Some(own), None),
        ("order-7".to_owned(), Some(named), Some(parent.to_owned())),
    ];
    let what = "correlation, causation and trace";
    stage.comes(&bus, what, || traces.read(), expected).await
}

async fn rule_9_a_continuation_into_its_own_full_queue_does_not_deadlock(
    stage: &Stage,
) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let seen = Journal::new();
    let write = seen.clone();
    bus.subscribe_fn::<Note, _>("self", async move |note: &Note, cx: &mut Context<'_>| {
        write.write(note.n);
        if note.n < 50 {
            cx.publish(super::props::note(note.n + 1));
        }
        Ok(())
    })
    .mailbox(1)
    .start()
    .await
    .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    let all: Vec<u32> = (1..=50).collect();
    stage.comes(&bus, "handled", || seen.read(), all).await?;
    // Its one place is free again.
    bus.publish(note(50))
        .timeout(stage.steps(100))
        .await
        .step("publishing again")?;
    stage
        .books(&bus, "self", "acked", |queue| queue.acked, 51)
        .await
}

async fn rule_9_a_full_target_is_waited_for(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage
        .bus_with(|bus| bus.release_timeout(stage.steps(1000)))
        .await?;
    let starts = Count::default();
    let count = starts.clone();
    let target = bus
        .subscribe_fn::<Effect, _>("target", async |_: &Effect, _: &mut Context<'_>| Ok(()))
        .mailbox(1)
        .start()
        .await
        .step("subscribing to effects")?;
    target.pause();
    bus.publish(Effect { n: 0 })
        .await
        .step("filling the target")?;
    bus.subscribe_fn::<Note, _>("sending", async move |note: &Note, cx: &mut Context<'_>| {
        count.up();
        cx.publish(Effect { n: note.n });
        Ok(())
    })
    .start()
    .await
    .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    stage.pass(&bus, 5).await;
    let queue = stage.queue(&bus, "sending")?;
    same("in hand, acked", (queue.in_flight, queue.acked), (1, 0))?;
    target.resume().await;
    bus.settle().await;
    same("effects handled", stage.queue(&bus, "target")?.acked, 2)?;
    same("acked", stage.queue(&bus, "sending")?.acked, 1)?;
    same("starts of the handler", starts.get(), 1)
}

async fn rule_9_an_impossible_release_fails_the_attempt(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage
        .bus_with(|bus| bus.release_timeout(stage.steps(1) / 5))
        .await?;
    let starts = Count::default();
    let count = starts.clone();
    let full = bus
        .subscribe_fn::<Effect, _>("full", async |_: &Effect, _: &mut Context<'_>| Ok(()))
        .mailbox(1)
        .overflow(Overflow::Fail)
        .start()
        .await
        .step("subscribing to effects")?;
    full.pause();
    // A target that cannot be full is not in the way of a release.
    let cases = if stage.is_local() { 2 } else { 1 };
    bus.publish(Effect { n: 0 })
        .await
        .step("filling the target")?;
    bus.subscribe_fn::<Note, _>("sending", async move |note: &Note, cx: &mut Context<'_>| {
        count.up();
        match note.n {
            1 => drop(cx.send(Lost { n: note.n })),
            _ => drop(cx.publish(Effect { n: note.n })),
        }
        Ok(())
    })
    .retry(attempts(2, stage.steps(1)))
    .start()
    .await
    .step("subscribing")?;
    let dead = |queue: &QueueSnapshot| queue.dead_lettered;
    for n in 1..=cases {
        bus.publish(note(n)).await.step("publishing")?;
        stage
            .books_after(&bus, 30, "sending", "dead-lettered", dead, n.into())
            .await?;
        same("starts", starts.get(), 2 * n)?;
    }
    let letters = stage.letters(&bus).await?;
    same("dead letters", letters.len(), cases as usize)?;
    for letter in &letters {
        same("its reason", letter.reason, Reason::ReleaseFailed)?;
        same("its attempts", letter.attempts, 2)?;
    }
    let accepted = |queue: &QueueSnapshot| queue.accepted;
    stage
        .books(&bus, "full", "nothing was sent: accepted", accepted, 1)
        .await
}
