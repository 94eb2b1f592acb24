//! Rule 10: the end, and what survives it.

use std::time::Duration;

use super::Stage;
use super::props::{Count, Door, Effect, Journal, Lost, Note, attempts, note, plain_error};
use super::unmet::{Step, Unmet, holds, same};
use crate::bus::Bus;
use crate::ports::{Refusal, RequestError};
use crate::subscriber::Context;

scenarios! {
    rule_10_a_shutdown_drains;
    rule_10_releases_are_accepted_while_it_drains;
    rule_10_what_is_left_is_abandoned_and_named;
    rule_10_a_handler_that_never_ends_is_cut_off;
    rule_10_a_publish_afterwards_is_an_error;
    rule_10_a_waiting_publish_is_refused if local_acceptance;
    what_was_accepted_survives_a_restart if survives_restart;
}

/// A slow and steady one.
async fn draining(bus: &Bus, handled: &Count) -> Result<(), Unmet> {
    let count = handled.clone();
    bus.subscribe_fn::<Note, _>("draining", async move |_: &Note, _: &mut Context<'_>| {
        tokio::task::yield_now().await;
        count.up();
        Ok(())
    })
    .start()
    .await
    .step("subscribing")?;
    Ok(())
}

async fn rule_10_a_shutdown_drains(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let handled = Count::default();
    draining(&bus, &handled).await?;
    for n in 0..200 {
        bus.publish(note(n)).await.step("publishing")?;
    }
    let report = bus.shutdown(Duration::from_secs(10)).await;
    holds("the shutdown is clean", report.clean, &report)?;
    let acked = stage.queue(&bus, "draining")?.acked;
    same("acked", acked, u64::from(handled.get()))?;
    if !stage.is_local() {
        // What was not started has gone back, untouched, to the next one.
        let next = stage.bus().await?;
        draining(&next, &handled).await?;
        stage
            .books(&next, "draining", "left", |queue| queue.acked, 200 - acked)
            .await?;
    }
    same("handled", handled.get(), 200)
}

/// Sends an effect for each note that gets through the door, and writes the effects.
async fn sending(bus: &Bus, door: &Door, seen: &Journal<u32>) -> Result<(), Unmet> {
    let (held, write) = (door.clone(), seen.clone());
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
    bus.subscribe_fn::<Note, _>("sending", async move |note: &Note, cx: &mut Context<'_>| {
        held.enter().await;
        cx.publish(Effect { n: note.n });
        Ok(())
    })
    .start()
    .await
    .step("subscribing")?;
    Ok(())
}

async fn rule_10_releases_are_accepted_while_it_drains(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let (door, seen) = (Door::shut(), Journal::new());
    sending(&bus, &door, &seen).await?;
    for n in 1..=2 {
        bus.publish(note(n)).await.step("publishing")?;
    }
    stage
        .until("it is in the handler", || door.waiting() == 1)
        .await?;
    let ending = tokio::task::spawn_local({
        let bus = bus.clone();
        async move { bus.shutdown(Duration::from_secs(10)).await }
    });
    stage
        .until("publishes are refused", || {
            let refused = bus.try_publish(Effect { n: 9 }).err();
            refused.is_some_and(|refused| *refused.kind() == Refusal::Closed)
        })
        .await?;
    door.open();
    let report = ending.await.step("the shutdown")?;
    holds("the shutdown is clean", report.clean, &report)?;
    let effects = || {
        let mut effects = seen.read();
        effects.retain(|n| *n != 9);
        effects
    };
    if !stage.is_local() {
        // What was released is kept for whoever comes next.
        let next = stage.bus().await?;
        sending(&next, &door, &seen).await?;
        stage.comes(&next, "effects", effects, [1, 2]).await?;
    }
    same("effects", effects(), [1, 2])
}

async fn rule_10_what_is_left_is_abandoned_and_named(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let paused = bus
        .subscribe_fn::<Note, _>("paused", async |_: &Note, _: &mut Context<'_>| Ok(()))
        .start()
        .await
        .step("subscribing")?;
    paused.pause();
    bus.subscribe_fn::<Effect, _>("waiting", async |_: &Effect, _: &mut Context<'_>| {
        Err(plain_error())
    })
    .retry(attempts(2, stage.steps(1000)))
    .start()
    .await
    .step("subscribing")?;
    let mut expected = Vec::new();
    for n in 0..3 {
        let id = bus.publish(note(n)).await.step("publishing")?.id;
        expected.push(("paused".to_owned(), id));
    }
    let id = bus.publish(Effect { n: 1 }).await.step("publishing")?.id;
    expected.push(("waiting".to_owned(), id));
    if !stage.is_local() {
        // What RabbitMQ holds is not lost with this process.
        expected.clear();
    }
    if stage.features().delayed {
        let delayed = bus.publish(note(9)).delay(stage.steps(1000)).await;
        let later = delayed.step("scheduling")?.id;
        let in_memory = !stage.features().schedules_survive;
        if in_memory {
            expected.push(("schedule".to_owned(), later));
        }
    }
    let is_clean = expected.is_empty();
    stage
        .books(&bus, "waiting", "failed", |queue| queue.retried, 1)
        .await?;
    // What is kept elsewhere is not waited for.
    let deadline = match stage.is_local() {
        true => Duration::from_millis(20),
        false => Duration::from_secs(10),
    };
    let report = bus.shutdown(deadline).await;
    if !stage.is_local() {
        let took = report.elapsed;
        holds("what is elsewhere is not waited for", took < deadline, took)?;
    }
    let mut abandoned: Vec<_> = report
        .abandoned
        .iter()
        .map(|left| (left.queue.clone(), left.id))
        .collect();
    abandoned.sort();
    expected.sort();
    same("abandoned", abandoned, expected)?;
    same("the shutdown is clean", report.clean, is_clean)?;
    let (queued, waited) = match stage.is_local() {
        true => (3, 1),
        false => (0, 0),
    };
    let paused = stage.queue(&bus, "paused")?;
    same("counted where it was queued", paused.abandoned, queued)?;
    let waiting = stage.queue(&bus, "waiting")?;
    same("counted where it waited", waiting.abandoned, waited)
}

