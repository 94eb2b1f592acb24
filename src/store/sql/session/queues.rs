use std::sync::Arc;
use std::time::Duration;

use super::queue_rows::{errors, letter, letter_rows, new_rows, pair, queued};
use super::{Cells, Driver, Session, Value, driver, numbers_of, one_number, unexpected};
use crate::store::sql::rows::{list, millis, millis_up, value_of_all};
use crate::store::{
    DatabaseError, HeldQueue, LetterFilter, LetterRow, QueueSession, QueueWrite, QueueWritten,
    QueuedRow, StoreFuture, TakeQueued,
};

fn all<D: Driver, T>(
    during: &'static str,
    rows: &[D::Row],
    read: fn(&D::Row) -> Result<T, sqlx::Error>,
) -> Result<Vec<T>, DatabaseError> {
    let rows: Result<Vec<_>, _> = rows.iter().map(read).collect();
    rows.map_err(|error| driver::error::<D>(during, &error))
}

impl<D: Driver> Session<D> {
    async fn positions(
        &mut self,
        during: &'static str,
        sql: fn(&super::Statements) -> &Arc<str>,
        values: Vec<Value>,
    ) -> Result<Vec<i64>, DatabaseError> {
        let rows = self.fetch(during, sql, values).await?;
        all::<D, _>(during, &rows, |row| row.some_number(0))
    }

    async fn write_all(
        &mut self,
        holder: &str,
        write: &QueueWrite,
    ) -> Result<QueueWritten, DatabaseError> {
        const DURING: &str = "write durable queues";
        let mut written = QueueWritten::default();
        let fenced = |rows: String| vec![Value::from(rows), Value::from(holder)];
        if !write.new.is_empty() {
            let rows = vec![Value::from(new_rows(&write.new))];
            written.new = self.execute(DURING, |all| &all.queues.insert, rows).await?;
        }
        if !write.delayed.is_empty() {
            let rows = vec![value_of_all(write.delayed.iter().map(|row| &**row))];
            self.execute(DURING, |all| &all.insert_all, rows).await?;
        }
        if !write.done.is_empty() {
            let rows: Vec<_> = write.done.iter().map(pair).collect();
            let rows = fenced(list(&rows));
            written.done = self.execute(DURING, |all| &all.queues.done, rows).await?;
        }
        if !write.retried.is_empty() {
            let rows = write.retried.iter().map(|retried| {
                let (failures, (place, fence)) = (&retried.failures, pair(&retried.row));
                (
                    place,
                    fence,
                    failures.attempts,
                    errors(failures),
                    failures.first_failed_ms,
                    failures.last_failed_ms,
                    u8::from(failures.awaited_handler),
                    retried.delay.map(millis_up),
                )
            });
            let rows = fenced(list(&rows.collect::<Vec<_>>()));
            written.retried = self
                .positions(DURING, |all| &all.queues.retry, rows)
                .await?;
        }
        if !write.letters.is_empty() {
            let rows = vec![Value::from(letter_rows(&write.letters))];
            self.execute(DURING, |all| &all.queues.insert_letters, rows)
                .await?;
        }
        if !write.buried.is_empty() {
            let rows = write.buried.iter().map(|buried| {
                let (failures, (place, fence)) = (&buried.failures, pair(&buried.row));
                (
                    place,
                    fence,
                    failures.attempts,
                    errors(failures),
                    failures.first_failed_ms,
                    failures.last_failed_ms,
                    &buried.letter,
                    &buried.reason,
                )
            });
            let letters = list(&rows.collect::<Vec<_>>());
            self.execute(DURING, |all| &all.queues.bury, fenced(letters.clone()))
                .await?;
            let rows: Vec<_> = write.buried.iter().map(|one| pair(&one.row)).collect();
            let rows = fenced(list(&rows));
            written.buried = self
                .positions(DURING, |all| &all.queues.bury_done, rows)
                .await?;
            if written.buried.len() < write.buried.len() {
                // It may be a repetition of what was done. Whose queue was lost has no letter there.
                let letters = vec![Value::from(letters)];
                written.buried = self
                    .positions(DURING, |all| &all.queues.buried_before, letters)
                    .await?;
            }
        }
        Ok(written)
    }
}

