//! Rules 3 and 4: only `Ok` acknowledges, and attempts are exact.

use super::Stage;
use super::props::{Journal, Note, attempts, note, plain_error};
use super::unmet::{Step, Unmet, same};
use crate::delivery::{Outcome, Reason, Retry};
use crate::observe::QueueSnapshot;
use crate::subscriber::Context;

scenarios! {
    rule_3_an_error_is_not_a_success;
    rule_3_a_panic_is_not_a_success;
    rule_3_a_timeout_is_not_a_success;
    rule_3_a_panic_after_the_work_is_not_a_success;
    rule_4_attempts_are_exact;
    rule_4_attempts_are_exact_however_they_fail;
    rule_4_the_last_attempt_may_succeed;
    rule_4_the_attempt_is_visible;
}

/// How a handler ends.
#[derive(Clone, Copy)]
enum End {
    Error,
    Panic,
    Hang,
}

async fn end(how: End) -> Outcome {
    match how {
        End::Error => Err(plain_error()),
        End::Panic => panic!("on purpose"),
        End::Hang => std::future::pending().await,
    }
}

/// A queue whose handler ends like this at each attempt gets one message.
async fn failing(stage: &Stage, how: &'static [End], retry: Retry) -> Result<(), Unmet> {
    stage.anew().await?;
    let bus = stage.bus().await?;
    let max = retry.max_attempts();
    let seen = Journal::new();
    let write = seen.clone();
    bus.subscribe_fn::<Note, _>("failing", async move |_: &Note, cx: &mut Context<'_>| {
        write.write(cx.attempt());
        end(how[(cx.attempt() as usize - 1) % how.len()]).await
    })
    .retry(retry)
    .timeout(stage.steps(2))
    .start()
    .await
    .step("subscribing")?;
    let receipt = bus.publish(note(1)).await.step("publishing")?;
    let ends = |queue: &QueueSnapshot| (queue.acked, queue.dead_lettered);
    let what = "acked, dead-lettered";
    stage
        .books_after(&bus, 10 * max, "failing", what, ends, (0, 1))
        .await?;
    same("starts", seen.read(), (1..=max).collect::<Vec<_>>())?;
    let queue = stage.queue(&bus, "failing")?;
    same("attempts after a first", queue.retried, u64::from(max) - 1)?;
    let letters = stage.letters(&bus).await?;
    same("dead letters", letters.len(), 1)?;
    same("its message", letters[0].envelope().id(), receipt.id)?;
    same("its attempts", letters[0].attempts, max)?;
    same("its reason", letters[0].reason, Reason::Exhausted)?;
    // Another one finds the queue as the first one did.
    bus.publish(note(2)).await.step("publishing again")?;
    stage
        .books_after(&bus, 10 * max, "failing", what, ends, (0, 2))
        .await?;
    same("starts in all", seen.len(), 2 * max as usize)
}

async fn rule_3_an_error_is_not_a_success(stage: &Stage) -> Result<(), Unmet> {
    failing(stage, &[End::Error], Retry::none()).await
}

async fn rule_3_a_panic_is_not_a_success(stage: &Stage) -> Result<(), Unmet> {
    failing(stage, &[End::Panic], Retry::none()).await
}

async fn rule_3_a_timeout_is_not_a_success(stage: &Stage) -> Result<(), Unmet> {
    failing(stage, &[End::Hang], Retry::none()).await
}

async fn rule_3_a_panic_after_the_work_is_not_a_success(stage: &Stage) -> Result<(), Unmet> {
    /// Panics when the handler's future goes.
    struct Sharp;
    impl Drop for Sharp {
        fn drop(&mut self) {
            assert!(std::thread::panicking(), "on purpose");
        }
    }
    let bus = stage.bus().await?;
    let work = Journal::new();
    let write = work.clone();
    bus.subscribe_fn::<Note, _>("failing", async move |_: &Note, cx: &mut Context<'_>| {
        let _sharp = (cx.attempt() == 1).then(|| Sharp);
        write.write(cx.attempt());
        Ok(())
    })
    .retry(attempts(2, stage.steps(1)))
    .start()
    .await
    .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    stage
        .books_after(&bus, 5, "failing", "acked", |queue| queue.acked, 1)
        .await?;
    same("starts", work.read(), [1, 2])
}

async fn rule_4_attempts_are_exact(stage: &Stage) -> Result<(), Unmet> {
    for max in 1..=4 {
        for immediate in [0, 1, 9] {
            let retry = attempts(max, stage.steps(1)).immediate(immediate);
            failing(stage, &[End::Error], retry).await?;
        }
    }
    Ok(())
}

async fn rule_4_attempts_are_exact_however_they_fail(stage: &Stage) -> Result<(), Unmet> {
    for immediate in [0, 2] {
        let retry = attempts(5, stage.steps(1)).immediate(immediate);
        failing(stage, &[End::Panic, End::Error, End::Hang], retry).await?;
    }
    Ok(())
}

async fn rule_4_the_last_attempt_may_succeed(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    bus.subscribe_fn::<Note, _>("late", async |_: &Note, cx: &mut Context<'_>| {
        if cx.attempt() < 3 {
            Err(plain_error())
        } else {
            Ok(())
        }
    })
    .retry(attempts(3, stage.steps(1)))
    .start()
    .await
    .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    let ends = |queue: &QueueSnapshot| (queue.acked, queue.dead_lettered, queue.retried);
    let what = "acked, dead-lettered, retried";
    stage
        .books_after(&bus, 10, "late", what, ends, (1, 0, 2))
        .await
}

async fn rule_4_the_attempt_is_visible(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let seen = Journal::new();
    let write = seen.clone();
    bus.subscribe_fn::<Note, _>(
        "counting",
        async move |note: &Note, cx: &mut Context<'_>| {
            write.write((note.n, cx.attempt(), cx.id()));
            Err(plain_error())
        },
    )
    .retry(attempts(3, stage.steps(1)))
    .start()
    .await
    .step("subscribing")?;
    let first = bus.publish(note(1)).await.step("publishing")?.id;
    let second = bus.publish(note(2)).await.step("publishing")?.id;
    let dead = |queue: &QueueSnapshot| queue.dead_lettered;
    stage
        .books_after(&bus, 10, "counting", "dead-lettered", dead, 2)
        .await?;
    for (n, id) in [(1, first), (2, second)] {
        let mut of_one = seen.read();
        of_one.retain(|(known, _, _)| *known == n);
        same(
            "attempts and ids",
            of_one,
            [(n, 1, id), (n, 2, id), (n, 3, id)],
        )?;
    }
    Ok(())
}
