//! Durable queues: how many messages a second are published, each by a publisher that waits for the commit, and handled;
//! beside what somebody writes by hand: a transaction for each message, and a loop of select, handle, delete.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use postroom::Bus;

use crate::base::{Base, Kind, Numbered, Pool};
use crate::{Run, backlog as backlogs, report};

/// Runs so many publishers, which share the messages.
async fn by_publishers<F>(
    publishers: u64,
    messages: u64,
    publish: impl Fn(u64) -> F + Clone + Send + 'static,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..publishers {
        let (next, publish) = (Arc::clone(&next), publish.clone());
        tasks.push(tokio::spawn(async move {
            loop {
                let id = next.fetch_add(1, Ordering::Relaxed);
                if id >= messages {
                    return anyhow::Ok(());
                }
                publish(id).await?;
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// Waits until so many are handled.
async fn until(handled: &AtomicU64, wanted: u64) -> anyhow::Result<()> {
    let begun = Instant::now();
    while handled.load(Ordering::Relaxed) < wanted {
        ensure!(
            begun.elapsed() < Duration::from_secs(120),
            "it stands still"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// A durable queue that counts what it handles.
async fn sink(bus: &Bus) -> anyhow::Result<Arc<AtomicU64>> {
    let handled = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&handled);
    bus.subscribe_fn::<Numbered, _>("sink", async move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    })
    .durable()
    .start()
    .await?;
    Ok(handled)
}

async fn ours(
    bus: &Bus,
    handled: &Arc<AtomicU64>,
    publishers: u64,
    messages: u64,
) -> anyhow::Result<f64> {
    let wanted = handled.load(Ordering::Relaxed) + messages;
    let begun = Instant::now();
    let here = bus.clone();
    by_publishers(publishers, messages, move |id| {
        let bus = here.clone();
        async move {
            bus.publish(Numbered::new(id)).await?;
            Ok(())
        }
    })
    .await?;
    until(handled, wanted).await?;
    Ok(messages as f64 / begun.elapsed().as_secs_f64())
}

const INSERT: &str = "INSERT INTO by_hand (id, address, body) VALUES ($1, $2, $3)";
const SELECT: &str = "SELECT position, body FROM by_hand ORDER BY position LIMIT 1";
const DELETE: &str = "DELETE FROM by_hand WHERE position = $1";

async fn insert(pool: &Pool, id: u64) -> anyhow::Result<()> {
    let message = postroom::MessageId::new().to_string();
    let body = serde_json::to_string(&Numbered::new(id))?;
    match pool {
        Pool::Sqlite(pool) => {
            let insert = sqlx::query(INSERT).bind(message).bind("load.numbered");
            insert.bind(body).execute(pool).await?;
        }
        Pool::Postgres(pool) => {
            let insert = sqlx::query(INSERT).bind(message).bind("load.numbered");
            insert.bind(body).execute(pool).await?;
        }
    }
    Ok(())
}

/// One message of the loop. False: there was none.
async fn take(pool: &Pool) -> anyhow::Result<bool> {
    let row: Option<(i64, String)> = match pool {
        Pool::Sqlite(pool) => sqlx::query_as(SELECT).fetch_optional(pool).await?,
        Pool::Postgres(pool) => sqlx::query_as(SELECT).fetch_optional(pool).await?,
    };
    let Some((position, body)) = row else {
        return Ok(false);
    };
    let _: Numbered = serde_json::from_str(&body)?;
    match pool {
        Pool::Sqlite(pool) => sqlx::query(DELETE)
            .bind(position)
            .execute(pool)
            .await
            .map(drop)?,
        Pool::Postgres(pool) => sqlx::query(DELETE)
            .bind(position)
            .execute(pool)
            .await
            .map(drop)?,
    }
    Ok(true)
}

async fn by_hand(base: &Arc<Base>, publishers: u64, messages: u64) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let here = Arc::clone(base);
    let consumer = tokio::spawn(async move {
        let mut left = messages;
        while left > 0 {
            match take(&here.pool).await? {
                true => left -= 1,
                false => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        anyhow::Ok(())
    });
    let here = Arc::clone(base);
    by_publishers(publishers, messages, move |id| {
        let base = Arc::clone(&here);
        async move { insert(&base.pool, id).await }
    })
    .await?;
    consumer.await??;
    Ok(messages as f64 / begun.elapsed().as_secs_f64())
}

pub async fn measure(run: &Run<'_>, case: &str, publishers: u64) -> anyhow::Result<Vec<String>> {
    let base = Arc::new(Base::make(run.kind, run.services).await?);
    let key = match run.kind {
        Kind::Sqlite => "INTEGER PRIMARY KEY AUTOINCREMENT",
        Kind::Postgres => "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    };
    base.run(&format!(
        "CREATE TABLE by_hand (position {key}, id TEXT NOT NULL, address TEXT NOT NULL, body TEXT NOT NULL)"
    ))
    .await?;
    let bus = base.bus().start().await?;
    let handled = sink(&bus).await?;
    let messages = match publishers {
        1 => 1_000,
        _ => 5_000,
    };
    let messages = if run.quick { messages / 10 } else { messages };
    let (mut durable, mut loops) = (Vec::new(), Vec::new());
    for repeat in run.repeats() {
        for turn in 0..2 {
            if (turn + repeat) % 2 == 0 {
                durable.push(ours(&bus, &handled, publishers, messages).await?);
            } else {
                loops.push(by_hand(&base, publishers, messages).await?);
            }
        }
    }
    if let Some(counts) = bus.snapshot().durable {
        println!(
            "{case}: {} messages in {} commits",
            counts.written, counts.commits
        );
    }
    bus.shutdown(Duration::from_secs(5)).await;
    Ok(report::print(
        case,
        "messages/s",
        &[("postroom", durable), ("loop", loops)],
    ))
}

/// Whether a queue of a million rows is handled more slowly, or fills memory.
pub async fn backlog(run: &Run<'_>, case: &str) -> anyhow::Result<Vec<String>> {
    backlogs::measure(run, case, async |few, rows| {
        let base = Base::make(run.kind, run.services).await?;
        let bus = base.bus().start().await?;
        base.fill_queue("sink", rows).await?;
        let (before, begun) = (backlogs::resident(), Instant::now());
        let handled = sink(&bus).await?;
        until(&handled, few).await?;
        let rate = handled.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
        let grown = backlogs::resident().saturating_sub(before);
        bus.shutdown(Duration::from_secs(5)).await;
        Ok((rate, grown))
    })
    .await
}
