//! Rule 6: redelivery is controlled.

use std::time::Duration;

use super::Stage;
use super::props::{Count, Journal, Note, attempts, note, plain_error};
use super::unmet::{Step, Unmet, holds, same};
use crate::delivery::{Breaker, Failure, Reason, Retry, Verdict};
use crate::subscriber::Context;

scenarios! {
    rule_6_retry_after_waits_that_long if exact_time;
    rule_6_reject_is_a_dead_letter_at_once;
    rule_6_discard_is_gone_but_for_its_count;
    rule_6_the_policy_classifies_errors;
    rule_6_waits_grow_to_the_cap if exact_time;
    rule_6_immediate_retries_need_no_time;
    rule_6_a_waiting_retry_holds_no_worker;
    rule_6_an_open_breaker_spends_no_attempts;
}

async fn rule_6_retry_after_waits_that_long(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let wait = stage.steps(7);
    let starts = Count::default();
    let count = starts.clone();
    bus.subscribe_fn::<Note, _>(
        "later",
        async move |_: &Note, _: &mut Context<'_>| match count.up() {
            1 => Err(Failure::retry_after(wait, "later")),
            _ => Ok(()),
        },
    )
    .retry(attempts(3, stage.steps(1)))
    .start()
    .await
    .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    bus.settle().await;
    let almost = Duration::from_millis(1);
    stage.pass_exactly(&bus, wait - almost).await;
    same("starts before its time", starts.get(), 1)?;
    stage.pass_exactly(&bus, almost).await;
    same("starts at its time", starts.get(), 2)
}

async fn rule_6_reject_is_a_dead_letter_at_once(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let starts = Count::default();
    let count = starts.clone();
    bus.subscribe_fn::<Note, _>("rejecting", async move |_: &Note, _: &mut Context<'_>| {
        count.up();
        Err(Failure::reject("never"))
    })
    .retry(attempts(5, stage.steps(1)))
    .start()
    .await
    .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    bus.settle().await;
    let letters = stage.letters(&bus).await?;
    same("dead letters", letters.len(), 1)?;
    same("its reason", letters[0].reason, Reason::Rejected)?;
    same("its attempts", letters[0].attempts, 1)?;
    same("its errors", &letters[0].errors, &["never".to_owned()])?;
    stage.pass(&bus, 10).await;
    same("starts", starts.get(), 1)
}

async fn rule_6_discard_is_gone_but_for_its_count(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let starts = Count::default();
    let count = starts.clone();
    bus.subscribe_fn::<Note, _>("discarding", async move |_: &Note, _: &mut Context<'_>| {
        count.up();
        Err(Failure::discard("not worth keeping"))
    })
    .start()
    .await
    .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    stage.pass(&bus, 10).await;
    same("starts", starts.get(), 1)?;
    same("dead letters", stage.kept(&bus).await?, 0)?;
    let queue = stage.queue(&bus, "discarding")?;
    same("discarded, acked", (queue.discarded, queue.acked), (1, 0))
}

async fn rule_6_the_policy_classifies_errors(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let starts = Journal::new();
    let write = starts.clone();
    let policy = attempts(2, stage.steps(1)).classify(|error| match error.to_string().as_str() {
        "reject" => Some(Verdict::Reject),
        "discard" => Some(Verdict::Discard),
        _ => None,
    });
    bus.subscribe_fn::<Note, _>(
        "classified",
        async move |note: &Note, _: &mut Context<'_>| {
            write.write(note.n);
            Err(match note.n {
                1 => Failure::from(std::io::Error::other("reject")),
                2 => Failure::from(std::io::Error::other("discard")),
                3 => Failure::from(std::io::Error::other("something else")),
                // What a handler says itself wins.
                _ => Failure::discard("reject"),
            })
        },
    )
    .retry(policy)
    .start()
    .await
    .step("subscribing")?;
    for n in 1..=4 {
        bus.publish(note(n)).await.step("publishing")?;
    }
    stage.pass(&bus, 10).await;
    same("starts", starts.read(), [1, 2, 3, 4, 3])?;
    let queue = stage.queue(&bus, "classified")?;
    same(
        "dead-lettered, discarded",
        (queue.dead_lettered, queue.discarded),
        (2, 2),
    )
}

