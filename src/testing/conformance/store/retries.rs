//! Rows that wait: for a retry, for their time, for somebody to look at them.

use std::time::Duration;

use super::Stand;
use super::stand::{
    LONG, SHORT, all_of, bodies, event, fence_of, in_an_hour, in_an_hour_ms, published, row,
    the_row, until,
};
use crate::store::{FailedRow, LaneLease, StoreSession, StoredRow, TxStore};
use crate::testing::conformance::unmet::{Step, Unmet, holds, same};

store_scenarios! {
    a_row_that_waits_for_its_retry_holds_its_key_and_nothing_else;
    a_failure_that_is_written_again_counts_once;
    a_row_that_is_given_up_lets_its_key_go_on;
    a_dead_row_is_replayed_or_discarded;
    a_delayed_row_comes_when_it_is_due;
    a_delayed_row_is_taken_back_until_it_was_taken;
    delayed_rows_are_listed_by_their_times;
}

async fn fail(
    session: &mut dyn StoreSession,
    lease: &LaneLease,
    row: &StoredRow,
    retry_in: Option<Duration>,
) -> Result<(), Unmet> {
    let failed = FailedRow {
        position: row.position,
        fence: fence_of(lease, row.lane)?,
        attempts: row.attempts + 1,
        error: "it's on \0purpose".to_owned(),
        retry_in,
    };
    let marked = session.mark_failed("a", &[failed]).await;
    same("rows that failed", marked.step("marking")?, 1)
}

async fn a_row_that_waits_for_its_retry_holds_its_key_and_nothing_else<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    let (mut session, lease) = stand.relay("a").await?;
    let all = all_of(&lease);
    stand.write(&[row(0).keyed("k")]).await?;
    let first = the_row(&mut *session, &all).await?;
    stand.write(&[row(1).keyed("k"), row(2)]).await?;
    fail(&mut *session, &lease, &first, Some(LONG)).await?;
    let seen = bodies(&mut *session, &all).await?;
    same("what may go", seen, ["2"])?;
    let due = session.next_due().await.step("asking")?;
    same("something is due", due.is_past, false)?;
    let next = due.next.step("finding what is due next")?;
    in_an_hour("its retry is due in an hour", next)?;
    fail(&mut *session, &lease, &first, Some(SHORT)).await?;
    until("its retry", async || {
        Ok(bodies(&mut *session, &all).await?.contains(&"0".to_owned()))
    })
    .await?;
    let mut taken = session.take(&all).await.step("taking rows")?;
    taken.sort_by_key(|row| row.position);
    let seen: Vec<_> = taken.iter().map(|row| row.body.as_str()).collect();
    same("what may go before the retry", seen, ["0", "2"])?;
    same("its attempts", taken[0].attempts, 1)?;
    let mark = [published(&lease, &taken[0])?];
    let marked = session.mark_published("a", &mark, false).await;
    same("rows that were marked", marked.step("marking")?, 1)?;
    let seen = bodies(&mut *session, &all).await?;
    same("what may go after it", seen, ["1", "2"])
}

async fn a_failure_that_is_written_again_counts_once<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    let (mut session, lease) = stand.relay("a").await?;
    stand.write(&[row(0)]).await?;
    let taken = the_row(&mut *session, &all_of(&lease)).await?;
    for _ in 0..2 {
        fail(&mut *session, &lease, &taken, Some(SHORT)).await?;
    }
    until("its retry", async || {
        Ok(!bodies(&mut *session, &all_of(&lease)).await?.is_empty())
    })
    .await?;
    let taken = the_row(&mut *session, &all_of(&lease)).await?;
    same("its attempts", taken.attempts, 1)
}

async fn a_row_that_is_given_up_lets_its_key_go_on<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    let (mut session, lease) = stand.relay("a").await?;
    stand.write(&[row(0).keyed("k")]).await?;
    let first = the_row(&mut *session, &all_of(&lease)).await?;
    stand.write(&[row(1).keyed("k")]).await?;
    fail(&mut *session, &lease, &first, None).await?;
    let seen = bodies(&mut *session, &all_of(&lease)).await?;
    same("what may go", seen, ["1"])?;
    let backlog = session.backlog(10).await.step("counting")?;
    same("waiting and dead rows", backlog, (1, 1))
}

