//! Messages handled in transactions, beside transactions written by hand: `bare` has only the effect in it, `loop`
//! records the message too, to know a duplicate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use postroom::{Bus, Postgres, Sqlite};

use crate::base::{Base, Numbered, Pool, Tx};
use crate::{Run, report};

const EFFECT: &str = "INSERT INTO effects (message, body) VALUES ($1, $2)";
const RECORD: &str =
    "INSERT INTO seen (consumer, message_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";

pub async fn measure(run: &Run<'_>, case: &str) -> anyhow::Result<Vec<String>> {
    let messages = if run.quick { 200 } else { 2_000 };
    let base = Base::make(run.kind, run.services).await?;
    base.run("CREATE TABLE effects (message BIGINT NOT NULL, body TEXT NOT NULL)")
        .await?;
    base.run(
        "CREATE TABLE seen (consumer TEXT NOT NULL, message_id TEXT NOT NULL, \
         handled_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (consumer, message_id))",
    )
    .await?;
    base.run("CREATE INDEX seen_handled ON seen (handled_at)")
        .await?;
    let bus = base.bus().start().await?;
    let handled = Arc::new(AtomicU64::new(0));
    subscribe(&base, &bus, &handled).await?;
    let (mut ours, mut bare, mut looped) = (Vec::new(), Vec::new(), Vec::new());
    for repeat in run.repeats() {
        for turn in 0..3 {
            let begun = Instant::now();
            let rates = match (turn + repeat) % 3 {
                0 => {
                    let before = handled.load(Ordering::Relaxed);
                    for id in 0..messages {
                        bus.publish(Numbered::new(id)).await?;
                    }
                    while handled.load(Ordering::Relaxed) < before + messages {
                        ensure!(begun.elapsed() < Duration::from_secs(120), "not handled");
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    &mut ours
                }
                1 => {
                    by_hand(&base, messages, false).await?;
                    &mut bare
                }
                _ => {
                    by_hand(&base, messages, true).await?;
                    &mut looped
                }
            };
            rates.push(messages as f64 / begun.elapsed().as_secs_f64());
        }
    }
    bus.shutdown(Duration::from_secs(5)).await;
    let series = [("postroom", ours), ("bare", bare), ("loop", looped)];
    Ok(report::print(case, "messages/s", &series))
}

async fn subscribe(base: &Base, bus: &Bus, handled: &Arc<AtomicU64>) -> anyhow::Result<()> {
    let count = Arc::clone(handled);
    // The count is one message ahead of its commit.
    match &base.pool {
        Pool::Sqlite(_) => {
            let handler =
                async move |message: &Numbered, cx: &mut postroom::TxContext<'_, Sqlite>| {
                    let effect = sqlx::query(EFFECT).bind(message.id as i64);
                    effect.bind(&message.padding).execute(cx.tx()).await?;
                    count.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                };
            bus.transactional_fn::<Numbered, Sqlite, _>("inbox", handler)
                .start()
                .await?;
        }
        Pool::Postgres(_) => {
            let handler =
                async move |message: &Numbered, cx: &mut postroom::TxContext<'_, Postgres>| {
                    let effect = sqlx::query(EFFECT).bind(message.id as i64);
                    effect.bind(&message.padding).execute(cx.tx()).await?;
                    count.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                };
            bus.transactional_fn::<Numbered, Postgres, _>("inbox", handler)
                .start()
                .await?;
        }
    }
    Ok(())
}

/// A transaction for each message, one after another.
async fn by_hand(base: &Base, messages: u64, records: bool) -> anyhow::Result<()> {
    for id in 0..messages {
        let message = Numbered::new(id);
        let message_id = postroom::MessageId::new().to_string();
        let mut tx = base.begin().await?;
        if records {
            match &mut tx {
                Tx::Sqlite(tx) => {
                    let record = sqlx::query(RECORD).bind("inbox").bind(message_id);
                    record.execute(&mut **tx).await.map(drop)?;
                }
                Tx::Postgres(tx) => {
                    let record = sqlx::query(RECORD).bind("inbox").bind(message_id);
                    record.execute(&mut **tx).await.map(drop)?;
                }
            }
        }
        match &mut tx {
            Tx::Sqlite(tx) => {
                let effect = sqlx::query(EFFECT).bind(id as i64).bind(&message.padding);
                effect.execute(&mut **tx).await.map(drop)?;
            }
            Tx::Postgres(tx) => {
                let effect = sqlx::query(EFFECT).bind(id as i64).bind(&message.padding);
                effect.execute(&mut **tx).await.map(drop)?;
            }
        }
        tx.commit().await?;
    }
    Ok(())
}
