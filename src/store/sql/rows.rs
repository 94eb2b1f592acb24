//! New rows of the outbox, as statements read them.

use std::time::Duration;

use super::driver::Value;
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

/// The values of one, in the order of the statement `insert`.
pub(super) fn values_of(row: &NewRow) -> Vec<Value> {
    let status = match row.delay {
        Some(_) => "scheduled",
        None => "waiting",
    };
    vec![
        Value::from(row.id.as_str()),
        Value::from(row.kind),
        Value::from(row.address.as_str()),
        Value::Text(row.key.clone()),
        Value::from(i64::from(row.lane)),
        Value::Text(row.correlation.clone()),
        Value::Text(row.causation.clone()),
        Value::Text(row.headers.clone()),
        Value::Text(row.traceparent.clone()),
        Value::from(row.body.as_str()),
        Value::from(status),
        Value::Number(row.expires_in.map(millis)),
        Value::Number(row.delay.map(millis_up)),
    ]
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
