//! The rows of durable queues and of dead letters, as the statements read them and as they come back.

use std::sync::Arc;

use super::Cells;
use crate::store::sql::rows::{list, millis};
use crate::store::{Failures, LetterRow, NewLetter, NewQueued, QueuedRow, StoredRow, TakenRow};

/// The rows of new messages, as the statement reads them.
pub(super) fn new_rows(new: &[Arc<NewQueued>]) -> String {
    let rows: Vec<_> = new
        .iter()
        .flat_map(|message| {
            message
                .queues
                .iter()
                .map(move |queue| (queue, &message.row))
        })
        .map(|(queue, row)| {
            (
                queue,
                &row.id,
                row.kind,
                &row.address,
                &row.key,
                &row.correlation,
                &row.causation,
                &row.headers,
                &row.traceparent,
                &row.body,
                row.expires_in.map(millis),
            )
        })
        .collect();
    list(&rows)
}

/// The rows of dead letters, as the statement reads them. Their messages were accepted in memory, where any text may be.
pub(super) fn letter_rows(letters: &[Arc<NewLetter>]) -> String {
    let rows = letters.iter().map(|letter| {
        let (failures, row) = (&letter.failures, &letter.row);
        serde_json::json!([
            letter.letter,
            letter.queue,
            letter.reason,
            errors(failures),
            failures.attempts,
            failures.first_failed_ms,
            failures.last_failed_ms,
            row.id,
            row.kind,
            clean(&row.address),
            row.key.as_deref().map(clean),
            row.correlation.as_deref().map(clean),
            row.causation,
            row.headers.as_deref().map(clean),
            row.traceparent.as_deref().map(clean),
            row.expires_in.map(millis),
            clean(&row.body),
        ])
    });
    list(&rows.collect::<Vec<_>>())
}

pub(super) fn pair(row: &TakenRow) -> (i64, i64) {
    (row.position, row.fence)
}

/// A text with a NUL is none for PostgreSQL, which would refuse the whole write, again and again.
fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The errors as a JSON array.
pub(super) fn errors(failures: &Failures) -> Option<String> {
    let errors: Vec<_> = failures.errors.iter().map(|error| clean(error)).collect();
    (!errors.is_empty()).then(|| list(&errors))
}

fn stored<R: Cells>(row: &R) -> Result<StoredRow, sqlx::Error> {
    let mut stored = StoredRow::new(
        row.some_number(0)?,
        0,
        row.some_text(1)?,
        row.some_text(3)?,
        row.some_text(10)?,
    );
    stored.kind = row.some_text(2)?;
    stored.key = row.text(4)?;
    stored.correlation = row.text(5)?;
    stored.causation = row.text(6)?;
    stored.headers = row.text(7)?;
    stored.traceparent = row.text(8)?;
    stored.expires_in_ms = row.number(9)?;
    stored.attempts = attempts(row)?;
    Ok(stored)
}

fn attempts<R: Cells>(row: &R) -> Result<u32, sqlx::Error> {
    Ok(u32::try_from(row.some_number(11)?).unwrap_or(u32::MAX))
}

/// None: it never failed.
fn failures<R: Cells>(row: &R) -> Result<Option<Failures>, sqlx::Error> {
    let (Some(first), Some(last)) = (row.number(13)?, row.number(14)?) else {
        return Ok(None);
    };
    let errors = row.text(12)?;
    Ok(Some(Failures {
        attempts: attempts(row)?,
        // What somebody else has written there is one error.
        errors: errors.map_or_else(Vec::new, |text| {
            serde_json::from_str(&text).unwrap_or_else(|_| vec![text])
        }),
        first_failed_ms: first.unsigned_abs(),
        last_failed_ms: last.unsigned_abs(),
        awaited_handler: row.some_number(15)? != 0,
    }))
}

pub(super) fn queued<R: Cells>(row: &R) -> Result<QueuedRow, sqlx::Error> {
    Ok(QueuedRow {
        row: stored(row)?,
        failures: failures(row)?,
        ready_ms: row.some_number(16)?,
        has_waited: row.some_number(17)? != 0,
    })
}

pub(super) fn letter<R: Cells>(row: &R) -> Result<LetterRow, sqlx::Error> {
    Ok(LetterRow {
        position: row.some_number(0)?,
        id: row.some_text(16)?,
        queue: row.some_text(17)?,
        reason: row.some_text(18)?,
        failures: failures(row)?.unwrap_or_default(),
        message: stored(row)?,
    })
}
