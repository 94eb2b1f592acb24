//! Dead letters: kept, told, replayed, discarded.

use super::Stage;
use super::props::{Count, Journal, Note, attempts, note, plain_error};
use super::unmet::{Step, Unmet, holds, same};
use crate::bus::{Bus, ReplayError};
use crate::delivery::Retry;
use crate::message::MessageId;
use crate::observe::QueueSnapshot;
use crate::ports::Refusal;
use crate::ports::{DeadLetter, DeadLettered, Filter};
use crate::subscriber::Context;

scenarios! {
    a_dead_letter_says_what_happened;
    a_dead_letter_is_told_as_an_event;
    a_replay_keeps_the_id_and_resets_the_attempts;
    a_replay_goes_only_to_the_queue_that_gave_up;
    a_refused_replay_keeps_the_dead_letter if local_acceptance;
    a_discarded_dead_letter_is_gone;
    the_oldest_dead_letter_is_evicted_and_counted if dead_letter_bound;
}

/// A subscriber that fails until it is told to work, and writes ids and attempts.
macro_rules! failing {
    ($bus:ident, $name:expr, $works:ident, $seen:ident) => {{
        let (works, write) = ($works.clone(), $seen.clone());
        let handler = async move |_: &Note, cx: &mut Context<'_>| {
            write.write((cx.id(), cx.attempt()));
            if works.get() == 1 {
                Ok(())
            } else {
                Err(plain_error())
            }
        };
        $bus.subscribe_fn::<Note, _>($name, handler)
    }};
}

/// Waits, and lets the time of all retries pass, until a queue has given up so many messages.
async fn given_up(stage: &Stage, bus: &Bus, queue: &str, messages: u64) -> Result<(), Unmet> {
    let dead = |queue: &QueueSnapshot| queue.dead_lettered;
    stage
        .books_after(bus, 10, queue, "dead-lettered", dead, messages)
        .await
}

async fn the_letter(stage: &Stage, bus: &Bus) -> Result<DeadLetter, Unmet> {
    let letters = stage.letters(bus).await?;
    letters.into_iter().next().step("finding it")
}

async fn a_dead_letter_says_what_happened(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    bus.subscribe_fn::<Note, _>("failing", async |_: &Note, cx: &mut Context<'_>| {
        Err(std::io::Error::other(format!("failed at attempt {}", cx.attempt())).into())
    })
    .retry(attempts(3, stage.steps(2)))
    .start()
    .await
    .step("subscribing")?;
    let published = bus.publish(note(7)).key("k").header("tenant", "t").await;
    let id = published.step("publishing")?.id;
    given_up(stage, &bus, "failing", 1).await?;
    let letters = stage.letters(&bus).await?;
    same("dead letters", letters.len(), 1)?;
    let letter = &letters[0];
    same("its queue", &*letter.queue, "failing")?;
    same("its attempts", letter.attempts, 3)?;
    same(
        "its last error",
        &letter.errors[0],
        &"failed at attempt 3".to_owned(),
    )?;
    same("its message", letter.envelope().id(), id)?;
    same("its topic", letter.envelope().address(), "conformance.note")?;
    same("its key", letter.envelope().key(), Some("k"))?;
    same("its header", letter.envelope().header("tenant"), Some("t"))?;
    same("its body", letter.json().step("reading it")?, br#"{"n":7}"#)?;
    let span = letter.last_failed_at.duration_since(letter.first_failed_at);
    let span = span.step("its times are in order")?;
    let rounded = stage.rounded();
    holds(
        "two waits are between its times",
        span + rounded >= stage.steps(4),
        span,
    )?;
    let found = bus
        .dead_letters()
        .get(letter.id)
        .await
        .step("asking for them")?
        .step("getting it by its id")?;
    same("the one got", found.id, letter.id)?;
    for (filter, count) in [
        (Filter::all().queue("failing"), 1),
        (Filter::all().queue("another"), 0),
        (Filter::all().address("conformance.note"), 1),
        (Filter::all().address("another"), 0),
        (Filter::all().limit(0), 0),
    ] {
        let found = bus.dead_letters().list(&filter).await;
        let found = found.step("listing by a filter")?;
        same("found by a filter", found.len(), count)?;
    }
    Ok(())
}

