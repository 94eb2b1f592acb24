//! New rows of the outbox, as statements read them.

use std::sync::Arc;
use std::time::Duration;

use super::driver::{Driver, Value};
use super::statements::Statements;
use crate::store::NewRow;

pub(super) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// A wait must not be too short by what a millisecond is cut at.
pub(super) fn millis_up(time: Duration) -> i64 {
    millis(time.saturating_add(Duration::from_nanos(999_999)))
}

pub(super) fn list<T: serde::Serialize>(items: &[T]) -> String {
    // Numbers and texts can always be encoded.
    serde_json::to_string(items).unwrap_or_else(|_| "[]".to_owned())
}

/// The most rows of one statement, and the most bytes of their bodies.
const MOST_ROWS: usize = 500;
const MOST_BYTES: usize = 4 << 20;

/// Writes rows, few statements for many.
pub(super) async fn insert<D: Driver>(
    connection: &mut D,
    statements: &Statements,
    rows: &[NewRow],
) -> Result<(), sqlx::Error> {
    for rows in pieces(rows) {
        let (sql, values) = statement(statements, rows);
        connection.execute(sql, values).await?;
    }
    Ok(())
}

/// Each has a row at least.
fn pieces(mut rows: &[NewRow]) -> impl Iterator<Item = &[NewRow]> {
    std::iter::from_fn(move || {
        let mut bytes = 0_usize;
        let fit = rows.iter().take(MOST_ROWS).take_while(|row| {
            bytes = bytes.saturating_add(row.body.len());
            bytes <= MOST_BYTES
        });
        let count = fit.count().max(1).min(rows.len());
        let (piece, rest) = rows.split_at(count);
        rows = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The statement that writes these rows, and its values.
fn statement<'a>(statements: &'a Statements, rows: &[NewRow]) -> (&'a Arc<str>, Vec<Value>) {
    match rows {
        [row] if is_plain(row) => (&statements.insert_plain, plain_values_of(row)),
        [row] => (&statements.insert, values_of(row)),
        rows => (&statements.insert_all, vec![value_of_all(rows.iter())]),
    }
}

/// Whether it has only what each message has, and perhaps a key. Each value costs its way to the database, also an absent
/// one.
fn is_plain(row: &NewRow) -> bool {
    let texts = [
        &row.correlation,
        &row.causation,
        &row.headers,
        &row.traceparent,
    ];
    texts.into_iter().all(Option::is_none) && row.expires_in.is_none() && row.delay.is_none()
}

/// In the order of the statement `insert_plain`, which is how that of `insert` begins.
fn plain_values_of(row: &NewRow) -> Vec<Value> {
    vec![
        Value::from(row.id.as_str()),
        Value::from(row.kind),
        Value::from(row.address.as_str()),
        Value::Text(row.key.clone()),
        Value::from(i64::from(row.lane)),
        Value::from(row.body.as_str()),
    ]
}

/// In the order of the statement `insert`.
fn values_of(row: &NewRow) -> Vec<Value> {
    let status = match row.delay {
        Some(_) => "scheduled",
        None => "waiting",
    };
    let mut values = plain_values_of(row);
    values.extend([
        Value::Text(row.correlation.clone()),
        Value::Text(row.causation.clone()),
        Value::Text(row.headers.clone()),
        Value::Text(row.traceparent.clone()),
        Value::from(status),
        Value::Number(row.expires_in.map(millis)),
        Value::Number(row.delay.map(millis_up)),
    ]);
    values
}

/// The value of many, for the statement `insert_all`.
pub(super) fn value_of_all<'a>(rows: impl Iterator<Item = &'a NewRow>) -> Value {
    let rows: Vec<_> = rows
        .map(|row| {
            (
                &row.id,
                row.kind,
                &row.address,
                &row.key,
                &row.correlation,
                &row.causation,
                &row.headers,
                &row.traceparent,
                &row.body,
                row.lane,
                row.expires_in.map(millis),
                row.delay.map(millis_up),
            )
        })
        .collect();
    Value::from(list(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(bytes: usize) -> NewRow {
        NewRow::plain("x".repeat(bytes))
    }

    #[test]
    fn many_rows_are_written_in_pieces_of_bounded_size_and_in_their_order() {
        let sizes = |rows: &[NewRow]| pieces(rows).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(sizes(&[]), Vec::<usize>::new());
        let small: Vec<_> = (0..1201).map(|_| row(10)).collect();
        assert_eq!(sizes(&small), [500, 500, 201]);
        let ids = |rows: &[NewRow]| rows.iter().map(|row| row.id.clone()).collect::<Vec<_>>();
        assert_eq!(
            pieces(&small).flat_map(ids).collect::<Vec<_>>(),
            ids(&small)
        );
        // One that is larger than a piece may be goes alone.
        let large = [
            row(10),
            row(MOST_BYTES + 1),
            row(MOST_BYTES / 2),
            row(MOST_BYTES / 2),
            row(1),
        ];
        assert_eq!(sizes(&large), [1, 1, 2, 1]);
    }

    #[test]
    fn a_row_is_plain_that_has_no_more_than_a_key() {
        let mut plain = row(1);
        plain.key = Some("7".to_owned());
        assert!(is_plain(&plain));
        let with: [fn(&mut NewRow); 6] = [
            |row| row.correlation = Some(String::new()),
            |row| row.causation = Some(String::new()),
            |row| row.headers = Some(String::new()),
            |row| row.traceparent = Some(String::new()),
            |row| row.expires_in = Some(Duration::ZERO),
            |row| row.delay = Some(Duration::ZERO),
        ];
        for with in with {
            let mut row = plain.clone();
            with(&mut row);
            assert!(!is_plain(&row));
        }
    }
}
