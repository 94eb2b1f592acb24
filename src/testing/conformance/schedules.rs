//! Expiry, delays and pauses.

use std::time::{Duration, Instant, SystemTime};

use super::Stage;
use super::props::{Ask, Count, Door, Journal, Note, attempts, never_early, note, plain_error};
use super::unmet::{Step, Unmet, holds, same};
use crate::bus::Bus;
use crate::message::Event;
use crate::observe::QueueSnapshot;
use crate::ports::{Refusal, RequestError, ScheduledMessage};
use crate::queue::SubscriptionState;
use crate::subscriber::Context;

scenarios! {
    an_expired_message_is_not_handed_over if expiry;
    expiry_runs_on_while_a_retry_waits if expiry;
    a_request_to_a_paused_queue_times_out;
    a_delayed_message_comes_when_it_is_due if delayed;
    a_cancelled_message_never_comes if delayed;
    a_message_for_the_past_comes_at_once if delayed;
    a_due_message_waits_for_room if delayed;
    a_delayed_send_of_a_handler_counts_from_its_release if delayed;
    the_schedule_is_bounded if schedule_bound, delayed;
    a_delayed_message_survives_a_restart if schedules_survive, delayed;
    a_pause_spends_no_attempts;
}

/// A subscriber that writes what it handles.
macro_rules! writing {
    ($bus:ident, $done:ident) => {{
        let write = $done.clone();
        $bus.subscribe_fn::<Note, _>("writing", async move |note: &Note, _: &mut Context<'_>| {
            write.write(note.n);
            Ok(())
        })
    }};
}

async fn an_expired_message_is_not_handed_over(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let done = Journal::new();
    let subscriber = writing!(bus, done).start().await.step("subscribing")?;
    subscriber.pause();
    bus.publish(note(1))
        .expires_in(stage.steps(5))
        .await
        .step("publishing")?;
    bus.publish(note(2))
        .expires_in(stage.steps(500))
        .await
        .step("publishing")?;
    bus.publish(note(3)).await.step("publishing")?;
    stage.pass(&bus, 6).await;
    subscriber.resume().await;
    let ends = |queue: &QueueSnapshot| (queue.expired, queue.acked, queue.dead_lettered);
    let what = "expired, acked, dead-lettered";
    stage.books(&bus, "writing", what, ends, (1, 2, 0)).await?;
    same("handled", done.read(), [2, 3])
}

async fn expiry_runs_on_while_a_retry_waits(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let starts = Count::default();
    let count = starts.clone();
    bus.subscribe_fn::<Note, _>("failing", async move |_: &Note, _: &mut Context<'_>| {
        count.up();
        Err(plain_error())
    })
    .retry(attempts(9, stage.steps(16)))
    .start()
    .await
    .step("subscribing")?;
    bus.publish(note(1))
        .expires_in(stage.steps(40))
        .await
        .step("publishing")?;
    let ends = |queue: &QueueSnapshot| (queue.expired, queue.dead_lettered);
    let what = "expired, dead-lettered";
    stage
        .books_after(&bus, 100, "failing", what, ends, (1, 0))
        .await?;
    // At 0, 16 and 32 of 40; where a wait may be longer, not at all of them.
    let expected = match stage.features().exact_time {
        true => 3..=3,
        false => 1..=3,
    };
    holds("starts", expected.contains(&starts.get()), starts.get())
}

