//! Rule 1: a publish tells the truth.

use super::Stage;
use super::props::{Ask, Count, Effect, Lost, Note, note, poll_once};
use super::unmet::{Step, Unmet, holds, same};
use crate::bus::SubscribeError;
use crate::delivery::Overflow;
use crate::ports::Refusal;
use crate::subscriber::Context;

scenarios! {
    rule_1_a_receipt_counts_the_queues;
    rule_1_a_publish_is_all_or_nothing if local_acceptance;
    rule_1_a_dropped_waiting_publish_publishes_nothing if local_acceptance;
    rule_1_a_waiting_publish_is_accepted_when_there_is_room if local_acceptance;
    rule_1_a_wait_has_a_deadline_and_gives_the_message_back if local_acceptance;
    rule_1_a_command_to_no_queue_is_an_error;
    rule_1_nobody_means_no_queue_not_no_worker;
    rule_1_a_command_queue_has_one_home;
    rule_1_a_stopped_subscriber_gets_nothing;
}

async fn rule_1_a_receipt_counts_the_queues(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    for name in ["a", "b", "c"] {
        let nothing = async |_: &Note, _: &mut Context<'_>| Ok(());
        bus.subscribe_fn::<Note, _>(name, nothing)
            .start()
            .await
            .step("subscribing")?;
    }
    let receipt = bus.publish(note(1)).await.step("publishing")?;
    stage.taken_by(&receipt, 3)?;
    let nobody = bus
        .publish(Effect { n: 1 })
        .await
        .step("publishing to nobody")?;
    stage.taken_by(&nobody, 0)?;
    for name in ["a", "b", "c"] {
        stage
            .books(&bus, name, "acked", |queue| queue.acked, 1)
            .await?;
    }
    Ok(())
}

