//! Rule 7: order.

use std::time::Duration;

use super::Stage;
use super::props::{Count, Door, Journal, Note, attempts, note, plain_error};
use super::unmet::{Step, Unmet, holds, same};
use crate::bus::SubscribeError;
use crate::delivery::Failure;
use crate::observe::QueueSnapshot;
use crate::ports::Refusal;
use crate::subscriber::Context;

scenarios! {
    rule_7_fifo_keeps_the_order_of_acceptance;
    rule_7_fifo_handles_one_at_a_time;
    rule_7_a_delayed_retry_goes_behind_in_fifo;
    rule_7_keyed_keeps_the_order_of_a_key_over_retries if keyed_order;
    rule_7_keyed_runs_other_lanes_on if keyed_order;
    rule_7_keyed_handles_one_of_a_key_at_a_time if keyed_order;
    rule_7_a_dead_lettered_key_lets_its_successors_go_on if keyed_order;
    rule_7_a_waiting_lane_parks_at_most_half if parked_half, keyed_order, local_acceptance;
    rule_7_a_hold_over_the_cap_is_refused_at_start if keyed_order;
    rule_7_unordered_workers_really_run_at_once;
}

async fn rule_7_fifo_keeps_the_order_of_acceptance(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let done = Journal::new();
    let write = done.clone();
    bus.subscribe_fn::<Note, _>("fifo", async move |note: &Note, _: &mut Context<'_>| {
        write.write(note.n);
        Ok(())
    })
    .mailbox(16)
    .start()
    .await
    .step("subscribing")?;
    // More than the mailbox holds: the order is kept over waits for room too.
    for n in 0..500 {
        bus.publish(note(n)).await.step("publishing")?;
    }
    let all: Vec<u32> = (0..500).collect();
    stage.comes(&bus, "handled", || done.read(), all).await
}

async fn rule_7_fifo_handles_one_at_a_time(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let door = Door::shut();
    let (held, done) = (door.clone(), Count::default());
    let count = done.clone();
    bus.subscribe_fn::<Note, _>("fifo", async move |_: &Note, _: &mut Context<'_>| {
        held.enter().await;
        count.up();
        Ok(())
    })
    .start()
    .await
    .step("subscribing")?;
    for n in 0..5 {
        bus.publish(note(n)).await.step("publishing")?;
    }
    stage.handed_over(&bus, "fifo", 5).await?;
    stage
        .until("one is in the handler", || door.waiting() == 1)
        .await?;
    stage.pass(&bus, 1).await;
    same("in the handler", door.waiting(), 1)?;
    door.open();
    stage.comes(&bus, "handled", || done.get(), 5).await
}

async fn rule_7_a_delayed_retry_goes_behind_in_fifo(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let door = Door::shut();
    let (held, done) = (door.clone(), Journal::new());
    let write = done.clone();
    let subscriber = bus
        .subscribe_fn::<Note, _>("fifo", async move |note: &Note, cx: &mut Context<'_>| {
            if note.n == 1 && cx.attempt() == 1 {
                held.enter().await;
                return Err(plain_error());
            }
            write.write(note.n);
            Ok(())
        })
        .retry(attempts(2, stage.steps(10)))
        .start()
        .await
        .step("subscribing")?;
    bus.publish(note(1)).await.step("publishing")?;
    stage
        .until("it is in the handler", || door.waiting() == 1)
        .await?;
    // Before it fails, so that its wait cannot be over before the others are there.
    subscriber.pause();
    for n in 2..=3 {
        bus.publish(note(n)).await.step("publishing")?;
    }
    stage.handed_over(&bus, "fifo", 3).await?;
    door.open();
    stage
        .books(&bus, "fifo", "failed", |queue| queue.retried, 1)
        .await?;
    stage
        .books_after(&bus, 11, "fifo", "queued", |queue| queue.queued, 3)
        .await?;
    bus.publish(note(4)).await.step("publishing")?;
    subscriber.resume().await;
    stage
        .comes(&bus, "handled", || done.read(), [2, 3, 1, 4])
        .await
}

