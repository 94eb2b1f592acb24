//! Rows of durable queues: one consumer at a time, and everything that it writes under its fence.

use std::sync::Arc;

use super::Stand;
use super::stand::{LONG, SHORT, in_an_hour, row, until};
use crate::message::MessageId;
use crate::store::{
    BuriedRow, Failures, LetterFilter, NewLetter, NewQueued, QueueWrite, QueuedRow, RetriedRow,
    StoreSession, TakeQueued, TakenRow, TxStore,
};
use crate::testing::conformance::unmet::{Step, Unmet, holds, same};

store_scenarios! {
    a_queue_has_one_consumer_at_a_time;
    a_consumer_that_comes_late_changes_nothing;
    a_message_is_in_each_of_its_queues_once;
    a_retry_comes_back_with_its_failures_when_its_wait_is_over;
    a_dead_letter_is_kept_replayed_or_discarded;
    a_delayed_message_is_written_once;
    the_oldest_letters_are_trimmed;
}

const QUEUE: &str = "orders";

/// Takes the queue for long; none: somebody else has it.
async fn hold(session: &mut dyn StoreSession, holder: &str) -> Result<Option<i64>, Unmet> {
    let queues = [QUEUE.to_owned()];
    let held = session.hold_queues(holder, LONG, &queues, &[]).await;
    Ok(held
        .step("taking the queue")?
        .first()
        .map(|held| held.fence))
}

async fn queued(session: &mut dyn StoreSession) -> Result<Vec<QueuedRow>, Unmet> {
    let wanted = TakeQueued {
        queue: QUEUE.to_owned(),
        most: 10,
        except: Vec::new(),
    };
    session.take_queued(&wanted).await.step("taking rows")
}

fn bodies(rows: &[QueuedRow]) -> Vec<&str> {
    rows.iter().map(|queued| queued.row.body.as_str()).collect()
}

fn new(numbers: std::ops::Range<u64>) -> QueueWrite {
    let queued = |number| NewQueued::new(row(number), vec![QUEUE.to_owned()]);
    QueueWrite {
        new: numbers.map(|number| Arc::new(queued(number))).collect(),
        ..QueueWrite::default()
    }
}

fn failures() -> Failures {
    Failures {
        attempts: 3,
        errors: vec!["it's on \0purpose".to_owned(), "its source".to_owned()],
        first_failed_ms: 1_000,
        last_failed_ms: 2_000,
        awaited_handler: false,
    }
}

/// A session whose holder has the queue, with these rows taken.
async fn consumer<S: TxStore>(
    stand: &Stand<S>,
    rows: u64,
) -> Result<(Box<dyn StoreSession>, Vec<TakenRow>), Unmet> {
    let mut session = stand.session().await?;
    let fence = hold(&mut *session, "a").await?.step("having the queue")?;
    let written = session.write_queues("a", &new(0..rows)).await;
    same("new rows", written.step("writing")?.new, rows)?;
    let taken = queued(&mut *session).await?;
    same("rows that were taken", taken.len() as u64, rows)?;
    let taken = taken.iter().map(|queued| TakenRow {
        position: queued.row.position,
        fence,
    });
    Ok((session, taken.collect()))
}

async fn a_queue_has_one_consumer_at_a_time<S: TxStore>(stand: &Stand<S>) -> Result<(), Unmet> {
    let mut a = stand.session().await?;
    let first = hold(&mut *a, "a").await?.step("having the queue")?;
    let again = hold(&mut *a, "a").await?.step("having it still")?;
    same("its fence", again, first)?;
    let mut b = stand.session().await?;
    same("another consumer's fence", hold(&mut *b, "b").await?, None)?;
    a.leave_queues("a").await.step("leaving")?;
    let second = hold(&mut *b, "b").await?.step("following it")?;
    holds("a fence rises", second > first, (first, second))?;
    let queues = [QUEUE.to_owned()];
    let held = b.hold_queues("b", LONG, &[], &queues).await;
    same(
        "queues of who gives it up",
        held.step("giving up")?.len(),
        0,
    )?;
    let third = hold(&mut *a, "a").await?.step("having it again")?;
    holds("a fence rises again", third > second, (second, third))
}