async fn rule_6_waits_grow_to_the_cap(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let starts = Count::default();
    let count = starts.clone();
    bus.subscribe_fn::<Note, _>("growing", async move |_: &Note, _: &mut Context<'_>| {
        count.up();
        Err(plain_error())
    })
    .retry(
        Retry::exponential(stage.steps(2)..stage.steps(5))
            .jitter(0.0)
            .attempts(5),
    )
    .start()
    .await
    .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    bus.settle().await;
    let almost = Duration::from_millis(1);
    for (started, wait) in [(1, 2), (2, 4), (3, 5), (4, 5)] {
        stage.pass_exactly(&bus, stage.steps(wait) - almost).await;
        same("starts before the wait is over", starts.get(), started)?;
        stage.pass_exactly(&bus, almost).await;
        same("starts after it", starts.get(), started + 1)?;
    }
    same("dead letters", stage.kept(&bus).await?, 1)
}

async fn rule_6_immediate_retries_need_no_time(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let starts = Count::default();
    let count = starts.clone();
    bus.subscribe_fn::<Note, _>("racing", async move |_: &Note, _: &mut Context<'_>| {
        if count.up() < 4 {
            Err(plain_error())
        } else {
            Ok(())
        }
    })
    .retry(attempts(4, stage.steps(1000)).immediate(3))
    .start()
    .await
    .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    bus.settle().await;
    same("starts", starts.get(), 4)?;
    same("acked", stage.queue(&bus, "racing")?.acked, 1)
}

async fn rule_6_a_waiting_retry_holds_no_worker(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let done = Journal::new();
    let write = done.clone();
    bus.subscribe_fn::<Note, _>("waiting", async move |note: &Note, cx: &mut Context<'_>| {
        if note.n == 1 && cx.attempt() == 1 {
            return Err(plain_error());
        }
        write.write(note.n);
        Ok(())
    })
    .retry(attempts(2, stage.steps(20)))
    .start()
    .await
    .step("subscribing")?;
    for n in 1..=5 {
        bus.publish(note(n)).await.step("publishing")?;
    }
    bus.settle().await;
    same("handled while one waits", done.read(), [2, 3, 4, 5])?;
    same("waiting", stage.queue(&bus, "waiting")?.waiting, 1)?;
    stage.pass(&bus, 20).await;
    same("handled in the end", done.read(), [2, 3, 4, 5, 1])
}

async fn rule_6_an_open_breaker_spends_no_attempts(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let (starts, healthy) = (Count::default(), Count::default());
    let (count, works) = (starts.clone(), healthy.clone());
    let breaker = Breaker::new()
        .minimum(4)
        .failure_ratio(0.5)
        .window(stage.steps(100))
        .pause(stage.steps(10));
    bus.subscribe_fn::<Note, _>("breaking", async move |_: &Note, _: &mut Context<'_>| {
        count.up();
        if works.get() == 1 {
            Ok(())
        } else {
            Err(plain_error())
        }
    })
    .retry(attempts(50, stage.steps(1)))
    .breaker(breaker)
    .start()
    .await
    .step("subscribing")?;
    for n in 0..10 {
        bus.publish(note(n)).await.step("publishing")?;
    }
    bus.settle().await;
    same("starts until it opens", starts.get(), 4)?;
    stage.pass(&bus, 9).await;
    same("starts while it is open", starts.get(), 4)?;
    stage.pass(&bus, 2).await;
    same("starts with one probe", starts.get(), 5)?;
    healthy.set(1);
    stage.pass(&bus, 30).await;
    let queue = stage.queue(&bus, "breaking")?;
    same("acked once it works again", queue.acked, 10)?;
    holds("nothing was given up", queue.dead_lettered == 0, &queue)
}
