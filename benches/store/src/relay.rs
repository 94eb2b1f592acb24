//! How fast rows are relayed: to RabbitMQ, beside the bridge's own confirmed publish and a loop of select, publish, mark
//! for each row; and to a local queue, with a small and a large backlog.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::StreamExt;
use postroom::{Amqp, Bus};

use crate::base::{Base, Numbered, Pool};
use crate::{Run, backlog, report};

struct Stage {
    base: Base,
    bus: Bus,
    handled: Arc<AtomicU64>,
}

/// A bus that publishes to RabbitMQ, where a quorum queue takes it, or to a local queue.
async fn stage(run: &Run<'_>, bridged: bool) -> anyhow::Result<Stage> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let base = Base::make(run.kind, run.services).await?;
    let mut builder = base.bus();
    if bridged {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("bench{}-{number}", std::process::id());
        let amqp = || Amqp::new(&run.services.amqp_url).prefix(&prefix);
        // Its queue stays, and nobody consumes.
        let sink = Bus::builder(format!("sink-{prefix}"))
            .bridge(amqp().import("load.#"))
            .start()
            .await?;
        let nothing = sink.subscribe_fn::<Numbered, _>("sink", async |_, _| Ok(()));
        nothing.start().await?;
        sink.shutdown(Duration::from_secs(5)).await;
        builder = builder.bridge(amqp().export("load.#"));
    }
    let bus = builder.start().await?;
    let handled = Arc::new(AtomicU64::new(0));
    if !bridged {
        let counted = Arc::clone(&handled);
        let subscriber = bus.subscribe_fn::<Numbered, _>("sink", async move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        subscriber.mailbox(10_000).start().await?;
    }
    Ok(Stage { base, bus, handled })
}

impl Stage {
    /// Messages a second, from the start of the relay until so many are published and marked.
    async fn relay(&self, rows: u64) -> anyhow::Result<f64> {
        let outbox = self.bus.outbox().context("a bus without a store")?;
        let begun = Instant::now();
        outbox.start_relay();
        loop {
            let counts = self
                .bus
                .snapshot()
                .outbox
                .context("a bus without a store")?;
            if counts.published >= rows {
                ensure!(counts.failed == 0 && counts.fenced_out == 0, "{counts:?}");
                return Ok(counts.published as f64 / begun.elapsed().as_secs_f64());
            }
            ensure!(begun.elapsed() < Duration::from_secs(120), "{counts:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The bridge's own: many at once, each confirmed.
    async fn publish(&self, rows: u64) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let mut all = futures::stream::iter(0..rows)
            .map(|id| async move { self.bus.publish(Numbered::new(id)).await.map(drop) })
            .buffer_unordered(1024);
        while let Some(published) = all.next().await {
            published?;
        }
        Ok(rows as f64 / begun.elapsed().as_secs_f64())
    }

    /// What somebody writes by hand: select, publish, mark, for each row.
    async fn by_loop(&self, rows: u64) -> anyhow::Result<f64> {
        const SELECT: &str = "SELECT position, body FROM postroom_outbox WHERE status = 'waiting' ORDER BY position LIMIT 1";
        const MARK: &str = "UPDATE postroom_outbox SET status = 'published' WHERE position = $1";
        let begun = Instant::now();
        for _ in 0..rows {
            let (position, body): (i64, String) = match &self.base.pool {
                Pool::Sqlite(pool) => sqlx::query_as(SELECT).fetch_one(pool).await?,
                Pool::Postgres(pool) => sqlx::query_as(SELECT).fetch_one(pool).await?,
            };
            let message: Numbered = serde_json::from_str(&body)?;
            self.bus.publish(message).await?;
            match &self.base.pool {
                Pool::Sqlite(pool) => sqlx::query(MARK)
                    .bind(position)
                    .execute(pool)
                    .await
                    .map(drop)?,
                Pool::Postgres(pool) => sqlx::query(MARK)
                    .bind(position)
                    .execute(pool)
                    .await
                    .map(drop)?,
            }
        }
        Ok(rows as f64 / begun.elapsed().as_secs_f64())
    }

    async fn end(self) {
        self.bus.shutdown(Duration::from_secs(5)).await;
    }
}

pub async fn measure(run: &Run<'_>, case: &str, bridged: bool) -> anyhow::Result<Vec<String>> {
    let rows = if run.quick { 2_000 } else { 20_000 };
    let by_loop = rows / 20;
    let (mut ours, mut publish, mut looped) = (Vec::new(), Vec::new(), Vec::new());
    for repeat in run.repeats() {
        for turn in 0..3 {
            let stage = stage(run, bridged).await?;
            match (turn + repeat) % 3 {
                0 => {
                    stage.base.fill(rows).await?;
                    ours.push(stage.relay(rows).await?);
                    let handled = stage.handled.load(Ordering::Relaxed);
                    ensure!(bridged || handled <= rows, "{handled} of {rows}");
                }
                1 => publish.push(stage.publish(rows).await?),
                _ => {
                    stage.base.fill(by_loop).await?;
                    looped.push(stage.by_loop(by_loop).await?);
                }
            }
            stage.end().await;
        }
    }
    let series = [("postroom", ours), ("publish", publish), ("loop", looped)];
    Ok(report::print(case, "messages/s", &series))
}

/// Whether a backlog of a million rows slows the relay, or fills memory.
pub async fn backlog(run: &Run<'_>, case: &str) -> anyhow::Result<Vec<String>> {
    backlog::measure(run, case, async |few, rows| {
        let stage = stage(run, false).await?;
        stage.base.fill(rows).await?;
        let before = backlog::resident();
        let rate = stage.relay(few).await?;
        let grown = backlog::resident().saturating_sub(before);
        stage.end().await;
        Ok((rate, grown))
    })
    .await
}
