//! AMQP values as text: every type that RabbitMQ can send, and none that can fail.

use std::fmt::Write;

use lapin::types::{AMQPValue, DecimalValue};
use serde_json::Value;

/// Tables and arrays within each other, as far as they are shown.
const DEEPEST: usize = 16;
/// The most values of one header that are shown, and the most bytes of the strings among them.
const MOST_VALUES: usize = 1_000;
const MOST_BYTES: usize = 16 * 1024;
/// What stands for what is not shown.
const CUT: &str = "…";

/// A header's value as the envelope shows it.
pub(super) fn text(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        AMQPValue::ShortString(text) => text.as_str().to_owned(),
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::Float(value) => value.to_string(),
        AMQPValue::Double(value) => value.to_string(),
        AMQPValue::DecimalValue(value) => decimal(*value),
        AMQPValue::ByteArray(bytes) => hex(bytes.as_slice()),
        AMQPValue::Void => String::new(),
        AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) => {
            let mut room = Room {
                values: MOST_VALUES,
                bytes: MOST_BYTES,
            };
            json(value, 0, &mut room).to_string()
        }
        whole => integer(whole).map_or_else(String::new, |number| number.to_string()),
    }
}

/// A number of any whole type; a timestamp is seconds since the Unix epoch.
pub(super) fn integer(value: &AMQPValue) -> Option<i128> {
    Some(match *value {
        AMQPValue::ShortShortInt(number) => number.into(),
        AMQPValue::ShortShortUInt(number) => number.into(),
        AMQPValue::ShortInt(number) => number.into(),
        AMQPValue::ShortUInt(number) => number.into(),
        AMQPValue::LongInt(number) => number.into(),
        AMQPValue::LongUInt(number) => number.into(),
        AMQPValue::LongLongInt(number) => number.into(),
        AMQPValue::Timestamp(number) => number.into(),
        _ => return None,
    })
}

/// A number as a whole type or as decimal digits. None: it is neither, negative, or too large.
pub(super) fn unsigned(value: &AMQPValue) -> Option<u64> {
    match value {
        AMQPValue::LongString(text) => digits(std::str::from_utf8(text.as_bytes()).ok()?),
        AMQPValue::Timestamp(_) => None,
        whole => u64::try_from(integer(whole)?).ok(),
    }
}

