//! Rule 6: redelivery is controlled.

use std::time::{Duration, Instant};

use super::Stage;
use super::props::{Count, Journal, Note, attempts, never_early, note, plain_error};
use super::unmet::{Step, Unmet, holds, same};
use crate::delivery::{Breaker, Failure, Reason, Retry, Verdict};
use crate::observe::QueueSnapshot;
use crate::subscriber::Context;

scenarios! {
    rule_6_retry_after_waits_that_long;
    rule_6_reject_is_a_dead_letter_at_once;
    rule_6_discard_is_gone_but_for_its_count;
    rule_6_the_policy_classifies_errors;
    rule_6_waits_grow_to_the_cap;
    rule_6_immediate_retries_need_no_time;
    rule_6_a_waiting_retry_holds_no_worker;
    rule_6_an_open_breaker_spends_no_attempts;
}

async fn rule_6_retry_after_waits_that_long(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let wait = stage.steps(7);
    let starts = Count::default();
    let times = Journal::new();
    let (count, write) = (starts.clone(), times.clone());
    bus.subscribe_fn::<Note, _>("later", async move |_: &Note, _: &mut Context<'_>| {
        write.write(Instant::now());
        match count.up() {
            1 => Err(Failure::retry_after(wait, "later")),
            _ => Ok(()),
        }
    })
    .retry(attempts(3, stage.steps(1)))
    .start()
    .await
    .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    if !stage.features().exact_time {
        stage
            .comes_after(&bus, 7, "starts", || starts.get(), 2)
            .await?;
        return never_early(&times.read(), &[wait]);
    }
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
    let dead = |queue: &QueueSnapshot| queue.dead_lettered;
    stage
        .books(&bus, "rejecting", "dead-lettered", dead, 1)
        .await?;
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
    let ends = |queue: &QueueSnapshot| (queue.discarded, queue.acked, queue.retried);
    let what = "discarded, acked, retried";
    stage
        .books(&bus, "discarding", what, ends, (1, 0, 0))
        .await?;
    stage.pass(&bus, 10).await;
    same("starts", starts.get(), 1)?;
    same("dead letters", stage.kept(&bus).await?, 0)
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
    let subscriber = bus
        .subscribe_fn::<Note, _>(
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
    subscriber.pause();
    for n in 1..=4 {
        bus.publish(note(n)).await.step("publishing")?;
    }
    stage
        .books(&bus, "classified", "queued", |queue| queue.queued, 4)
        .await?;
    subscriber.resume().await;
    let ends = |queue: &QueueSnapshot| (queue.dead_lettered, queue.discarded);
    let what = "dead-lettered, discarded";
    stage
        .books_after(&bus, 10, "classified", what, ends, (2, 2))
        .await?;
    same("starts", starts.read(), [1, 2, 3, 4, 3])
}

async fn rule_6_waits_grow_to_the_cap(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let starts = Count::default();
    let times = Journal::new();
    let (count, write) = (starts.clone(), times.clone());
    bus.subscribe_fn::<Note, _>("growing", async move |_: &Note, _: &mut Context<'_>| {
        write.write(Instant::now());
        count.up();
        Err(plain_error())
    })
    .retry(
        Retry::exponential(stage.steps(2)..stage.steps(5))
            .jitter(0.0)
            .attempts(10),
    )
    .start()
    .await
    .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    let waits = [2, 4, 5, 5, 5, 5, 5, 5, 5];
    let dead = |queue: &QueueSnapshot| queue.dead_lettered;
    if !stage.features().exact_time {
        // 41 steps. Without the cap they would be more than a thousand, far beyond what is waited for.
        stage
            .books_after(&bus, 41, "growing", "dead-lettered", dead, 1)
            .await?;
        return never_early(&times.read(), &waits.map(|steps| stage.steps(steps)));
    }
    bus.settle().await;
    let almost = Duration::from_millis(1);
    for (started, wait) in (1..).zip(waits) {
        stage.pass_exactly(&bus, stage.steps(wait) - almost).await;
        same("starts before the wait is over", starts.get(), started)?;
        stage.pass_exactly(&bus, almost).await;
        same("starts after it", starts.get(), started + 1)?;
    }
    stage
        .books(&bus, "growing", "dead-lettered", dead, 1)
        .await?;
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
    stage
        .books(&bus, "racing", "acked", |queue| queue.acked, 1)
        .await?;
    same("starts", starts.get(), 4)
}

async fn rule_6_a_waiting_retry_holds_no_worker(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let done = Journal::new();
    let write = done.clone();
    let subscriber = bus
        .subscribe_fn::<Note, _>("waiting", async move |note: &Note, cx: &mut Context<'_>| {
            if note.n == 1 && cx.attempt() == 1 {
                return Err(plain_error());
            }
            write.write(note.n);
            Ok(())
        })
        .retry(attempts(2, stage.steps(30)))
        .start()
        .await
        .step("subscribing")?;
    // All are there when the wait begins: then it is the order that tells whether they were held up.
    subscriber.pause();
    for n in 1..=5 {
        bus.publish(note(n)).await.step("publishing")?;
    }
    stage
        .books(&bus, "waiting", "queued", |queue| queue.queued, 5)
        .await?;
    subscriber.resume().await;
    let what = "handled while one waits";
    let others = || stage.first(done.read(), 4);
    stage.comes(&bus, what, others, [2, 3, 4, 5]).await?;
    // In real time the wait may be over by now.
    let (what, waiting): (_, fn(&QueueSnapshot) -> u64) = match stage.is_in_real_time() {
        false => ("waiting", |queue| queue.waiting),
        true => ("waiting, or having waited", |queue| queue.retried),
    };
    stage.books(&bus, "waiting", what, waiting, 1).await?;
    let what = "handled in the end";
    stage
        .comes_after(&bus, 30, what, || done.read(), [2, 3, 4, 5, 1])
        .await
}

async fn rule_6_an_open_breaker_spends_no_attempts(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let (starts, times) = (Count::default(), Journal::new());
    let (count, write) = (starts.clone(), times.clone());
    let breaker = Breaker::new()
        .minimum(4)
        .failure_ratio(0.5)
        .window(stage.steps(100))
        .pause(stage.steps(20));
    // Four open it, the first probe fails, the second one and all that follow succeed.
    bus.subscribe_fn::<Note, _>("breaking", async move |_: &Note, _: &mut Context<'_>| {
        let start = count.up();
        if start <= 6 {
            write.write(Instant::now());
        }
        match start {
            ..6 => Err(plain_error()),
            _ => Ok(()),
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
    if stage.features().exact_time {
        bus.settle().await;
        same("starts until it opens", starts.get(), 4)?;
        stage.pass(&bus, 19).await;
        same("starts while it is open", starts.get(), 4)?;
        stage.pass(&bus, 2).await;
        same("starts with one probe", starts.get(), 5)?;
    }
    let acked = |queue: &QueueSnapshot| queue.acked;
    let what = "acked once it works again";
    stage
        .books_after(&bus, 100, "breaking", what, acked, 10)
        .await?;
    if !stage.features().exact_time {
        // A probe after a whole pause, and another one.
        let pause = stage.steps(20);
        never_early(&times.read()[3..], &[pause, pause])?;
    }
    let queue = stage.queue(&bus, "breaking")?;
    holds("nothing was given up", queue.dead_lettered == 0, &queue)
}
