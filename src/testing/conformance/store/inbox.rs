//! A message is recorded with what its handler does, once.

use std::cell::Cell;

use super::Stand;
use super::stand::{CONSUMER, Overtaking, all_of, bodies, is_cleaned, rows};
use crate::store::{StoreConnection, TxStore};
use crate::testing::conformance::unmet::{Step, Unmet, holds, same};

store_scenarios! {
    a_message_is_handled_once_by_each_consumer;
    a_message_whose_handling_was_rolled_back_is_new;
    who_handles_the_same_message_waits_for_the_first;
    who_waited_for_one_that_rolls_back_handles_it;
    what_a_handler_sends_commits_with_its_record;
    a_record_is_of_the_users_transaction;
    records_are_kept_until_they_are_old;
}

async fn a_message_is_handled_once_by_each_consumer<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    stand.session().await?;
    let mut connection = stand.connect().await?;
    stand
        .begins("the first time", &mut connection, "m", true)
        .await?;
    stand.commit(&mut connection, "m", &[]).await?;
    stand
        .begins("the second time", &mut connection, "m", false)
        .await?;
    // It is in no transaction now, and goes on.
    stand
        .begins("another message", &mut connection, "n", true)
        .await?;
    stand.commit(&mut connection, "n", &[]).await?;
    let begun = stand.store.begin_handling(&mut connection, "other", "m");
    same(
        "another consumer",
        begun.await.step("beginning to handle")?,
        true,
    )?;
    stand.roll_back(&mut connection).await
}

async fn a_message_whose_handling_was_rolled_back_is_new<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    stand.session().await?;
    let mut connection = stand.connect().await?;
    stand
        .begins("the first time", &mut connection, "m", true)
        .await?;
    stand.roll_back(&mut connection).await?;
    stand
        .begins("the second time", &mut connection, "m", true)
        .await?;
    // As when its process dies.
    drop(connection);
    let mut connection = stand.connect().await?;
    stand
        .begins("the third time", &mut connection, "m", true)
        .await?;
    stand.commit(&mut connection, "m", &[]).await?;
    stand
        .begins("the fourth time", &mut connection, "m", false)
        .await
}

/// Whether a second one handles the message, which begins while the first one is at it.
async fn second<S: TxStore>(stand: &Stand<S>, first_commits: bool) -> Result<bool, Unmet> {
    stand.session().await?;
    let mut first = stand.connect().await?;
    let mut second = stand.connect().await?;
    stand.begins("the first", &mut first, "m", true).await?;
    let has_ended = Cell::new(false);
    let overtaking = Overtaking::default();
    let first = async {
        overtaking.is_given_time().await;
        has_ended.set(true);
        match first_commits {
            true => stand.commit(&mut first, "m", &[]).await,
            false => stand.roll_back(&mut first).await,
        }
    };
    let second = async {
        let begun = stand.begin(&mut second, "m").await;
        overtaking.is_done();
        let begun = begun?;
        holds("it has waited", has_ended.get(), begun)?;
        Ok::<_, Unmet>(begun)
    };
    let (first, second) = tokio::join!(first, second);
    first?;
    second
}

async fn who_handles_the_same_message_waits_for_the_first<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    same("the second handles it", second(stand, true).await?, false)
}

async fn who_waited_for_one_that_rolls_back_handles_it<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    same("the second handles it", second(stand, false).await?, true)
}

async fn what_a_handler_sends_commits_with_its_record<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    let (mut session, lease) = stand.relay("a").await?;
    let mut connection = stand.connect().await?;
    stand.begin(&mut connection, "m").await?;
    stand.insert(&mut connection, &rows(0..1)).await?;
    let seen = bodies(&mut *session, &all_of(&lease)).await?;
    same("what is there before the commit", seen.len(), 0)?;
    stand.commit(&mut connection, "m", &rows(1..3)).await?;
    let seen = bodies(&mut *session, &all_of(&lease)).await?;
    same("what is there after it", seen, ["0", "1", "2"])
}

async fn a_record_is_of_the_users_transaction<S: TxStore>(stand: &Stand<S>) -> Result<(), Unmet> {
    stand.session().await?;
    let mut connection = stand.connect().await?;
    let record = async |connection: &mut S::Connection, message| {
        let recorded = connection.record_handled(&stand.store, CONSUMER, message);
        recorded.await.step("recording")
    };
    stand.begin(&mut connection, "m").await?;
    same("the first time", record(&mut connection, "n").await?, true)?;
    same(
        "the second time",
        record(&mut connection, "n").await?,
        false,
    )?;
    stand.roll_back(&mut connection).await?;
    stand.begin(&mut connection, "m").await?;
    same(
        "after a roll back",
        record(&mut connection, "n").await?,
        true,
    )?;
    stand.commit(&mut connection, "m", &[]).await?;
    stand
        .begins("after a commit", &mut connection, "n", false)
        .await
}

async fn records_are_kept_until_they_are_old<S: TxStore>(stand: &Stand<S>) -> Result<(), Unmet> {
    let mut session = stand.session().await?;
    let mut connection = stand.connect().await?;
    for message in ["a", "b", "c"] {
        stand.begin(&mut connection, message).await?;
        stand.commit(&mut connection, message, &[]).await?;
    }
    stand
        .begins("it is known", &mut connection, "a", false)
        .await?;
    let clean = async |older_than, most| session.clean_inbox(older_than, most).await;
    is_cleaned(3, clean).await?;
    stand
        .begins("it is forgotten", &mut connection, "a", true)
        .await
}
