use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Cells, Driver, Session, Value, bounded, driver, numbers_of, one_number, unexpected};
use crate::ports::crash_point;
use crate::store::sql::rows::{list, millis};
use crate::store::sql::statements::Statements;
use crate::store::{
    DatabaseError, DatabaseProblem, DeadRow, DelayedRow, FailedRow, HeldLane, LANES, LaneLease,
    NextDue, PublishedRow, StoreFuture, StoreSession, StoredRow, TakeRows,
};

fn held_lanes<R: Cells>(rows: &[R]) -> Result<Vec<HeldLane>, sqlx::Error> {
    let lane = |row: &R| {
        Ok(HeldLane {
            lane: u32::try_from(row.some_number(0)?).unwrap_or(u32::MAX),
            fence: row.some_number(1)?,
        })
    };
    rows.iter().map(lane).collect()
}

fn stored_row<R: Cells>(row: &R) -> Result<StoredRow, sqlx::Error> {
    Ok(StoredRow {
        position: row.some_number(0)?,
        lane: u32::try_from(row.some_number(1)?).unwrap_or(u32::MAX),
        id: row.some_text(2)?,
        kind: row.some_text(3)?,
        address: row.some_text(4)?,
        key: row.text(5)?,
        correlation: row.text(6)?,
        causation: row.text(7)?,
        headers: row.text(8)?,
        traceparent: row.text(9)?,
        expires_in_ms: row.number(10)?,
        attempts: u32::try_from(row.some_number(11)?).unwrap_or(u32::MAX),
        body: row.some_text(12)?,
    })
}

fn dead_row<R: Cells>(row: &R) -> Result<DeadRow, sqlx::Error> {
    Ok(DeadRow {
        id: row.some_text(0)?,
        kind: row.some_text(1)?,
        address: row.some_text(2)?,
        key: row.text(3)?,
        attempts: u32::try_from(row.some_number(4)?).unwrap_or(u32::MAX),
        last_error: row.text(5)?,
        created_at: row.some_text(6)?,
        body: row.some_text(7)?,
    })
}

impl<D: Driver> Session<D> {
    /// Delayed rows become waiting ones, so that nobody takes them back any more. Returns those that were not taken back
    /// before.
    async fn begin_due(&mut self, due: &[i64]) -> Result<Vec<i64>, DatabaseError> {
        const DURING: &str = "begin what is due";
        let _turn = self.turn().await;
        let due = vec![Value::from(list(due))];
        crash_point("before-begin-due");
        let rows = self.fetch(DURING, |all| &all.begin_due, due).await?;
        crash_point("after-begin-due");
        let begun: Result<Vec<_>, _> = rows.iter().map(|row| row.some_number(0)).collect();
        begun.map_err(|error| driver::error::<D>(DURING, &error))
    }
}