async fn a_consumer_that_comes_late_changes_nothing<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    let mut a = stand.session().await?;
    let queues = [QUEUE.to_owned()];
    let held = a.hold_queues("a", SHORT, &queues, &[]).await;
    let fence = held.step("taking the queue")?[0].fence;
    a.write_queues("a", &new(0..3)).await.step("writing")?;
    let taken = queued(&mut *a).await?;
    let at = |number: usize| TakenRow {
        position: taken[number].row.position,
        fence,
    };
    let mut b = stand.session().await?;
    until("the queue of the one that is late", async || {
        Ok(hold(&mut *b, "b").await?.is_some())
    })
    .await?;
    let late = QueueWrite {
        done: vec![at(0)],
        retried: vec![RetriedRow {
            row: at(1),
            failures: failures(),
            delay: Some(LONG),
        }],
        buried: vec![BuriedRow {
            row: at(2),
            letter: MessageId::new().to_string(),
            reason: "rejected".to_owned(),
            failures: failures(),
        }],
        // What is new has no fence: who writes it may not even consume it.
        ..new(3..4)
    };
    let written = a.write_queues("a", &late).await.step("writing late")?;
    same("new rows", written.new, 1)?;
    same("rows that were done", written.done, 0)?;
    same("rows that were retried", written.retried.len(), 0)?;
    same("rows that were buried", written.buried.len(), 0)?;
    let left = queued(&mut *b).await?;
    same(
        "what its successor has",
        bodies(&left),
        ["0", "1", "2", "3"],
    )?;
    let attempted = left.iter().any(|queued| queued.failures.is_some());
    same("failures of them", attempted, false)?;
    let (letters, _) = b.count_letters().await.step("counting")?;
    same("dead letters", letters, 0)
}

async fn a_message_is_in_each_of_its_queues_once<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    let mut session = stand.session().await?;
    hold(&mut *session, "a").await?.step("having the queue")?;
    let both = vec![QUEUE.to_owned(), "mail".to_owned()];
    let write = QueueWrite {
        new: vec![Arc::new(NewQueued::new(row(0), both))],
        ..QueueWrite::default()
    };
    // The answer of the first may have been lost.
    let written = session.write_queues("a", &write).await;
    same("new rows", written.step("writing")?.new, 2)?;
    let written = session.write_queues("a", &write).await;
    same(
        "new rows of the same",
        written.step("writing again")?.new,
        0,
    )?;
    session
        .write_queues("a", &new(1..3))
        .await
        .step("writing")?;
    let counted = session.count_queued(QUEUE, 10).await.step("counting")?;
    same("rows of the queue", counted, 3)?;
    let counted = session.count_queued(QUEUE, 2).await.step("counting")?;
    same("rows of the queue, counted up to 2", counted, 2)?;
    let counted = session.count_queued("mail", 10).await.step("counting")?;
    same("rows of the other queue", counted, 1)?;
    let taken = queued(&mut *session).await?;
    same("rows in their order", bodies(&taken), ["0", "1", "2"])
}

async fn a_retry_comes_back_with_its_failures_when_its_wait_is_over<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    let (mut session, taken) = consumer(stand, 3).await?;
    let retried = |row, delay| RetriedRow {
        row,
        failures: failures(),
        delay: Some(delay),
    };
    let write = QueueWrite {
        done: vec![taken[0]],
        retried: vec![retried(taken[1], LONG), retried(taken[2], SHORT)],
        ..QueueWrite::default()
    };
    let written = session.write_queues("a", &write).await.step("writing")?;
    same("rows that were done", written.done, 1)?;
    same("rows that were retried", written.retried.len(), 2)?;
    let mut back = Vec::new();
    until("the retry", async || {
        back = queued(&mut *session).await?;
        Ok(!back.is_empty())
    })
    .await?;
    same("what is due", bodies(&back), ["2"])?;
    same("it has waited", back[0].has_waited, true)?;
    let found = back[0].failures.clone().step("finding its failures")?;
    same("its attempts", found.attempts, 3)?;
    same("its errors", found.errors.len(), 2)?;
    same("its first failure", found.first_failed_ms, 1_000)?;
    same("its last failure", found.last_failed_ms, 2_000)?;
    let except = [taken[2].position];
    let next = session.next_queued(QUEUE, &except).await.step("asking")?;
    let next = next.step("finding the other retry")?;
    in_an_hour("it is due in an hour", next)
}

