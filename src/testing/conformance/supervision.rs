//! Rule 8: what a panic and a timeout leave behind.

use super::Stage;
use super::props::{Count, Journal, Note, attempts, note};
use super::unmet::{Step, Unmet, same};
use crate::delivery::Outcome;
use crate::observe::QueueSnapshot;
use crate::ports::Refusal;
use crate::queue::SubscriptionState;
use crate::subscriber::{Context, Subscriber};

scenarios! {
    rule_8_a_panic_replaces_the_handler_and_keeps_the_queue;
    rule_8_a_timeout_replaces_the_handler_and_keeps_the_queue;
    rule_8_an_error_keeps_the_handler;
    rule_8_a_panic_in_drop_is_survived;
    rule_8_a_failing_factory_is_tried_again;
    rule_8_too_many_restarts_suspend_until_resumed;
    rule_8_one_poison_message_counts_once;
}

/// A handler with a number of its own, by which the next one is told from it.
struct Numbered {
    number: u32,
    fails: fn(u32, u32) -> bool,
    how: How,
    done: Journal<(u32, u32)>,
}

#[derive(Clone, Copy)]
enum How {
    Panic,
    Hang,
    Error,
}

impl Subscriber<Note> for Numbered {
    async fn handle(&mut self, note: &Note, cx: &mut Context<'_>) -> Outcome {
        if (self.fails)(note.n, cx.attempt()) {
            match self.how {
                How::Panic => panic!("on purpose"),
                How::Hang => std::future::pending().await,
                How::Error => return Err(super::props::plain_error()),
            }
        }
        self.done.write((self.number, note.n));
        Ok(())
    }
}

async fn replaced(stage: &Stage, how: How) -> Result<Journal<(u32, u32)>, Unmet> {
    let bus = stage.bus().await?;
    let (made, done) = (Count::default(), Journal::new());
    let write = done.clone();
    let make = move || Numbered {
        number: made.up(),
        fails: |n, attempt| n == 2 && attempt == 1,
        how,
        done: write.clone(),
    };
    let subscriber = bus
        .subscriber("numbered", make)
        .on::<Note>()
        .retry(attempts(2, stage.steps(5)))
        .timeout(stage.steps(1))
        .start()
        .await
        .step("subscribing")?;
    subscriber.pause();
    for n in 1..=4 {
        bus.publish(note(n)).await.step("publishing")?;
    }
    stage
        .books(&bus, "numbered", "queued", |queue| queue.queued, 4)
        .await?;
    subscriber.resume().await;
    let ends = |queue: &QueueSnapshot| (queue.acked, queue.dead_lettered, queue.restarts);
    let restarts = u64::from(!matches!(how, How::Error));
    let what = "acked, dead-lettered, restarts";
    stage
        .books_after(&bus, 10, "numbered", what, ends, (4, 0, restarts))
        .await?;
    Ok(done)
}

async fn rule_8_a_panic_replaces_the_handler_and_keeps_the_queue(
    stage: &Stage,
) -> Result<(), Unmet> {
    let done = replaced(stage, How::Panic).await?;
    same(
        "handler and message",
        done.read(),
        [(1, 1), (2, 3), (2, 4), (2, 2)],
    )
}

async fn rule_8_a_timeout_replaces_the_handler_and_keeps_the_queue(
    stage: &Stage,
) -> Result<(), Unmet> {
    let done = replaced(stage, How::Hang).await?;
    same(
        "handler and message",
        done.read(),
        [(1, 1), (2, 3), (2, 4), (2, 2)],
    )
}

async fn rule_8_an_error_keeps_the_handler(stage: &Stage) -> Result<(), Unmet> {
    let done = replaced(stage, How::Error).await?;
    same(
        "handler and message",
        done.read(),
        [(1, 1), (1, 3), (1, 4), (1, 2)],
    )
}

