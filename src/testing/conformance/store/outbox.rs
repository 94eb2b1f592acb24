//! Rows of the outbox: written in transactions, read, marked, cleaned up.

use super::Stand;
use super::stand::{
    LONG, Overtaking, all_of, bodies, event, in_an_hour_ms, is_cleaned, lanes_of, published, row,
    rows, take, the_row,
};
use crate::store::{LaneLease, StoreSession, TakeRows, TxStore};
use crate::testing::conformance::unmet::{Step, Unmet, holds, same};

store_scenarios! {
    the_tables_are_made_once_however_many_begin;
    tables_that_are_missing_are_told;
    what_was_committed_is_read_in_its_order;
    a_row_comes_back_as_it_was_written;
    what_was_rolled_back_was_never_there;
    what_commits_late_is_not_passed_over;
    no_more_is_read_than_was_wanted;
    what_goes_to_a_blocked_address_stays_and_holds_its_key;
    what_was_published_is_gone;
    what_was_published_is_kept_until_it_is_old;
}

async fn the_tables_are_made_once_however_many_begin<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    let [mut a, mut b, mut c] = [
        stand.open().await?,
        stand.open().await?,
        stand.open().await?,
    ];
    let (a_made, b_made, c_made) = tokio::join!(a.migrate(), b.migrate(), c.migrate());
    for made in [a_made, b_made, c_made] {
        made.step("making the tables")?;
    }
    a.migrate().await.step("making them again")?;
    b.check().await.step("checking them")
}

async fn tables_that_are_missing_are_told<S: TxStore>(stand: &Stand<S>) -> Result<(), Unmet> {
    let checked = stand.open().await?.check().await;
    holds("missing tables are an error", checked.is_err(), checked)
}

async fn what_was_committed_is_read_in_its_order<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    let (mut session, lease) = stand.relay("a").await?;
    stand.write(&rows(0..3)).await?;
    stand.write(&rows(3..5)).await?;
    let changed = session.has_changed().await;
    same("a commit is seen", changed.step("asking")?, true)?;
    let seen = bodies(&mut *session, &all_of(&lease)).await?;
    same("what was written", seen, ["0", "1", "2", "3", "4"])?;
    let backlog = session.backlog(3).await.step("counting")?;
    same("waiting rows, counted up to 3", backlog, (3, 0))
}

async fn a_row_comes_back_as_it_was_written<S: TxStore>(stand: &Stand<S>) -> Result<(), Unmet> {
    let (mut session, lease) = stand.relay("a").await?;
    let mut written = event("conformance.größe", 7).keyed("o'key \u{1f511} %_\\");
    written.kind = "command";
    written.correlation = Some("a'b\"c".to_owned());
    written.causation = Some("d".to_owned());
    written.headers = Some("[[\"tenant\",\"ä\"]]".to_owned());
    written.traceparent =
        Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    written.expires_in = Some(LONG);
    written.body = "{\"text\":\"it's $1 ? \\u0000 \u{1f4ee}\"}".to_owned();
    stand.write(std::slice::from_ref(&written)).await?;
    let read = the_row(&mut *session, &all_of(&lease)).await?;
    same("its id", read.id, written.id)?;
    same("its lane", read.lane, written.lane)?;
    same("its kind", read.kind, written.kind)?;
    same("its address", read.address, written.address)?;
    same("its key", read.key, written.key)?;
    same("its correlation", read.correlation, written.correlation)?;
    same("its causation", read.causation, written.causation)?;
    same("its headers", read.headers, written.headers)?;
    same("its trace context", read.traceparent, written.traceparent)?;
    same("its attempts", read.attempts, 0)?;
    same("its body", read.body, written.body)?;
    let left = read.expires_in_ms.step("finding its expiry")?;
    in_an_hour_ms("it expires in an hour", left)
}

async fn what_was_rolled_back_was_never_there<S: TxStore>(stand: &Stand<S>) -> Result<(), Unmet> {
    let (mut session, lease) = stand.relay("a").await?;
    let mut connection = stand.connect().await?;
    stand.begin(&mut connection, "m").await?;
    stand.insert(&mut connection, &rows(0..2)).await?;
    stand.roll_back(&mut connection).await?;
    // The connection is as good as before, and one that is dropped rolls back.
    stand.begin(&mut connection, "m").await?;
    stand.insert(&mut connection, &rows(2..4)).await?;
    drop(connection);
    stand.write(&rows(4..5)).await?;
    let seen = bodies(&mut *session, &all_of(&lease)).await?;
    same("what was committed", seen, ["4"])
}