async fn a_request_to_a_paused_queue_times_out(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let subscriber = bus
        .handle_fn::<Ask, _>("ask", async |ask: &Ask, _: &mut Context<'_>| Ok(ask.n))
        .start()
        .await
        .step("subscribing")?;
    subscriber.pause();
    let asking = tokio::task::spawn_local({
        let (bus, patience) = (bus.clone(), stage.steps(20));
        async move { bus.request(Ask { n: 1 }).timeout(patience).await }
    });
    let queued = || {
        bus.snapshot()
            .queue("ask")
            .is_some_and(|ask| ask.queued == 1)
    };
    stage.until("it is queued", queued).await?;
    tokio::task::yield_now().await;
    stage.pass(&bus, 21).await;
    let queue = "conformance.ask".to_owned();
    let reply = asking.await.step("the request")?;
    same("the reply", reply, Err(RequestError::Timeout { queue }))?;
    subscriber.resume().await;
    stage
        .books(&bus, "ask", "acked", |queue| queue.acked, 1)
        .await
}

async fn a_delayed_message_comes_when_it_is_due(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let (done, times) = (Journal::new(), Journal::new());
    let (write, write_time) = (done.clone(), times.clone());
    bus.subscribe_fn::<Note, _>("writing", async move |note: &Note, _: &mut Context<'_>| {
        write_time.write(Instant::now());
        write.write(note.n);
        Ok(())
    })
    .start()
    .await
    .step("subscribing")?;
    // Far off, so that they are still there however late they are looked at.
    let mut far_off = Vec::new();
    for (n, delay) in [(3, 3000), (1, 1000), (2, 2000)] {
        let delayed = bus.publish(note(n)).delay(stage.steps(delay)).await;
        let receipt = delayed.step("scheduling")?;
        stage.taken_by(&receipt, 0)?;
        far_off.push(receipt.schedule.step("getting its handle")?);
    }
    same("scheduled", scheduled(&bus).await?, [1, 2, 3])?;
    for handle in far_off {
        same("cancelling", handle.cancel().await, Ok(true))?;
    }
    let begun = Instant::now();
    for (n, delay) in [(3, 60), (1, 12), (2, 24)] {
        let delayed = bus.publish(note(n)).delay(stage.steps(delay)).await;
        delayed.step("scheduling")?;
    }
    if !stage.is_in_real_time() {
        stage.pass(&bus, 11).await;
        same("handled before the first is due", done.len(), 0)?;
    }
    let what = "handled after two are";
    let first_two = || stage.first(done.read(), 2);
    stage.comes_after(&bus, 15, what, first_two, [1, 2]).await?;
    let handled = || done.read();
    let what = "handled in the end";
    stage
        .comes_after(&bus, 36, what, handled, [1, 2, 3])
        .await?;
    if stage.is_in_real_time() {
        for (at, due) in times.read().into_iter().zip([12, 24, 60]) {
            let waited = at.duration_since(begun) + stage.rounded();
            holds("none came early", waited >= stage.steps(due), waited)?;
        }
    }
    same("scheduled in the end", scheduled(&bus).await?, [0; 0])
}

/// What waits for its time, in its order.
async fn scheduled(bus: &Bus) -> Result<Vec<u32>, Unmet> {
    let waiting = bus.schedules().list(Some(Note::TOPIC), 10).await;
    let waiting = waiting.step("listing what is scheduled")?;
    let count = bus.schedules().len().await.step("counting it")?;
    same("how many are scheduled", count, waiting.len())?;
    let number = |waiting: &ScheduledMessage| {
        let body = waiting.json().step("reading a body")?;
        let note: Note = serde_json::from_slice(body).step("decoding it")?;
        Ok(note.n)
    };
    waiting.iter().map(number).collect()
}

async fn a_cancelled_message_never_comes(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let done = Journal::new();
    writing!(bus, done).start().await.step("subscribing")?;
    let mut handles = Vec::new();
    // The first one would come before the second.
    for n in 1..=2 {
        let delayed = bus.publish(note(n)).delay(stage.steps(50)).await;
        handles.push(
            delayed
                .step("scheduling")?
                .schedule
                .step("getting its handle")?,
        );
    }
    same("cancelling in time", handles[0].cancel().await, Ok(true))?;
    same("cancelling again", handles[0].cancel().await, Ok(false))?;
    stage
        .comes_after(&bus, 55, "handled", || done.read(), [2])
        .await?;
    same("cancelling too late", handles[1].cancel().await, Ok(false))?;
    stage.pass(&bus, 1).await;
    same("accepted", stage.queue(&bus, "writing")?.accepted, 1)
}

async fn a_message_for_the_past_comes_at_once(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let done = Journal::new();
    writing!(bus, done).start().await.step("subscribing")?;
    bus.publish(note(1))
        .at(SystemTime::UNIX_EPOCH)
        .await
        .step("scheduling")?;
    bus.publish(note(2))
        .delay(Duration::ZERO)
        .await
        .step("scheduling")?;
    stage.until("both came", || done.len() == 2).await
}

async fn a_due_message_waits_for_room(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let done = Journal::new();
    let subscriber = writing!(bus, done)
        .mailbox(1)
        .start()
        .await
        .step("subscribing")?;
    subscriber.pause();
    bus.publish(note(1)).await.step("publishing")?;
    bus.publish(note(2))
        .delay(stage.steps(1))
        .await
        .step("scheduling")?;
    stage.pass(&bus, 5).await;
    subscriber.resume().await;
    stage
        .comes_after(&bus, 5, "handled", || done.read(), [1, 2])
        .await
}