async fn rule_8_a_panic_in_drop_is_survived(stage: &Stage) -> Result<(), Unmet> {
    struct Sharp(Count);
    impl Subscriber<Note> for Sharp {
        async fn handle(&mut self, _: &Note, cx: &mut Context<'_>) -> Outcome {
            if cx.attempt() == 1 {
                // Not a panic here: one that unwinds into another aborts.
                return std::future::pending().await;
            }
            self.0.up();
            Ok(())
        }
    }
    impl Drop for Sharp {
        fn drop(&mut self) {
            assert!(std::thread::panicking(), "on purpose, in drop");
        }
    }
    let bus = stage.bus().await?;
    let handled = Count::default();
    let count = handled.clone();
    bus.subscriber("sharp", move || Sharp(count.clone()))
        .on::<Note>()
        .retry(attempts(2, stage.steps(1)))
        .timeout(stage.steps(1))
        .start()
        .await
        .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    stage
        .comes_after(&bus, 5, "handled", || handled.get(), 1)
        .await
}

async fn rule_8_a_failing_factory_is_tried_again(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let (tries, done) = (Count::default(), Journal::new());
    let write = done.clone();
    let factory = async move || match tries.up() {
        1 => Err("not yet"),
        2 => panic!("on purpose, in a factory"),
        number => Ok(Numbered {
            number,
            fails: |_, _| false,
            how: How::Error,
            done: write.clone(),
        }),
    };
    bus.try_subscriber("numbered", factory)
        .on::<Note>()
        .restart_backoff(stage.steps(1)..stage.steps(4))
        .start()
        .await
        .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    let what = "handler and message";
    stage
        .comes_after(&bus, 10, what, || done.read(), [(3, 1)])
        .await?;
    same("restarts", stage.queue(&bus, "numbered")?.restarts, 2)
}

async fn rule_8_too_many_restarts_suspend_until_resumed(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let healthy = Count::default();
    let works = healthy.clone();
    let subscriber = bus
        .subscribe_fn::<Note, _>("failing", async move |_: &Note, _: &mut Context<'_>| {
            assert_eq!(works.get(), 1, "on purpose");
            Ok(())
        })
        .retry(attempts(1, stage.steps(1)))
        .intensity(2, stage.steps(1000))
        .mailbox(8)
        .start()
        .await
        .step("subscribing")?;
    for n in 1..=5 {
        bus.publish(note(n)).await.step("publishing")?;
    }
    let state = || subscriber.state();
    let suspended = SubscriptionState::Suspended;
    stage
        .comes_after(&bus, 100, "the state", state, suspended)
        .await?;
    let kept = |queue: &QueueSnapshot| (queue.dead_lettered, queue.queued);
    stage
        .books(&bus, "failing", "dead-lettered, kept", kept, (3, 2))
        .await?;
    // It accepts up to its bound, and where that is a publisher's then refuses at once.
    for n in 6..=11 {
        bus.publish(note(n))
            .await
            .step("publishing to a suspended queue")?;
    }
    if stage.is_local() {
        let refused = bus.publish(note(12)).await.err().step("being refused")?;
        let suspended = Refusal::Suspended {
            queue: "failing".to_owned(),
        };
        same("the refusal", refused.kind(), &suspended)?;
    }
    healthy.set(1);
    subscriber.resume().await;
    let running = SubscriptionState::Running;
    stage
        .comes_after(&bus, 10, "the state after it", state, running)
        .await?;
    stage
        .books(&bus, "failing", "acked", |queue| queue.acked, 8)
        .await
}

async fn rule_8_one_poison_message_counts_once(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let subscriber = bus
        .subscribe_fn::<Note, _>("poisoned", async |note: &Note, _: &mut Context<'_>| {
            assert_ne!(note.n, 1, "on purpose");
            Ok(())
        })
        .retry(attempts(10, stage.steps(1)))
        .intensity(2, stage.steps(1000))
        .restart_backoff(stage.steps(1)..stage.steps(1))
        .start()
        .await
        .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    bus.publish(note(2)).await.step("publishing")?;
    let ends = |queue: &QueueSnapshot| (queue.acked, queue.dead_lettered);
    stage
        .books_after(&bus, 50, "poisoned", "acked, dead-lettered", ends, (1, 1))
        .await?;
    let state = || subscriber.state();
    let running = SubscriptionState::Running;
    stage.comes(&bus, "the state", state, running).await
}