async fn rule_1_a_publish_is_all_or_nothing(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    // The full one is in the middle: credits were taken before it and would be taken after it.
    for (name, depth) in [("first", 10), ("full", 1), ("last", 10)] {
        let subscriber = bus
            .subscribe_fn::<Note, _>(name, async |_: &Note, _: &mut Context<'_>| Ok(()))
            .mailbox(depth)
            .overflow(Overflow::Fail)
            .start()
            .await
            .step("subscribing")?;
        subscriber.pause();
    }
    let receipt = bus.publish(note(1)).await.step("publishing with room")?;
    same("queues that accepted", receipt.local.accepted, 3)?;
    for _ in 0..20 {
        let refused = bus.publish(note(2)).await.err().step("being refused")?;
        let full = Refusal::Full {
            queue: "full".to_owned(),
        };
        same("the refusal", refused.kind(), &full)?;
        same(
            "the message given back",
            refused.into_message(),
            Some(note(2)),
        )?;
    }
    for name in ["first", "full", "last"] {
        let queue = stage.queue(&bus, name)?;
        same(
            "accepted",
            (name, queue.accepted, queue.queued),
            (name, 1, 1),
        )?;
    }
    Ok(())
}

async fn rule_1_a_dropped_waiting_publish_publishes_nothing(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let mut subscribers = Vec::new();
    for (name, depth) in [("first", 10), ("full", 1), ("last", 10)] {
        let subscriber = bus
            .subscribe_fn::<Note, _>(name, async |_: &Note, _: &mut Context<'_>| Ok(()))
            .mailbox(depth)
            .start()
            .await
            .step("subscribing")?;
        subscriber.pause();
        subscribers.push(subscriber);
    }
    bus.publish(note(1)).await.step("publishing with room")?;
    let mut waiting = bus.publish(note(2));
    holds(
        "a publish without room waits",
        poll_once(&mut waiting).is_pending(),
        "an answer",
    )?;
    drop(waiting);
    for subscriber in &subscribers {
        subscriber.resume().await;
    }
    bus.settle().await;
    for name in ["first", "full", "last"] {
        let queue = stage.queue(&bus, name)?;
        same(
            "accepted",
            (name, queue.accepted, queue.acked),
            (name, 1, 1),
        )?;
    }
    // No credit went with it: each queue still takes as many as before.
    bus.publish(note(3)).await.step("publishing again")?;
    Ok(())
}

async fn rule_1_a_waiting_publish_is_accepted_when_there_is_room(
    stage: &Stage,
) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let mut subscribers = Vec::new();
    for name in ["one", "two"] {
        let subscriber = bus
            .subscribe_fn::<Note, _>(name, async |_: &Note, _: &mut Context<'_>| Ok(()))
            .mailbox(1)
            .start()
            .await
            .step("subscribing")?;
        subscriber.pause();
        subscribers.push(subscriber);
    }
    bus.publish(note(1)).await.step("publishing with room")?;
    let mut waiting = bus.publish(note(2));
    holds(
        "a publish without room waits",
        poll_once(&mut waiting).is_pending(),
        "an answer",
    )?;
    for subscriber in &subscribers {
        subscriber.resume().await;
    }
    let receipt = waiting.await.step("the waiting publish")?;
    same("queues that accepted", receipt.local.accepted, 2)?;
    bus.settle().await;
    for name in ["one", "two"] {
        same("acked", stage.queue(&bus, name)?.acked, 2)?;
    }
    Ok(())
}

async fn rule_1_a_wait_has_a_deadline_and_gives_the_message_back(
    stage: &Stage,
) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let subscriber = bus
        .subscribe_fn::<Note, _>("full", async |_: &Note, _: &mut Context<'_>| Ok(()))
        .mailbox(1)
        .start()
        .await
        .step("subscribing")?;
    subscriber.pause();
    bus.publish(note(1)).await.step("publishing with room")?;
    let mut waiting = bus.publish(note(2)).timeout(stage.steps(3));
    holds(
        "a publish without room waits",
        poll_once(&mut waiting).is_pending(),
        "an answer",
    )?;
    stage.pass(&bus, 3).await;
    let refused = waiting.await.err().step("being refused")?;
    let timeout = Refusal::Timeout {
        queue: "full".to_owned(),
    };
    same("the refusal", refused.kind(), &timeout)?;
    same(
        "the message given back",
        refused.into_message(),
        Some(note(2)),
    )?;
    same("accepted", stage.queue(&bus, "full")?.accepted, 1)
}

async fn rule_1_a_command_to_no_queue_is_an_error(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let refused = bus.send(Lost { n: 7 }).await.err().step("being refused")?;
    let no_queue = Refusal::NoQueue {
        queue: "conformance.nowhere".to_owned(),
    };
    same("the refusal", refused.kind(), &no_queue)?;
    same(
        "the command given back",
        refused.into_message(),
        Some(Lost { n: 7 }),
    )?;
    let refused = bus
        .try_send(Lost { n: 8 })
        .err()
        .step("being refused at once")?;
    same("the refusal at once", refused.kind(), &no_queue)
}

async fn rule_1_nobody_means_no_queue_not_no_worker(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let handled = Count::default();
    let count = handled.clone();
    let subscriber = bus
        .handle_fn::<Ask, _>("ask", async move |ask: &Ask, _: &mut Context<'_>| {
            count.up();
            Ok(ask.n + 1)
        })
        .start()
        .await
        .step("subscribing")?;
    subscriber.pause();
    let receipt = bus
        .send(Ask { n: 1 })
        .await
        .step("sending to a paused queue")?;
    stage.taken_by(&receipt, 1)?;
    subscriber.resume().await;
    stage.comes(&bus, "handled", || handled.get(), 1).await
}

async fn rule_1_a_command_queue_has_one_home(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let answer = async |ask: &Ask, _: &mut Context<'_>| Ok(ask.n);
    bus.handle_fn::<Ask, _>("home", answer)
        .start()
        .await
        .step("subscribing")?;
    let second = bus.handle_fn::<Ask, _>("second", answer).start().await;
    let taken = SubscribeError::CommandTaken {
        queue: "conformance.ask".to_owned(),
        owner: "home".to_owned(),
    };
    same("the second home", second.err(), Some(taken))
}

async fn rule_1_a_stopped_subscriber_gets_nothing(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let handled = Count::default();
    let count = handled.clone();
    let subscriber = bus
        .subscribe_fn::<Note, _>("leaving", async move |_: &Note, _: &mut Context<'_>| {
            count.up();
            Ok(())
        })
        .start()
        .await
        .step("subscribing")?;
    for n in 0..5 {
        bus.publish(note(n)).await.step("publishing")?;
    }
    // What is in hand and queued here is handled first; elsewhere it is kept for the next one.
    if !stage.is_local() {
        stage.comes(&bus, "handled", || handled.get(), 5).await?;
    }
    let report = subscriber.stop(stage.steps(300)).await;
    holds("nothing is abandoned", report.abandoned.is_empty(), &report)?;
    same("handled before the stop", handled.get(), 5)?;
    let receipt = bus.publish(note(6)).await.step("publishing after it")?;
    stage.taken_by(&receipt, 0)?;
    stage.pass(&bus, 1).await;
    same("handled", handled.get(), 5)
}