async fn a_dead_letter_is_kept_replayed_or_discarded<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    let (mut session, taken) = consumer(stand, 2).await?;
    let ids = [MessageId::new().to_string(), MessageId::new().to_string()];
    let buried = |number: usize| BuriedRow {
        row: taken[number],
        letter: ids[number].clone(),
        reason: "rejected".to_owned(),
        failures: failures(),
    };
    let write = QueueWrite {
        buried: vec![buried(0), buried(1)],
        ..QueueWrite::default()
    };
    let written = session.write_queues("a", &write).await.step("writing")?;
    same("rows that were buried", written.buried.len(), 2)?;
    same("rows of the queue", queued(&mut *session).await?.len(), 0)?;
    let mut list = async |filter: LetterFilter| {
        let filter = LetterFilter { most: 10, ..filter };
        session.letters(&filter).await.step("listing")
    };
    let all = list(LetterFilter::default()).await?;
    same("dead letters", all.len(), 2)?;
    same("the oldest one's id", &all[0].id, &ids[0])?;
    same("its queue", &*all[0].queue, QUEUE)?;
    same("its reason", &*all[0].reason, "rejected")?;
    same("its attempts", all[0].failures.attempts, 3)?;
    same("its message", &*all[0].message.body, "0")?;
    let by = |queue: &str| LetterFilter {
        queue: Some(queue.to_owned()),
        ..LetterFilter::default()
    };
    same("those of the queue", list(by(QUEUE)).await?.len(), 2)?;
    same("those of another queue", list(by("mail")).await?.len(), 0)?;
    let behind = LetterFilter {
        after: all[0].position,
        ..LetterFilter::default()
    };
    same("those behind the first", list(behind).await?.len(), 1)?;
    let replayed = session.replay_letter(&ids[0]).await.step("replaying")?;
    same("its queue", replayed.as_deref(), Some(QUEUE))?;
    let replayed = session.replay_letter(&ids[0]).await.step("replaying")?;
    same("one that was replayed", replayed, None::<String>)?;
    let back = queued(&mut *session).await?;
    same("rows of the queue then", bodies(&back), ["0"])?;
    let attempts = back[0].failures.as_ref().map_or(0, |found| found.attempts);
    same("its attempts", attempts, 0)?;
    for was_there in [true, false] {
        let discarded = session.discard_letter(&ids[1]).await;
        same("it was there", discarded.step("discarding")?, was_there)?;
    }
    let (letters, _) = session.count_letters().await.step("counting")?;
    same("dead letters", letters, 0)
}

async fn a_delayed_message_is_written_once<S: TxStore>(stand: &Stand<S>) -> Result<(), Unmet> {
    let mut session = stand.session().await?;
    let write = QueueWrite {
        delayed: vec![Arc::new(row(0).delayed(LONG))],
        ..QueueWrite::default()
    };
    for _ in 0..2 {
        session.write_queues("a", &write).await.step("writing")?;
    }
    let count = session.count_delayed().await.step("counting")?;
    same("delayed rows", count, 1)
}

async fn the_oldest_letters_are_trimmed<S: TxStore>(stand: &Stand<S>) -> Result<(), Unmet> {
    let mut session = stand.session().await?;
    let letter = |number| {
        let id = MessageId::new().to_string();
        let (queue, reason) = ("memory".to_owned(), "rejected".to_owned());
        Arc::new(NewLetter::new(id, queue, reason, failures(), row(number)))
    };
    let write = QueueWrite {
        letters: (0..5).map(letter).collect(),
        ..QueueWrite::default()
    };
    for _ in 0..2 {
        session.write_queues("a", &write).await.step("writing")?;
    }
    let (count, _) = session.count_letters().await.step("counting")?;
    same("dead letters", count, 5)?;
    for trimmed in [2, 1, 0] {
        let found = session.trim_letters(2, 2).await.step("trimming")?;
        same("letters that were trimmed", found, trimmed)?;
    }
    let filter = LetterFilter {
        most: 10,
        ..LetterFilter::default()
    };
    let left = session.letters(&filter).await.step("listing")?;
    let left: Vec<_> = left
        .iter()
        .map(|letter| letter.message.body.as_str())
        .collect();
    same("the newest ones", left, ["3", "4"])?;
    // One of a queue that was never durable has nowhere to go.
    let id = session.letters(&filter).await.step("listing")?[0]
        .id
        .clone();
    let replayed = session.replay_letter(&id).await.step("replaying")?;
    same("its queue", replayed, None::<String>)?;
    let (count, _) = session.count_letters().await.step("counting")?;
    same("dead letters", count, 2)
}