/// Fails the first attempts of a message, and writes key and number of what succeeds.
macro_rules! keyed {
    ($stage:ident, $bus:ident, $done:ident, $lanes:expr, $wait:expr, $fails:expr, $failure:expr) => {{
        let write = $done.clone();
        let handler = async move |note: &Note, cx: &mut Context<'_>| {
            if $fails(note.n, cx.attempt()) {
                return Err($failure);
            }
            let key = cx.envelope().key().unwrap_or_default().to_owned();
            write.write((key, note.n));
            Ok(())
        };
        $bus.subscribe_fn::<Note, _>("keyed", handler)
            .keyed($lanes)
            .retry(attempts(3, $stage.steps($wait)))
    }};
}

fn of_key(done: &Journal<(String, u32)>, key: &str) -> Vec<u32> {
    let mut done = done.read();
    done.retain(|(known, _)| known == key);
    done.into_iter().map(|(_, n)| n).collect()
}

async fn rule_7_keyed_keeps_the_order_of_a_key_over_retries(stage: &Stage) -> Result<(), Unmet> {
    for lanes in [1, 4] {
        stage.anew().await?;
        let bus = stage.bus().await?;
        let done = Journal::new();
        let fails = |n: u32, attempt: u32| n.is_multiple_of(3) && attempt < 3;
        let subscriber = keyed!(stage, bus, done, lanes, 2, fails, plain_error());
        subscriber.start().await.step("subscribing")?;
        for n in 0..30 {
            bus.publish(note(n)).key(n % 4).await.step("publishing")?;
        }
        stage
            .comes_after(&bus, 100, "handled", || done.len(), 30)
            .await?;
        for key in 0..4 {
            let expected: Vec<u32> = (0..30).filter(|n| n % 4 == key).collect();
            same(
                "the order of one key",
                of_key(&done, &key.to_string()),
                expected,
            )?;
        }
    }
    Ok(())
}

async fn rule_7_keyed_runs_other_lanes_on(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let done = Journal::new();
    let fails = |n: u32, attempt: u32| n == 1 && attempt == 1;
    let subscriber = keyed!(stage, bus, done, 1, 30, fails, plain_error());
    let subscriber = subscriber.start().await.step("subscribing")?;
    // All are there when the wait begins: then it is the order that tells whether they were held up.
    subscriber.pause();
    for n in 1..=3 {
        bus.publish(note(n)).key("held").await.step("publishing")?;
        bus.publish(note(10 * n))
            .key("free")
            .await
            .step("publishing")?;
        bus.publish(note(100 * n))
            .await
            .step("publishing without a key")?;
    }
    stage
        .books(&bus, "keyed", "queued", |queue| queue.queued, 9)
        .await?;
    subscriber.resume().await;
    let free = || of_key(&done, "free");
    stage
        .comes(&bus, "another lane", free, [10, 20, 30])
        .await?;
    let none = || of_key(&done, "");
    stage
        .comes(&bus, "without a key", none, [100, 200, 300])
        .await?;
    let held = || of_key(&done, "held");
    if !stage.is_in_real_time() {
        same("the lane that waits", held(), [0; 0])?;
    }
    let what = "the lane after its wait";
    stage.comes_after(&bus, 30, what, held, [1, 2, 3]).await?;
    let keys = done.read().into_iter().map(|(key, _)| key);
    let last: Vec<String> = keys.skip(6).collect();
    same("the lanes that came last", last, ["held"; 3])
}

async fn rule_7_keyed_handles_one_of_a_key_at_a_time(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let door = Door::shut();
    let held = door.clone();
    bus.subscribe_fn::<Note, _>("keyed", async move |_: &Note, _: &mut Context<'_>| {
        held.enter().await;
        Ok(())
    })
    .keyed(4)
    .start()
    .await
    .step("subscribing")?;
    for n in 0..9 {
        bus.publish(note(n)).key(n % 3).await.step("publishing")?;
    }
    stage.handed_over(&bus, "keyed", 9).await?;
    stage
        .until("three keys are in hand", || door.waiting() == 3)
        .await?;
    stage.pass(&bus, 1).await;
    same("in the handler: one of each key", door.waiting(), 3)?;
    door.open();
    stage
        .books(&bus, "keyed", "acked", |queue| queue.acked, 9)
        .await
}