async fn rule_10_a_handler_that_never_ends_is_cut_off(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let door = Door::shut();
    let held = door.clone();
    bus.subscribe_fn::<Note, _>("hanging", async move |_: &Note, _: &mut Context<'_>| {
        held.enter().await;
        Ok(())
    })
    .no_timeout()
    .start()
    .await
    .step("subscribing")?;
    let id = bus.publish(note(1)).await.step("publishing")?.id;
    stage
        .until("it is in the handler", || door.waiting() == 1)
        .await?;
    let deadline = Duration::from_millis(50);
    let shutdown = bus.shutdown(deadline);
    let report = tokio::time::timeout(stage.patience(), shutdown).await;
    let report = report.step("ending without the handler")?;
    // The contract says 1 s; a busy machine is given some more.
    let took = report.elapsed;
    let in_time = took < deadline + Duration::from_secs(5);
    holds("it ends not long after its deadline", in_time, took)?;
    same("cut off", &report.timed_out, &["hanging".to_owned()])?;
    let ids: Vec<_> = report.abandoned.iter().map(|left| left.id).collect();
    let queue = stage.queue(&bus, "hanging")?;
    let ends = (queue.acked, queue.abandoned, queue.returned);
    if stage.is_local() {
        same("abandoned", ids, [id])?;
        return same("acked, abandoned, returned", ends, (0, 1, 0));
    }
    // It has gone back, untouched.
    same("abandoned", ids, [])?;
    same("acked, abandoned, returned", ends, (0, 0, 1))?;
    let next = stage.bus().await?;
    let seen = Journal::new();
    let write = seen.clone();
    next.subscribe_fn::<Note, _>("hanging", async move |_: &Note, cx: &mut Context<'_>| {
        write.write((cx.id(), cx.attempt()));
        Ok(())
    })
    .no_timeout()
    .start()
    .await
    .step("subscribing again")?;
    stage
        .comes(&next, "id and attempt", || seen.read(), [(id, 1)])
        .await
}

async fn rule_10_a_publish_afterwards_is_an_error(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    bus.shutdown(Duration::from_secs(1)).await;
    let refused = bus.publish(note(1)).await.err().step("being refused")?;
    same("a publish", refused.kind(), &Refusal::Closed)?;
    same(
        "the message given back",
        refused.into_message(),
        Some(note(1)),
    )?;
    if stage.features().delayed {
        let delayed = bus.publish(note(1)).delay(stage.steps(1)).await;
        let refused = delayed.err().step("being refused")?;
        same("a delayed publish", refused.kind(), &Refusal::Closed)?;
    }
    let refused = bus.send(Lost { n: 1 }).await.err().step("being refused")?;
    same("a command", refused.kind(), &Refusal::Closed)?;
    let reply = bus.request(Lost { n: 1 }).await;
    same(
        "a request",
        reply,
        Err(RequestError::Refused(Refusal::Closed)),
    )?;
    let nothing = async |_: &Note, _: &mut Context<'_>| Ok(());
    let subscribed = bus.subscribe_fn::<Note, _>("late", nothing).start().await;
    holds(
        "a subscription is refused",
        subscribed.is_err(),
        "it started",
    )
}

async fn rule_10_a_waiting_publish_is_refused(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let full = bus
        .subscribe_fn::<Note, _>("full", async |_: &Note, _: &mut Context<'_>| Ok(()))
        .mailbox(1)
        .start()
        .await
        .step("subscribing")?;
    full.pause();
    bus.publish(note(1)).await.step("publishing with room")?;
    let mut waiting = bus.publish(note(2));
    let answer = super::props::poll_once(&mut waiting);
    holds(
        "a publish without room waits",
        answer.is_pending(),
        "an answer",
    )?;
    bus.shutdown(Duration::from_millis(20)).await;
    let refused = waiting.await.err().step("being refused")?;
    same("the refusal", refused.kind(), &Refusal::Closed)?;
    same(
        "the message given back",
        refused.into_message(),
        Some(note(2)),
    )
}

async fn what_was_accepted_survives_a_restart(stage: &Stage) -> Result<(), Unmet> {
    let handled = Count::default();
    for run in 0..2 {
        let bus = stage.bus().await?;
        let count = handled.clone();
        let subscriber = bus
            .subscribe_fn::<Note, _>("kept", async move |_: &Note, _: &mut Context<'_>| {
                count.up();
                Ok(())
            })
            .start()
            .await
            .step("subscribing")?;
        if run == 0 {
            subscriber.pause();
            for n in 0..3 {
                bus.publish(note(n)).await.step("publishing")?;
            }
            let deadline = Duration::from_secs(10);
            let report = bus.shutdown(deadline).await;
            let took = report.elapsed;
            holds("what is kept is not waited for", took < deadline, took)?;
            same("handled before the restart", handled.get(), 0)?;
            holds("nothing is abandoned", report.abandoned.is_empty(), &report)?;
        } else {
            let count = || handled.get();
            stage.comes(&bus, "handled after it", count, 3).await?;
        }
    }
    Ok(())
}