impl<D: Driver> QueueSession for Session<D> {
    fn hold_queues<'a>(
        &'a mut self,
        holder: &'a str,
        lease: Duration,
        queues: &'a [String],
        give_up: &'a [String],
    ) -> StoreFuture<'a, Vec<HeldQueue>> {
        const DURING: &str = "renew the leases of durable queues";
        Box::pin(self.in_transaction(DURING, async move |session| {
            let me = || Value::from(holder);
            let lease = || Value::from(millis(lease));
            if !give_up.is_empty() {
                let values = vec![me(), Value::from(list(give_up))];
                session
                    .execute(DURING, |all| &all.queues.give_up, values)
                    .await?;
            }
            if !queues.is_empty() {
                let names = || Value::from(list(queues));
                session
                    .execute(DURING, |all| &all.queues.name, vec![names()])
                    .await?;
                let values = vec![me(), names(), lease()];
                session
                    .execute(DURING, |all| &all.queues.take_over, values)
                    .await?;
            }
            let values = vec![me(), lease()];
            let rows = session
                .fetch(DURING, |all| &all.queues.renew, values)
                .await?;
            all::<D, _>(DURING, &rows, |row| {
                Ok(HeldQueue {
                    queue: row.some_text(0)?,
                    fence: row.some_number(1)?,
                })
            })
        }))
    }

    fn leave_queues<'a>(&'a mut self, holder: &'a str) -> StoreFuture<'a, ()> {
        let me = vec![Value::from(holder)];
        Box::pin(async move {
            let during = "give up the leases of durable queues";
            self.execute(during, |all| &all.queues.leave, me).await?;
            Ok(())
        })
    }

    fn write_queues<'a>(
        &'a mut self,
        holder: &'a str,
        write: &'a QueueWrite,
    ) -> StoreFuture<'a, QueueWritten> {
        let statements = [
            !write.new.is_empty(),
            !write.delayed.is_empty(),
            !write.done.is_empty(),
            !write.retried.is_empty(),
            !write.letters.is_empty(),
            // Two of them.
            !write.buried.is_empty(),
            !write.buried.is_empty(),
        ];
        let is_one = statements.into_iter().filter(|is_there| *is_there).count() == 1;
        Box::pin(async move {
            if is_one {
                // It is a transaction by itself, without two more ways to the database.
                let write_all = async |session: &mut Self| session.write_all(holder, write).await;
                return self.in_turn(write_all).await;
            }
            let all = async move |session: &mut Self| session.write_all(holder, write).await;
            self.in_transaction("write durable queues", all).await
        })
    }

    fn take_queued<'a>(&'a mut self, wanted: &'a TakeQueued) -> StoreFuture<'a, Vec<QueuedRow>> {
        const DURING: &str = "read a durable queue";
        Box::pin(async move {
            let values = vec![
                Value::from(wanted.queue.as_str()),
                Value::from(list(&wanted.except)),
                Value::from(i64::from(wanted.most)),
            ];
            let rows = self.fetch(DURING, |all| &all.queues.take, values).await?;
            let mut rows = all::<D, _>(DURING, &rows, queued)?;
            rows.sort_by_key(|row| match row.has_waited {
                false => (false, row.row.position, 0),
                true => (true, row.ready_ms, row.row.position),
            });
            Ok(rows)
        })
    }

    fn next_queued<'a>(
        &'a mut self,
        queue: &'a str,
        except: &'a [i64],
    ) -> StoreFuture<'a, Option<Duration>> {
        const DURING: &str = "tell what of a durable queue is due next";
        Box::pin(async move {
            let values = vec![Value::from(queue), Value::from(list(except))];
            let rows = self
                .fetch(DURING, |all| &all.queues.next_due, values)
                .await?;
            let row = rows.first().ok_or_else(|| unexpected(DURING))?;
            let left = row.number(0);
            let left = left.map_err(|error| driver::error::<D>(DURING, &error))?;
            Ok(left.map(|left| Duration::from_millis(u64::try_from(left).unwrap_or(0))))
        })
    }

    fn count_queued<'a>(&'a mut self, queue: &'a str, most: u64) -> StoreFuture<'a, u64> {
        const DURING: &str = "count a durable queue";
        Box::pin(async move {
            let most = i64::try_from(most).unwrap_or(i64::MAX);
            let values = vec![Value::from(queue), Value::from(most)];
            let rows = self.fetch(DURING, |all| &all.queues.count, values).await?;
            Ok(one_number(DURING, &rows)?.unsigned_abs())
        })
    }

    fn letters<'a>(&'a mut self, filter: &'a LetterFilter) -> StoreFuture<'a, Vec<LetterRow>> {
        const DURING: &str = "list dead letters";
        Box::pin(async move {
            let values = vec![
                Value::Text(filter.id.clone()),
                Value::Text(filter.queue.clone()),
                Value::Text(filter.address.clone()),
                Value::Text(filter.reason.clone()),
                Value::from(filter.after),
                Value::from(i64::from(filter.most)),
            ];
            let rows = self
                .fetch(DURING, |all| &all.queues.letters, values)
                .await?;
            all::<D, _>(DURING, &rows, letter)
        })
    }

    fn count_letters(&mut self) -> StoreFuture<'_, (u64, i64)> {
        const DURING: &str = "count dead letters";
        Box::pin(async move {
            let rows = self
                .fetch(DURING, |all| &all.queues.count_letters, vec![])
                .await?;
            let newest = numbers_of(DURING, &rows, 1)?;
            Ok((numbers_of(DURING, &rows, 0)?.unsigned_abs(), newest))
        })
    }

    fn replay_letter<'a>(&'a mut self, id: &'a str) -> StoreFuture<'a, Option<String>> {
        const DURING: &str = "replay a dead letter";
        Box::pin(self.in_transaction(DURING, async move |session| {
            let values = || vec![Value::from(id)];
            // Locked, so that of two who replay it one finds nothing.
            let rows = session
                .fetch(DURING, |all| &all.queues.letter_queue, values())
                .await?;
            let queues = all::<D, _>(DURING, &rows, |row| row.some_text(0))?;
            let Some(queue) = queues.into_iter().next() else {
                return Ok(None);
            };
            session
                .execute(DURING, |all| &all.queues.replay, values())
                .await?;
            session
                .execute(DURING, |all| &all.queues.discard, values())
                .await?;
            Ok(Some(queue))
        }))
    }

    fn discard_letter<'a>(&'a mut self, id: &'a str) -> StoreFuture<'a, bool> {
        let values = vec![Value::from(id)];
        Box::pin(async move {
            let during = "discard a dead letter";
            let gone = self.execute(during, |all| &all.queues.discard, values);
            Ok(gone.await? > 0)
        })
    }

    fn trim_letters(&mut self, keep: u64, most: u32) -> StoreFuture<'_, u64> {
        let keep = i64::try_from(keep).unwrap_or(i64::MAX);
        let values = vec![Value::from(keep), Value::from(i64::from(most))];
        Box::pin(self.execute("trim dead letters", |all| &all.queues.trim, values))
    }
}