async fn what_commits_late_is_not_passed_over<S: TxStore>(stand: &Stand<S>) -> Result<(), Unmet> {
    let (mut session, lease) = stand.relay("a").await?;
    let mut late = stand.connect().await?;
    stand.begin(&mut late, "late").await?;
    stand.insert(&mut late, &rows(0..1)).await?;
    let seen = bodies(&mut *session, &all_of(&lease)).await?;
    same("what has not committed", seen.len(), 0)?;
    let overtaking = Overtaking::default();
    let others = rows(1..2);
    let other = async {
        // Where there is one writer at a time, it waits for the other one.
        let seen = match stand.write(&others).await {
            Ok(()) => publish_all(&mut *session, &lease).await,
            Err(unmet) => Err(unmet),
        };
        overtaking.is_done();
        seen
    };
    let late = async {
        overtaking.is_given_time().await;
        stand.commit(&mut late, "late", &[]).await
    };
    let (other, late) = tokio::join!(other, late);
    late?;
    let mut seen = other?;
    seen.extend(publish_all(&mut *session, &lease).await?);
    seen.sort_unstable();
    same("what both wrote", seen, ["0", "1"])
}

/// Reads what is there and marks it, as a relay does.
async fn publish_all(
    session: &mut dyn StoreSession,
    lease: &LaneLease,
) -> Result<Vec<String>, Unmet> {
    let taken = take(session, &all_of(lease)).await?;
    if taken.is_empty() {
        return Ok(Vec::new());
    }
    let marks: Result<Vec<_>, _> = taken.iter().map(|row| published(lease, row)).collect();
    let marked = session.mark_published("a", &marks?, false).await;
    same(
        "rows that were marked",
        marked.step("marking")?,
        taken.len() as u64,
    )?;
    Ok(taken.into_iter().map(|row| row.body).collect())
}

async fn no_more_is_read_than_was_wanted<S: TxStore>(stand: &Stand<S>) -> Result<(), Unmet> {
    let (mut session, lease) = stand.relay("a").await?;
    let written: Vec<_> = (0..6).map(|number| row(number).keyed("k")).collect();
    let lane = written[0].lane;
    stand.write(&written).await?;
    let wanted = TakeRows {
        most: 2,
        ..all_of(&lease)
    };
    same(
        "the first two",
        bodies(&mut *session, &wanted).await?,
        ["0", "1"],
    )?;
    let first = take(&mut *session, &wanted).await?;
    let wanted = TakeRows {
        except: first.iter().map(|row| row.position).collect(),
        ..wanted
    };
    same(
        "the next two",
        bodies(&mut *session, &wanted).await?,
        ["2", "3"],
    )?;
    let mut others = lanes_of(&lease);
    others.retain(|other| *other != lane);
    let wanted = TakeRows {
        lanes: others,
        ..all_of(&lease)
    };
    let seen = bodies(&mut *session, &wanted).await?;
    same("what is of other lanes", seen.len(), 0)
}

async fn what_goes_to_a_blocked_address_stays_and_holds_its_key<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    let (mut session, lease) = stand.relay("a").await?;
    let written = [
        event("blocked.one", 0).keyed("k"),
        row(1).keyed("k"),
        row(2).keyed("other"),
        event("blocked.one", 3),
        row(4),
    ];
    stand.write(&written).await?;
    let wanted = TakeRows {
        blocked: vec!["blocked.one".to_owned(), "another".to_owned()],
        ..all_of(&lease)
    };
    same(
        "what may go",
        bodies(&mut *session, &wanted).await?,
        ["2", "4"],
    )?;
    let seen = bodies(&mut *session, &all_of(&lease)).await?;
    same("what may go then", seen, ["0", "1", "2", "3", "4"])
}

async fn what_was_published_is_gone<S: TxStore>(stand: &Stand<S>) -> Result<(), Unmet> {
    let (mut session, lease) = stand.relay("a").await?;
    stand.write(&rows(0..3)).await?;
    let taken = take(&mut *session, &all_of(&lease)).await?;
    let marks = [published(&lease, &taken[0])?, published(&lease, &taken[1])?];
    let marked = session.mark_published("a", &marks, false).await;
    same("rows that were marked", marked.step("marking")?, 2)?;
    let marked = session.mark_published("a", &marks, false).await;
    same("rows that were marked again", marked.step("marking")?, 0)?;
    let left = bodies(&mut *session, &all_of(&lease)).await?;
    same("what is left", left, ["2"])?;
    let backlog = session.backlog(10).await.step("counting")?;
    same("waiting and dead rows", backlog, (1, 0))
}

async fn what_was_published_is_kept_until_it_is_old<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    let (mut session, lease) = stand.relay("a").await?;
    stand.write(&rows(0..4)).await?;
    let taken = take(&mut *session, &all_of(&lease)).await?;
    let marks: Result<Vec<_>, _> = taken[..3]
        .iter()
        .map(|row| published(&lease, row))
        .collect();
    let marked = session.mark_published("a", &marks?, true).await;
    same("rows that were marked", marked.step("marking")?, 3)?;
    let left = bodies(&mut *session, &all_of(&lease)).await?;
    same("what is left", left, ["3"])?;
    let clean = async |older_than, most| session.clean_outbox(older_than, most).await;
    is_cleaned(3, clean).await?;
    let left = bodies(&mut *session, &all_of(&lease)).await?;
    same("what waits stays", left, ["3"])
}
