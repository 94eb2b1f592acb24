//! Relays share the lanes by leases, and one that comes late changes nothing of its successor's.

use std::collections::BTreeSet;

use super::Stand;
use super::stand::{
    LONG, SHORT, all_of, bodies, fence_of, lanes_of, published, row, the_row, until,
};
use crate::store::{FailedRow, LANES, LaneLease, TxStore};
use crate::testing::conformance::unmet::{Step, Unmet, holds, same};

store_scenarios! {
    relays_share_the_lanes;
    a_lease_that_runs_is_nobody_elses;
    a_lease_that_has_run_out_is_taken_over_and_its_holder_is_fenced_out;
    a_holder_that_nobody_has_followed_keeps_its_fences;
    a_relay_that_leaves_keeps_what_is_still_on_its_way;
}

async fn relays_share_the_lanes<S: TxStore>(stand: &Stand<S>) -> Result<(), Unmet> {
    let (mut a, alone) = stand.relay("a").await?;
    same("relays", alone.relays, 1)?;
    let mut b = stand.session().await?;
    let waits = b.renew("b", LONG, &[]).await.step("renewing")?;
    same("relays", waits.relays, 2)?;
    same("the share of each", waits.share, LANES / 2)?;
    same("lanes while nobody gives any up", waits.held.len(), 0)?;
    let surplus = &lanes_of(&alone)[LANES as usize / 2..];
    let of_a = a.renew("a", LONG, surplus).await.step("renewing")?;
    let of_b = b.renew("b", LONG, &[]).await.step("renewing")?;
    let set = |lease: &LaneLease| lanes_of(lease).into_iter().collect::<BTreeSet<_>>();
    same(
        "the lanes of the first",
        of_a.held.len(),
        LANES as usize / 2,
    )?;
    same(
        "the lanes of the second",
        of_b.held.len(),
        LANES as usize / 2,
    )?;
    let both = set(&of_a).intersection(&set(&of_b)).count();
    same("lanes that both have", both, 0)?;
    for held in &of_b.held {
        let before = fence_of(&alone, held.lane)?;
        holds("a fence rises", held.fence > before, (before, held.fence))?;
    }
    let lanes = a.lanes().await.step("listing the lanes")?;
    same("lanes", lanes.len(), LANES as usize)?;
    let of_b_listed = lanes
        .iter()
        .filter(|(_, holder)| holder.as_deref() == Some("b"));
    let of_b_listed: BTreeSet<_> = of_b_listed.map(|(held, _)| held.lane).collect();
    same(
        "the lanes of the second, as listed",
        of_b_listed,
        set(&of_b),
    )
}

async fn a_lease_that_runs_is_nobody_elses<S: TxStore>(stand: &Stand<S>) -> Result<(), Unmet> {
    let (_a, _) = stand.relay("a").await?;
    let mut b = stand.session().await?;
    for _ in 0..3 {
        let of_b = b.renew("b", LONG, &[]).await.step("renewing")?;
        same("lanes of another relay", of_b.held.len(), 0)?;
    }
    Ok(())
}

async fn a_lease_that_has_run_out_is_taken_over_and_its_holder_is_fenced_out<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    let mut a = stand.session().await?;
    let of_a = a.renew("a", SHORT, &[]).await.step("renewing")?;
    stand.write(&[row(0)]).await?;
    let taken = the_row(&mut *a, &all_of(&of_a)).await?;
    let mut b = stand.session().await?;
    let mut of_b = LaneLease::default();
    until("all lanes of the one that is late", async || {
        of_b = b.renew("b", LONG, &[]).await.step("renewing")?;
        Ok(of_b.held.len() == LANES as usize)
    })
    .await?;
    same("relays that live", of_b.relays, 1)?;
    let late = published(&of_a, &taken)?;
    for keep in [false, true] {
        let marked = a.mark_published("a", &[late], keep).await;
        same("rows that the late one marked", marked.step("marking")?, 0)?;
    }
    let failed = FailedRow {
        position: taken.position,
        fence: late.fence,
        attempts: 1,
        error: "late".to_owned(),
        retry_in: None,
    };
    let marked = a.mark_failed("a", &[failed]).await;
    same("rows that the late one failed", marked.step("marking")?, 0)?;
    // Neither does it by the fence of its successor, nor this one by that of the late one.
    let by = published(&of_b, &taken)?;
    let marked = a.mark_published("a", &[by], false).await;
    same("rows marked by another's fence", marked.step("marking")?, 0)?;
    let marked = b.mark_published("b", &[late], false).await;
    same("rows marked by an old fence", marked.step("marking")?, 0)?;
    let seen = bodies(&mut *b, &all_of(&of_b)).await?;
    same("what waits", seen, ["0"])?;
    let marked = b.mark_published("b", &[by], false).await;
    same("rows that the successor marked", marked.step("marking")?, 1)
}

async fn a_holder_that_nobody_has_followed_keeps_its_fences<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    let mut a = stand.session().await?;
    let first = a.renew("a", SHORT, &[]).await.step("renewing")?;
    // Its lease has run out before it has read this.
    stand.write(&[row(0)]).await?;
    let second = a.renew("a", LONG, &[]).await.step("renewing")?;
    same("its lanes and fences", second.held, first.held)
}

async fn a_relay_that_leaves_keeps_what_is_still_on_its_way<S: TxStore>(
    stand: &Stand<S>,
) -> Result<(), Unmet> {
    let (mut a, of_a) = stand.relay("a").await?;
    let written = row(0);
    let lane = written.lane;
    stand.write(&[written]).await?;
    let taken = the_row(&mut *a, &all_of(&of_a)).await?;
    a.leave("a", &[lane]).await.step("leaving")?;
    let mut b = stand.session().await?;
    let of_b = b.renew("b", LONG, &[]).await.step("renewing")?;
    same(
        "the lanes of its successor",
        of_b.held.len(),
        LANES as usize - 1,
    )?;
    let has_it = lanes_of(&of_b).contains(&lane);
    holds("the one that is kept is not among them", !has_it, lane)?;
    let mark = published(&of_a, &taken)?;
    let marked = a.mark_published("a", &[mark], false).await;
    same("rows that it marks still", marked.step("marking")?, 1)?;
    a.leave("a", &[]).await.step("leaving")?;
    let of_b = b.renew("b", LONG, &[]).await.step("renewing")?;
    same(
        "the lanes of its successor then",
        of_b.held.len(),
        LANES as usize,
    )
}
