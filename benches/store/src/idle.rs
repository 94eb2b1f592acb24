//! An outbox that has nothing to do: how soon one message is handled, and what polling costs.

use std::time::{Duration, Instant};

use anyhow::Context;

use crate::base::{Base, Numbered};
use crate::{Run, report};

/// From the call of commit to the handler.
pub async fn latency(run: &Run<'_>, case: &str) -> anyhow::Result<Vec<String>> {
    let messages = if run.quick { 20 } else { 300 };
    let base = Base::make(run.kind, run.services).await?;
    let bus = base.bus().start().await?;
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let subscriber = bus.subscribe_fn::<Numbered, _>("sink", async move |_, _| {
        // The bench may have ended.
        let _ = told.send(Instant::now());
        Ok(())
    });
    subscriber.start().await?;
    bus.outbox().context("a bus without a store")?.start_relay();
    let mut lines = Vec::new();
    for by_outbox in [false, true] {
        let mut times = Vec::new();
        for id in 0..messages {
            // Long enough to be idle.
            tokio::time::sleep(Duration::from_millis(30)).await;
            let mut tx = base.begin().await?;
            tx.publish(&bus, Numbered::new(id)).await?;
            let begun = Instant::now();
            if by_outbox {
                tx.commit_by(&bus).await?;
            } else {
                tx.commit().await?;
            }
            let handled = heard.recv().await.context("the subscriber has ended")?;
            times.push(handled.saturating_duration_since(begun).as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let by = if by_outbox {
            "outbox.commit"
        } else {
            "tx.commit"
        };
        lines.push(format!(
            "{case} {by}: p50 {:.2} ms, p99 {:.2} ms",
            report::median(&times),
            times[times.len() * 99 / 100]
        ));
    }
    bus.shutdown(Duration::from_secs(5)).await;
    Ok(lines)
}

/// Processor time of this process while nothing happens. A PostgreSQL's own is not in it.
pub async fn polling(run: &Run<'_>, case: &str) -> anyhow::Result<Vec<String>> {
    let base = Base::make(run.kind, run.services).await?;
    let bus = base.bus().start().await?;
    bus.outbox().context("a bus without a store")?.start_relay();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (begun, before) = (Instant::now(), processor_time());
    tokio::time::sleep(Duration::from_secs(if run.quick { 2 } else { 20 })).await;
    let share = (processor_time() - before).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
    bus.shutdown(Duration::from_secs(5)).await;
    Ok(vec![format!("{case}: {share:.2} % of a core")])
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