async fn a_dead_row_is_replayed_or_discarded<S: TxStore>(stand: &Stand<S>) -> Result<(), Unmet> {
    let (mut session, lease) = stand.relay("a").await?;
    let all = all_of(&lease);
    stand.write(&[row(0).keyed("k")]).await?;
    let taken = the_row(&mut *session, &all).await?;
    let replayed = session.replay(&taken.id).await.step("replaying")?;
    same("one that is not dead is replayed", replayed, false)?;
    fail(&mut *session, &lease, &taken, None).await?;
    let dead = session.dead(10).await.step("listing")?;
    same("dead rows", dead.len(), 1)?;
    same("its id", &*dead[0].id, &*taken.id)?;
    same("its kind", &*dead[0].kind, "event")?;
    same("its address", &*dead[0].address, &*taken.address)?;
    same("its key", dead[0].key.as_deref(), Some("k"))?;
    same("its attempts", dead[0].attempts, 1)?;
    same("its body", &*dead[0].body, "0")?;
    let why = dead[0].last_error.as_deref().unwrap_or_default();
    holds("it says why", why.contains("it's on"), why)?;
    let since = &*dead[0].created_at;
    holds("it says since when", !since.is_empty(), since)?;
    let replayed = session.replay(&taken.id).await.step("replaying")?;
    same("it was there", replayed, true)?;
    let again = the_row(&mut *session, &all).await?;
    same("its attempts", again.attempts, 0)?;
    fail(&mut *session, &lease, &again, None).await?;
    let discarded = session.discard(&taken.id).await.step("discarding")?;
    same("it was there", discarded, true)?;
    let discarded = session.discard(&taken.id).await.step("discarding")?;
    same("it was there still", discarded, false)?;
    let backlog = session.backlog(10).await.step("counting")?;
    same("waiting and dead rows", backlog, (0, 0))
}

async fn a_delayed_row_comes_when_it_is_due<S: TxStore>(stand: &Stand<S>) -> Result<(), Unmet> {
    let (mut session, lease) = stand.relay("a").await?;
    let all = all_of(&lease);
    let written = [
        row(0).delayed(LONG),
        // It holds nothing of its key until its time has come.
        row(1).keyed("k").delayed(LONG),
        row(2).keyed("k"),
        row(3).delayed(SHORT),
    ];
    stand.write(&written).await?;
    let mut seen = Vec::new();
    until("what is due", async || {
        seen = bodies(&mut *session, &all).await?;
        Ok(seen.len() >= 2)
    })
    .await?;
    seen.sort_unstable();
    same("what is due", seen, ["2", "3"])?;
    let next = session.next_due().await.step("asking")?.next;
    let next = next.step("finding what is due next")?;
    in_an_hour("the next one is due in an hour", next)
}

async fn a_delayed_row_is_taken_back_until_it_was_taken<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    let (mut session, lease) = stand.relay("a").await?;
    let (late, due) = (row(0).delayed(LONG), row(1).delayed(SHORT));
    let ids = [late.id.clone(), due.id.clone()];
    stand.write(&[late, due, row(2)]).await?;
    let cancelled = session.cancel(&ids[0]).await.step("taking it back")?;
    same("it was there", cancelled, true)?;
    let cancelled = session.cancel(&ids[0]).await.step("taking it back")?;
    same("it was there still", cancelled, false)?;
    until("what is due", async || {
        let seen = bodies(&mut *session, &all_of(&lease)).await?;
        Ok(seen.contains(&"1".to_owned()))
    })
    .await?;
    let cancelled = session.cancel(&ids[1]).await.step("taking it back")?;
    same("one that was taken is taken back", cancelled, false)?;
    let count = session.count_delayed().await.step("counting")?;
    same("delayed rows", count, 0)
}

async fn delayed_rows_are_listed_by_their_times<S: TxStore>(stand: &Stand<S>) -> Result<(), Unmet> {
    let mut session = stand.session().await?;
    let written = [
        row(0).delayed(LONG * 3),
        event("conformance.other", 1).delayed(LONG * 2),
        row(2).delayed(LONG),
        row(3),
    ];
    stand.write(&written).await?;
    let count = session.count_delayed().await.step("counting")?;
    same("delayed rows", count, 3)?;
    let mut list = async |address: Option<&str>, most| {
        let rows = session.delayed(address, most).await.step("listing")?;
        let bodies = rows.iter().map(|delayed| delayed.row.body.clone());
        Ok(bodies.collect::<Vec<_>>())
    };
    same("all", list(None, 10).await?, ["2", "1", "0"])?;
    same("the first two", list(None, 2).await?, ["2", "1"])?;
    let address = Some("conformance.other");
    same("those of an address", list(address, 10).await?, ["1"])?;
    let rows = session.delayed(None, 1).await.step("listing")?;
    in_an_hour_ms("the first is due in an hour", rows[0].due_in_ms)
}
