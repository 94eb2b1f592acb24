//! Rows written in transactions of the application's, beside a bare insert. The ratio is of times.

use std::time::Instant;

use crate::base::{Base, Numbered};
use crate::{Run, report};

pub async fn measure(
    run: &Run<'_>,
    case: &str,
    rows: u64,
    is_batch: bool,
) -> anyhow::Result<Vec<String>> {
    let transactions = if run.quick {
        50
    } else {
        if rows == 1 { 1_000 } else { 50 }
    };
    let base = Base::make(run.kind, run.services).await?;
    // The relay is not started, so that only the writing is measured.
    let bus = base.bus().start().await?;
    let key = match run.kind {
        crate::base::Kind::Sqlite => "INTEGER PRIMARY KEY AUTOINCREMENT",
        crate::base::Kind::Postgres => "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    };
    base.run(&format!(
        "CREATE TABLE bare (position {key}, id TEXT NOT NULL, address TEXT NOT NULL, body TEXT NOT NULL, \
         created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)"
    ))
    .await?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for repeat in run.repeats() {
        for turn in 0..2 {
            let is_ours = (turn + repeat) % 2 == 0;
            let begun = Instant::now();
            for _ in 0..transactions {
                let mut tx = base.begin().await?;
                let messages = (0..rows).map(Numbered::new);
                if is_ours && is_batch {
                    tx.publish_batch(&bus, messages).await?;
                } else if is_ours {
                    for message in messages {
                        tx.publish(&bus, message).await?;
                    }
                } else {
                    for message in messages {
                        tx.insert(&message).await?;
                    }
                }
                tx.commit().await?;
            }
            let each = begun.elapsed().as_secs_f64() * 1e6 / (transactions * rows) as f64;
            if is_ours { &mut ours } else { &mut bare }.push(each);
        }
    }
    bus.shutdown(std::time::Duration::from_secs(5)).await;
    Ok(report::print(
        case,
        "µs a row",
        &[("postroom", ours), ("bare", bare)],
    ))
}