async fn a_dead_letter_is_told_as_an_event(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let told = Journal::new();
    let write = told.clone();
    let listener = async move |letter: &DeadLettered, _: &mut Context<'_>| {
        write.write((letter.message, letter.queue.clone(), letter.attempts));
        // A listener that fails makes a dead letter too, which is not told: no storm.
        Err(plain_error())
    };
    bus.subscribe_fn::<DeadLettered, _>("listener", listener)
        .retry(Retry::none())
        .start()
        .await
        .step("subscribing to dead letters")?;
    bus.subscribe_fn::<Note, _>("failing", async |_: &Note, _: &mut Context<'_>| {
        Err(plain_error())
    })
    .retry(Retry::none())
    .start()
    .await
    .step("subscribing")?;
    let mut expected = Vec::new();
    // What was told of the first one's listener would come before the second one.
    for n in 1..=2 {
        let id = bus.publish(note(n)).await.step("publishing")?.id;
        expected.push((id, "failing".to_owned(), 1));
        given_up(stage, &bus, "failing", n.into()).await?;
        given_up(stage, &bus, "listener", n.into()).await?;
    }
    same("told", told.read(), expected)?;
    same("dead letters", stage.kept(&bus).await?, 4)
}

async fn a_replay_keeps_the_id_and_resets_the_attempts(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let (works, seen) = (Count::default(), Journal::<(MessageId, u32)>::new());
    let subscriber = failing!(bus, "failing", works, seen);
    let policy = attempts(2, stage.steps(1));
    subscriber.retry(policy).start().await.step("subscribing")?;
    let id = bus.publish(note(1)).await.step("publishing")?.id;
    given_up(stage, &bus, "failing", 1).await?;
    let letter = the_letter(stage, &bus).await?;
    works.set(1);
    bus.dead_letters()
        .replay(letter.id)
        .await
        .step("replaying")?;
    let expected = [(id, 1), (id, 2), (id, 1)];
    let what = "ids and attempts";
    stage.comes(&bus, what, || seen.read(), expected).await?;
    same("dead letters kept", stage.kept(&bus).await?, 0)?;
    let again = bus.dead_letters().replay(letter.id).await;
    same(
        "replaying again",
        again,
        Err(ReplayError::NotFound(letter.id)),
    )?;
    // A copy that waited elsewhere has gone, and was accepted again.
    let elsewhere = u64::from(!stage.is_local());
    let ends = |queue: &QueueSnapshot| {
        let came = (queue.accepted, queue.returned);
        (came, queue.acked, queue.dead_lettered)
    };
    let what = "accepted and returned, acked, dead-lettered";
    let expected = ((2 + elsewhere, elsewhere), 1, 1);
    stage.books(&bus, "failing", what, ends, expected).await?;
    let ledger = bus.dead_letters().ledger();
    same(
        "made, replayed, kept",
        (ledger.made, ledger.replayed, ledger.kept),
        (1, 1, 0),
    )
}

async fn a_replay_goes_only_to_the_queue_that_gave_up(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let (works, healthy) = (Count::default(), Count::default());
    healthy.set(1);
    let (failed, fine) = (Journal::new(), Journal::new());
    let policy = Retry::none();
    let subscriber = failing!(bus, "failing", works, failed);
    subscriber
        .retry(policy.clone())
        .start()
        .await
        .step("subscribing")?;
    failing!(bus, "fine", healthy, fine)
        .start()
        .await
        .step("subscribing")?;
    for n in 0..5 {
        bus.publish(note(n)).await.step("publishing")?;
    }
    given_up(stage, &bus, "failing", 5).await?;
    same("dead letters", stage.kept(&bus).await?, 5)?;
    works.set(1);
    let replayed = bus
        .dead_letters()
        .replay_all(&Filter::all().limit(3))
        .await
        .step("asking for them")?;
    same("replayed", replayed.replayed, 3)?;
    same("refused", replayed.refused, Vec::new())?;
    // What came by the replay to where it did not fail would come before this.
    let last = bus.publish(note(5)).await.step("publishing")?.id;
    let what = "starts where it failed";
    stage.comes(&bus, what, || failed.len(), 9).await?;
    let what = "the last start where it did not";
    let last_of_fine = || fine.read().last().map(|(id, _)| *id);
    stage.comes(&bus, what, last_of_fine, Some(last)).await?;
    same("starts where it did not", fine.len(), 6)?;
    same("dead letters kept", stage.kept(&bus).await?, 2)
}