impl<D: Driver> StoreSession for Session<D> {
    fn migrate(&mut self) -> StoreFuture<'_, ()> {
        const DURING: &str = "make its tables";
        Box::pin(async move {
            let version = self.version().await?;
            if version == self.newest() {
                return Ok(());
            }
            if version > self.newest() {
                return Err(self.too_new(version));
            }
            self.in_transaction(DURING, async |session| {
                let all = Arc::clone(&session.statements);
                if let Some(lock) = all.dialect.one_at_a_time {
                    let lock = lock.replace('#', &all.lock_number.to_string());
                    session.run(DURING, lock).await?;
                }
                if let Some(schema) = &all.schema {
                    let make = format!("CREATE SCHEMA IF NOT EXISTS {schema}");
                    session.run(DURING, make).await?;
                }
                session
                    .execute(DURING, |all| &all.schema_table, vec![])
                    .await?;
                // Another process may have been first.
                let version = session.version().await?;
                for migration in all.migrations.iter().skip(version as usize) {
                    session.run(DURING, migration.sql.clone()).await?;
                    tracing::info!(
                        database = all.dialect.name,
                        version = migration.version,
                        name = migration.name,
                        "migrated"
                    );
                }
                Ok(())
            })
            .await
        })
    }

    fn check(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let version = self.version().await?;
            let newest = self.newest();
            match version.cmp(&newest) {
                std::cmp::Ordering::Equal => Ok(()),
                std::cmp::Ordering::Greater => Err(self.too_new(version)),
                std::cmp::Ordering::Less => Err(DatabaseError::new(
                    DatabaseProblem::Schema,
                    "check its tables",
                    format!("they are of version {version}, and {newest} is needed: migrate them"),
                )),
            }
        })
    }

    fn renew<'a>(
        &'a mut self,
        holder: &'a str,
        lease: Duration,
        give_up: &'a [u32],
    ) -> StoreFuture<'a, LaneLease> {
        const DURING: &str = "renew a relay's lanes";
        Box::pin(self.in_transaction(DURING, async move |session| {
            let me = || Value::from(holder);
            let lease = || Value::from(millis(lease));
            if !give_up.is_empty() {
                let lanes = Value::from(list(give_up));
                session
                    .execute(DURING, |all| &all.give_up, vec![me(), lanes])
                    .await?;
            }
            let live = vec![me(), lease()];
            session.execute(DURING, |all| &all.live, live).await?;
            session
                .execute(DURING, |all| &all.bury, vec![lease()])
                .await?;
            let counts = session.fetch(DURING, |all| &all.count, vec![me()]).await?;
            let relays = numbers_of(DURING, &counts, 0)?.max(1);
            let held = numbers_of(DURING, &counts, 1)?;
            let share = (i64::from(LANES) + relays - 1) / relays;
            if held < share {
                let most = Value::from(share - held);
                session
                    .execute(DURING, |all| &all.take_over, vec![me(), most, lease()])
                    .await?;
            }
            let renew = vec![me(), lease()];
            let rows = session.fetch(DURING, |all| &all.renew, renew).await?;
            Ok(LaneLease {
                held: held_lanes(&rows).map_err(|error| driver::error::<D>(DURING, &error))?,
                share: u32::try_from(share).unwrap_or(LANES),
                relays: u32::try_from(relays).unwrap_or(u32::MAX),
            })
        }))
    }

    fn leave<'a>(&'a mut self, holder: &'a str, keep: &'a [u32]) -> StoreFuture<'a, ()> {
        const DURING: &str = "give up a relay's lanes";
        Box::pin(self.in_transaction(DURING, async move |session| {
            let me = || Value::from(holder);
            let but = vec![me(), Value::from(list(keep))];
            session.execute(DURING, |all| &all.leave, but).await?;
            session.execute(DURING, |all| &all.end, vec![me()]).await?;
            Ok(())
        }))
    }

    fn has_changed(&mut self) -> StoreFuture<'_, bool> {
        const DURING: &str = "tell whether it has changed";
        Box::pin(async move {
            let asking = self.connection.data_version();
            let version = bounded::<_, D>(DURING, self.patience, asking).await?;
            let is_same = version.is_some() && version == self.seen;
            self.seen = version;
            Ok(!is_same)
        })
    }

    fn take<'a>(&'a mut self, wanted: &'a TakeRows) -> StoreFuture<'a, Vec<StoredRow>> {
        const DURING: &str = "read the outbox";
        Box::pin(async move {
            let mut values = vec![
                Value::from(list(&wanted.lanes)),
                Value::from(list(&wanted.except)),
                Value::from(list(&wanted.blocked)),
                Value::from(i64::from(wanted.most)),
                Value::from(i64::from(wanted.most_of_lane)),
            ];
            let sql: fn(&Statements) -> &Arc<str> = match wanted.due {
                true => |all| &all.take_due,
                false => |all| &all.take_waiting,
            };
            if wanted.due {
                values.push(Value::from(i64::from(wanted.most.div_ceil(4))));
            }
            let rows = self.fetch(DURING, sql, values).await?;
            let told = |error: sqlx::Error| driver::error::<D>(DURING, &error);
            let mut taken = Vec::with_capacity(rows.len());
            let mut due = Vec::new();
            for row in &rows {
                let is_due = row.some_number(13).map_err(told)? != 0;
                let row = stored_row(row).map_err(told)?;
                due.extend(is_due.then_some(row.position));
                taken.push(row);
            }
            if !due.is_empty() {
                let begun = match self.begin_due(&due).await {
                    Ok(begun) => begun,
                    // Who writes keeps back what has to be written, and not what has only to be read.
                    Err(error) if error.keeps_connection() && taken.len() > due.len() => Vec::new(),
                    Err(error) => return Err(error),
                };
                taken.retain(|row| !due.contains(&row.position) || begun.contains(&row.position));
            }
            Ok(taken)
        })
    }

    fn next_due(&mut self) -> StoreFuture<'_, NextDue> {
        const DURING: &str = "tell what is due next";
        Box::pin(async move {
            let rows = self.fetch(DURING, |all| &all.next_due, vec![]).await?;
            let row = rows.first().ok_or_else(|| unexpected(DURING))?;
            let number = |at| {
                let number = row.number(at);
                number.map_err(|error| driver::error::<D>(DURING, &error))
            };
            let next = number(1)?.map(|left| u64::try_from(left).unwrap_or(0));
            Ok(NextDue {
                is_past: number(0)?.is_some(),
                next: next.map(Duration::from_millis),
            })
        })
    }

    fn mark_published<'a>(
        &'a mut self,
        holder: &'a str,
        rows: &'a [PublishedRow],
        keep: bool,
    ) -> StoreFuture<'a, u64> {
        Box::pin(async move {
            let mut by_lane = BTreeMap::<_, Vec<i64>>::new();
            for row in rows {
                let of_lane = by_lane.entry((row.lane, row.fence)).or_default();
                of_lane.push(row.position);
            }
            let groups = by_lane.into_iter();
            let groups: Vec<_> = groups
                .map(|((lane, fence), positions)| (lane, fence, positions))
                .collect();
            let values = vec![Value::from(list(&groups)), Value::from(holder)];
            let sql: fn(&Statements) -> &Arc<str> = match keep {
                true => |all| &all.publish,
                false => |all| &all.publish_and_delete,
            };
            self.execute("mark rows as published", sql, values).await
        })
    }

    fn mark_failed<'a>(
        &'a mut self,
        holder: &'a str,
        rows: &'a [FailedRow],
    ) -> StoreFuture<'a, u64> {
        Box::pin(async move {
            let rows: Vec<_> = rows
                .iter()
                .map(|row| {
                    let error: String = row.error.chars().filter(|c| !c.is_control()).collect();
                    let retry_in = row.retry_in.map(millis);
                    (row.position, row.fence, retry_in, error, row.attempts)
                })
                .collect();
            let values = vec![Value::from(list(&rows)), Value::from(holder)];
            self.execute("mark rows as failed", |all| &all.fail, values)
                .await
        })
    }

    fn clean_outbox(&mut self, older_than: Duration, most: u32) -> StoreFuture<'_, u64> {
        let values = vec![
            Value::from(millis(older_than)),
            Value::from(i64::from(most)),
        ];
        Box::pin(self.execute("clean up the outbox", |all| &all.clean_outbox, values))
    }

    fn clean_inbox(&mut self, older_than: Duration, most: u32) -> StoreFuture<'_, u64> {
        let values = vec![
            Value::from(millis(older_than)),
            Value::from(i64::from(most)),
        ];
        Box::pin(self.execute("clean up the inbox", |all| &all.clean_inbox, values))
    }

    fn backlog(&mut self, most: u32) -> StoreFuture<'_, (u64, u64)> {
        const DURING: &str = "count the outbox";
        Box::pin(async move {
            let values = vec![Value::from(i64::from(most))];
            let rows = self.fetch(DURING, |all| &all.backlog, values).await?;
            let count = |at| Ok(numbers_of(DURING, &rows, at)?.unsigned_abs());
            Ok((count(0)?, count(1)?))
        })
    }

    fn dead(&mut self, most: u32) -> StoreFuture<'_, Vec<DeadRow>> {
        const DURING: &str = "list what was given up";
        Box::pin(async move {
            let values = vec![Value::from(i64::from(most))];
            let rows = self.fetch(DURING, |all| &all.dead, values).await?;
            let rows: Result<Vec<_>, _> = rows.iter().map(dead_row).collect();
            rows.map_err(|error| driver::error::<D>(DURING, &error))
        })
    }

    fn replay<'a>(&'a mut self, id: &'a str) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let id = vec![Value::from(id)];
            let rows = self.execute("replay a row", |all| &all.replay, id).await?;
            Ok(rows > 0)
        })
    }

    fn discard<'a>(&'a mut self, id: &'a str) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let id = vec![Value::from(id)];
            let rows = self
                .execute("discard a row", |all| &all.discard, id)
                .await?;
            Ok(rows > 0)
        })
    }

    fn cancel<'a>(&'a mut self, id: &'a str) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            let id = vec![Value::from(id)];
            let rows = self.execute("take a delayed message back", |all| &all.cancel, id);
            Ok(rows.await? > 0)
        })
    }

    fn delayed<'a>(
        &'a mut self,
        address: Option<&'a str>,
        most: u32,
    ) -> StoreFuture<'a, Vec<DelayedRow>> {
        const DURING: &str = "list delayed messages";
        Box::pin(async move {
            let values = vec![
                Value::Text(address.map(str::to_owned)),
                Value::from(i64::from(most)),
            ];
            let rows = self.fetch(DURING, |all| &all.delayed, values).await?;
            let delayed = |row: &D::Row| {
                Ok(DelayedRow {
                    row: stored_row(row)?,
                    due_in_ms: row.some_number(13)?,
                })
            };
            let rows: Result<Vec<_>, _> = rows.iter().map(delayed).collect();
            rows.map_err(|error| driver::error::<D>(DURING, &error))
        })
    }

    fn count_delayed(&mut self) -> StoreFuture<'_, u64> {
        const DURING: &str = "count delayed messages";
        Box::pin(async move {
            let rows = self.fetch(DURING, |all| &all.count_delayed, vec![]).await?;
            Ok(one_number(DURING, &rows)?.unsigned_abs())
        })
    }

    fn lanes(&mut self) -> StoreFuture<'_, Vec<(HeldLane, Option<String>)>> {
        const DURING: &str = "list the lanes";
        Box::pin(async move {
            let rows = self.fetch(DURING, |all| &all.lanes, vec![]).await?;
            let told = |error: sqlx::Error| driver::error::<D>(DURING, &error);
            let held = held_lanes(&rows).map_err(told)?;
            let holders: Result<Vec<_>, _> = rows.iter().map(|row| row.text(2)).collect();
            Ok(held.into_iter().zip(holders.map_err(told)?).collect())
        })
    }
}