/// Decimal digits and nothing else, not even a sign.
pub(super) fn digits(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn decimal(DecimalValue { scale, value }: DecimalValue) -> String {
    let scale = usize::from(scale);
    let mut text = format!("{value:0>width$}", width = scale + 1);
    if scale > 0 {
        text.insert(text.len() - scale, '.');
    }
    text
}

/// What is left to be shown of one header.
struct Room {
    values: usize,
    bytes: usize,
}

impl Room {
    fn take(&mut self, bytes: usize) -> bool {
        if self.values == 0 || self.bytes < bytes {
            return false;
        }
        self.values -= 1;
        self.bytes -= bytes;
        true
    }
}

fn json(value: &AMQPValue, above: usize, room: &mut Room) -> Value {
    match value {
        AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) if above == DEEPEST => CUT.into(),
        AMQPValue::FieldArray(items) => {
            let mut shown = Vec::new();
            for item in items.as_slice() {
                if !room.take(1) {
                    shown.push(CUT.into());
                    break;
                }
                shown.push(json(item, above + 1, room));
            }
            Value::Array(shown)
        }
        AMQPValue::FieldTable(fields) => {
            let mut shown = serde_json::Map::new();
            for (name, field) in fields {
                if !room.take(name.as_str().len()) {
                    shown.insert(CUT.into(), CUT.into());
                    break;
                }
                shown.insert(name.as_str().to_owned(), json(field, above + 1, room));
            }
            Value::Object(shown)
        }
        AMQPValue::Boolean(value) => Value::Bool(*value),
        AMQPValue::Void => Value::Null,
        // A number that JSON does not know is null.
        AMQPValue::Float(value) => f64::from(*value).into(),
        AMQPValue::Double(value) => (*value).into(),
        AMQPValue::LongLongInt(number) => (*number).into(),
        AMQPValue::Timestamp(seconds) => (*seconds).into(),
        other => match integer(other).and_then(|number| i64::try_from(number).ok()) {
            Some(number) => number.into(),
            None => {
                let text = text(other);
                if room.take(text.len()) {
                    Value::String(text)
                } else {
                    CUT.into()
                }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::{FieldArray, FieldTable};

    use super::*;

    #[test]
    fn every_type_is_text() {
        let shown = |value: AMQPValue| text(&value);
        assert_eq!(shown(AMQPValue::Boolean(true)), "true");
        assert_eq!(shown(AMQPValue::ShortShortInt(-1)), "-1");
        assert_eq!(shown(AMQPValue::ShortShortUInt(255)), "255");
        assert_eq!(shown(AMQPValue::ShortInt(-2)), "-2");
        assert_eq!(shown(AMQPValue::ShortUInt(2)), "2");
        assert_eq!(shown(AMQPValue::LongInt(i32::MIN)), "-2147483648");
        assert_eq!(shown(AMQPValue::LongUInt(u32::MAX)), "4294967295");
        assert_eq!(
            shown(AMQPValue::LongLongInt(i64::MAX)),
            "9223372036854775807"
        );
        assert_eq!(
            shown(AMQPValue::Timestamp(u64::MAX)),
            "18446744073709551615"
        );
        assert_eq!(shown(AMQPValue::Float(0.5)), "0.5");
        assert_eq!(shown(AMQPValue::Double(f64::NAN)), "NaN");
        assert_eq!(shown(AMQPValue::Void), "");
        assert_eq!(shown(AMQPValue::ByteArray(vec![0, 255].into())), "00ff");
        assert_eq!(
            shown(AMQPValue::LongString(vec![b'a', 0xff].into())),
            "a\u{fffd}"
        );
        let decimal = |scale, value| shown(AMQPValue::DecimalValue(DecimalValue { scale, value }));
        assert_eq!(
            (decimal(0, 7), decimal(2, 7), decimal(2, 12345)),
            ("7".into(), "0.07".into(), "123.45".into())
        );
        assert_eq!(decimal(255, 1).len(), 257);
    }

    #[test]
    fn tables_and_arrays_are_json_within_bounds() {
        let mut table = FieldTable::default();
        table.insert("a".into(), AMQPValue::LongInt(1));
        table.insert(
            "b".into(),
            AMQPValue::FieldArray(vec![AMQPValue::Void].into()),
        );
        assert_eq!(text(&AMQPValue::FieldTable(table)), r#"{"a":1,"b":[null]}"#);

        let mut deep = AMQPValue::Void;
        for _ in 0..1_000 {
            deep = AMQPValue::FieldArray(vec![deep].into());
        }
        assert_eq!(
            text(&deep),
            format!("{}\"…\"{}", "[".repeat(16), "]".repeat(16))
        );

        let wide: FieldArray = vec![AMQPValue::LongString("x".repeat(100).into()); 5_000].into();
        assert!(text(&AMQPValue::FieldArray(wide)).len() < 2 * MOST_BYTES);
    }

    #[test]
    fn a_number_of_ours_is_digits_or_a_whole_type() {
        let read = |value: AMQPValue| unsigned(&value);
        assert_eq!(read(AMQPValue::LongString("17".into())), Some(17));
        assert_eq!(read(AMQPValue::LongUInt(17)), Some(17));
        for forged in ["", "-1", "+1", " 1", "1.0", "99999999999999999999", "one"] {
            assert_eq!(read(AMQPValue::LongString(forged.into())), None, "{forged}");
        }
        assert_eq!(read(AMQPValue::LongLongInt(-1)), None);
        assert_eq!(read(AMQPValue::Double(1.0)), None);
        assert_eq!(read(AMQPValue::Timestamp(1)), None);
    }
}