async fn a_delayed_send_of_a_handler_counts_from_its_release(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let (done, times) = (Journal::new(), Journal::new());
    let (write, write_time) = (done.clone(), times.clone());
    let delay = stage.steps(15);
    bus.subscribe_fn::<Note, _>("again", async move |note: &Note, cx: &mut Context<'_>| {
        write_time.write(Instant::now());
        write.write(note.n);
        if note.n < 3 {
            cx.publish(super::props::note(note.n + 1)).delay(delay);
        }
        Ok(())
    })
    .mailbox(1)
    .start()
    .await
    .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    let handled = || done.read();
    if stage.features().exact_time {
        stage.comes(&bus, "handled", handled, [1]).await?;
        stage.pass(&bus, 14).await;
        same("handled before its time", done.read(), [1])?;
        let what = "handled after it";
        stage.comes_after(&bus, 2, what, handled, [1, 2]).await?;
    }
    let what = "handled in the end";
    stage
        .comes_after(&bus, 30, what, handled, [1, 2, 3])
        .await?;
    match stage.features().exact_time {
        true => Ok(()),
        false => never_early(&times.read(), &[delay, delay]),
    }
}

async fn the_schedule_is_bounded(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus_with(|bus| bus.schedule_capacity(2)).await?;
    // None is due before the end.
    let far_off = stage.steps(1000);
    let mut handles = Vec::new();
    for n in 1..=2 {
        let delayed = bus.publish(note(n)).delay(far_off).await;
        handles.push(
            delayed
                .step("scheduling")?
                .schedule
                .step("getting its handle")?,
        );
    }
    let refused = bus.publish(note(3)).delay(far_off).await.err();
    let refused = refused.step("being refused")?;
    same(
        "the refusal",
        refused.kind(),
        &Refusal::ScheduleFull { capacity: 2 },
    )?;
    same(
        "the message given back",
        refused.into_message(),
        Some(note(3)),
    )?;
    same("cancelling", handles[0].cancel().await, Ok(true))?;
    let delayed = bus.publish(note(3)).delay(far_off).await;
    let third = delayed.step("scheduling in its place")?;
    let third = third.schedule.step("getting its handle")?;
    for handle in [&handles[1], &third] {
        same("cancelling", handle.cancel().await, Ok(true))?;
    }
    same("scheduled in the end", bus.snapshot().scheduled, 0)
}

async fn a_delayed_message_survives_a_restart(stage: &Stage) -> Result<(), Unmet> {
    let done = Journal::new();
    let bus = stage.bus().await?;
    writing!(bus, done).start().await.step("subscribing")?;
    for n in 1..=2 {
        // Long enough for a restart before the first is due.
        let delay = stage.steps(40 + 10 * n);
        bus.publish(note(n)).delay(delay).await.step("scheduling")?;
    }
    let deadline = Duration::from_secs(10);
    let report = bus.shutdown(deadline).await;
    let took = report.elapsed;
    holds("what is kept is not waited for", took < deadline, took)?;
    holds("nothing is abandoned", report.abandoned.is_empty(), &report)?;
    let bus = stage.bus().await?;
    same("scheduled", scheduled(&bus).await?, [1, 2])?;
    writing!(bus, done).start().await.step("subscribing")?;
    let handled = || done.read();
    stage
        .comes_after(&bus, 60, "handled", handled, [1, 2])
        .await
}

async fn a_pause_spends_no_attempts(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let door = Door::shut();
    let (held, seen) = (door.clone(), Journal::new());
    let write = seen.clone();
    let subscriber = bus
        .subscribe_fn::<Note, _>("pausing", async move |_: &Note, cx: &mut Context<'_>| {
            write.write(cx.attempt());
            held.enter().await;
            Err(plain_error())
        })
        .retry(attempts(3, stage.steps(5)))
        .start()
        .await
        .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    stage
        .until("it is in the handler", || door.waiting() == 1)
        .await?;
    // Before it fails, so that its wait cannot be over before the pause.
    subscriber.pause();
    same("the state", subscriber.state(), SubscriptionState::Paused)?;
    door.open();
    // It is back, and not handed out.
    let back = |queue: &QueueSnapshot| (queue.retried, queue.queued, queue.in_flight);
    let what = "failed, queued, in flight";
    stage
        .books_after(&bus, 10, "pausing", what, back, (1, 1, 0))
        .await?;
    stage.pass(&bus, 2).await;
    same("attempts during the pause", seen.read(), [1])?;
    subscriber.resume().await;
    let what = "attempts after it";
    let first_two = || stage.first(seen.read(), 2);
    stage.comes(&bus, what, first_two, [1, 2]).await?;
    let what = "attempts in the end";
    let attempted = || seen.read();
    stage
        .comes_after(&bus, 5, what, attempted, [1, 2, 3])
        .await?;
    let dead = |queue: &QueueSnapshot| queue.dead_lettered;
    stage
        .books(&bus, "pausing", "dead-lettered", dead, 1)
        .await?;
    same("dead letters", stage.kept(&bus).await?, 1)
}