async fn rule_7_a_dead_lettered_key_lets_its_successors_go_on(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let done = Journal::new();
    let fails = |n: u32, _| n == 1 || n == 2;
    let subscriber = keyed!(stage, bus, done, 2, 2, fails, plain_error());
    subscriber.start().await.step("subscribing")?;
    for n in 1..=4 {
        bus.publish(note(n)).key("k").await.step("publishing")?;
    }
    let ends = |queue: &QueueSnapshot| (queue.dead_lettered, queue.acked);
    stage
        .books_after(&bus, 30, "keyed", "dead-lettered, acked", ends, (2, 2))
        .await?;
    same("dead letters", stage.kept(&bus).await?, 2)?;
    same("the successors", of_key(&done, "k"), [3, 4])?;
    // And those of a message that is rejected at once.
    stage.anew().await?;
    let bus = stage.bus().await?;
    let done = Journal::new();
    let fails = |n: u32, _| n == 1;
    let subscriber = keyed!(stage, bus, done, 2, 2, fails, Failure::reject("no"));
    subscriber.start().await.step("subscribing")?;
    for n in 1..=2 {
        bus.publish(note(n)).key("k").await.step("publishing")?;
    }
    let what = "the successor of a rejected one";
    stage.comes(&bus, what, || of_key(&done, "k"), [2]).await
}

async fn rule_7_a_waiting_lane_parks_at_most_half(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let done = Journal::new();
    let fails = |n: u32, attempt: u32| n == 0 && attempt == 1;
    let subscriber = keyed!(stage, bus, done, 1, 2, fails, plain_error());
    subscriber.mailbox(8).start().await.step("subscribing")?;
    bus.publish(note(0)).key("held").await.step("publishing")?;
    bus.settle().await;
    let mut parked = 0;
    let refused = loop {
        match bus.publish(note(parked + 1)).key("held").try_now() {
            Ok(_) => parked += 1,
            Err(refused) => break refused,
        }
        holds("the lane is bounded", parked < 100, parked)?;
    };
    same("parked, of 8 credits", parked, 4)?;
    same(
        "the refusal",
        refused.kind(),
        &Refusal::Full {
            queue: "keyed".to_owned(),
        },
    )?;
    // Another key still has room.
    bus.publish(note(10))
        .key("free")
        .try_now()
        .step("publishing to another lane")?;
    bus.settle().await;
    same("another lane", of_key(&done, "free"), [10])?;
    stage.pass(&bus, 2).await;
    same(
        "the lane after its wait",
        of_key(&done, "held"),
        [0, 1, 2, 3, 4],
    )
}

async fn rule_7_a_hold_over_the_cap_is_refused_at_start(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let nothing = async |_: &Note, _: &mut Context<'_>| Ok(());
    let started = bus
        .subscribe_fn::<Note, _>("keyed", nothing)
        .keyed(2)
        .retry(attempts(5, Duration::from_secs(120)))
        .start()
        .await;
    let refused = started.err().step("being refused")?;
    let holds_too_long = matches!(refused, SubscribeError::HoldsTooLong { .. });
    holds("a hold of 8 minutes is refused", holds_too_long, &refused)?;
    bus.subscribe_fn::<Note, _>("keyed", nothing)
        .keyed(2)
        .retry(attempts(5, Duration::from_secs(60)))
        .start()
        .await
        .step("subscribing with a hold of 4 minutes")?;
    Ok(())
}

async fn rule_7_unordered_workers_really_run_at_once(stage: &Stage) -> Result<(), Unmet> {
    let bus = stage.bus().await?;
    let door = Door::shut();
    let held = door.clone();
    bus.subscribe_fn::<Note, _>("unordered", async move |_: &Note, _: &mut Context<'_>| {
        held.enter().await;
        Ok(())
    })
    .workers(4)
    .start()
    .await
    .step("subscribing")?;
    for n in 0..4 {
        bus.publish(note(n)).await.step("publishing")?;
    }
    stage
        .until("four are in the handler at once", || door.waiting() == 4)
        .await?;
    for n in 4..8 {
        bus.publish(note(n)).await.step("publishing")?;
    }
    stage.handed_over(&bus, "unordered", 8).await?;
    stage.pass(&bus, 1).await;
    same("in the handler, and no more", door.waiting(), 4)?;
    door.open();
    stage
        .books(&bus, "unordered", "acked", |queue| queue.acked, 8)
        .await
}