async fn a_refused_replay_keeps_the_dead_letter(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage
        .bus_with(|bus| bus.publish_timeout(stage.steps(3)))
        .await?;
    let (works, seen) = (Count::default(), Journal::<(MessageId, u32)>::new());
    let subscriber = failing!(bus, "failing", works, seen);
    let subscriber = subscriber.retry(Retry::none()).mailbox(1).start().await;
    let subscriber = subscriber.step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    given_up(stage, &bus, "failing", 1).await?;
    let letter = the_letter(stage, &bus).await?;
    subscriber.pause();
    bus.publish(note(2)).await.step("filling the queue")?;
    let replaying = tokio::task::spawn_local({
        let (letters, id) = (bus.dead_letters(), letter.id);
        async move { letters.replay(id).await }
    });
    tokio::task::yield_now().await;
    stage.pass(&bus, 4).await;
    let refused = Refusal::Timeout {
        queue: "failing".to_owned(),
    };
    let replayed = replaying.await.step("the replay")?;
    same("the replay", replayed, Err(ReplayError::Refused(refused)))?;
    same("dead letters kept", stage.kept(&bus).await?, 1)?;
    // A replay that is dropped while it waits keeps it too.
    let letters = bus.dead_letters();
    let mut waiting = Box::pin(letters.replay(letter.id));
    let answer = super::props::poll_once(&mut waiting);
    holds(
        "a replay without room waits",
        answer.is_pending(),
        "an answer",
    )?;
    drop(waiting);
    same("dead letters kept", stage.kept(&bus).await?, 1)?;
    // Nor is it lost with its queue.
    works.set(1);
    subscriber.resume().await;
    subscriber.stop(stage.steps(10)).await;
    let gone = ReplayError::NoQueue("failing".to_owned());
    same(
        "a replay to nowhere",
        bus.dead_letters().replay(letter.id).await,
        Err(gone),
    )?;
    same("dead letters kept", stage.kept(&bus).await?, 1)
}

async fn a_discarded_dead_letter_is_gone(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let (works, seen) = (Count::default(), Journal::<(MessageId, u32)>::new());
    let subscriber = failing!(bus, "failing", works, seen);
    subscriber
        .retry(Retry::none())
        .start()
        .await
        .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    given_up(stage, &bus, "failing", 1).await?;
    let letter = the_letter(stage, &bus).await?;
    same(
        "discarding",
        bus.dead_letters()
            .discard(letter.id)
            .await
            .step("asking for them")?,
        true,
    )?;
    same(
        "discarding again",
        bus.dead_letters()
            .discard(letter.id)
            .await
            .step("asking for them")?,
        false,
    )?;
    let replayed = bus.dead_letters().replay(letter.id).await;
    same("replaying", replayed, Err(ReplayError::NotFound(letter.id)))?;
    let ledger = bus.dead_letters().ledger();
    same(
        "made, discarded, kept",
        (ledger.made, ledger.discarded, ledger.kept),
        (1, 1, 0),
    )
}

async fn the_oldest_dead_letter_is_evicted_and_counted(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus_with(|bus| bus.dead_letter_capacity(3)).await?;
    let (works, seen) = (Count::default(), Journal::<(MessageId, u32)>::new());
    let subscriber = failing!(bus, "failing", works, seen);
    subscriber
        .retry(Retry::none())
        .start()
        .await
        .step("subscribing")?;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(bus.publish(note(n)).await.step("publishing")?.id);
    }
    given_up(stage, &bus, "failing", 5).await?;
    let letters = stage.letters(&bus).await?;
    let kept: Vec<_> = letters
        .iter()
        .map(|letter| letter.envelope().id())
        .collect();
    same("kept", &kept[..], &ids[2..])?;
    let ledger = bus.dead_letters().ledger();
    same(
        "made, evicted, kept",
        (ledger.made, ledger.evicted, ledger.kept),
        (5, 2, 3),
    )
}
