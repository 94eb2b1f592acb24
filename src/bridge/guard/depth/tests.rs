use proptest::prelude::*;

use super::super::fake_broker::{delivery, frame, method, nested_arrays, nested_tables};
use super::{DepthLimit, MOST_LEVELS};

/// A value of a table, as deep as it likes.
#[derive(Clone, Debug)]
enum Value {
    Fixed(u8, usize),
    Bytes(u8, Vec<u8>),
    Table(Vec<(Vec<u8>, Value)>),
    Array(Vec<Value>),
}

impl Value {
    /// Its type and its bytes; by recursion, in the plainest way. At `most` levels it turns opaque.
    fn write(&self, level: usize, most: usize, out: &mut Vec<u8>) {
        match self {
            Self::Fixed(kind, size) => {
                out.push(*kind);
                out.extend(std::iter::repeat_n(b'F', *size));
            }
            Self::Bytes(kind, bytes) => {
                out.push(*kind);
                out.extend((bytes.len() as u32).to_be_bytes());
                out.extend(bytes);
            }
            Self::Table(_) | Self::Array(_) => {
                let inside = if level >= most {
                    out.push(b'x');
                    // As it was: opaque is only what the outermost of the deep ones is.
                    self.inside(level, usize::MAX)
                } else {
                    out.push(if matches!(self, Self::Table(_)) {
                        b'F'
                    } else {
                        b'A'
                    });
                    self.inside(level, most)
                };
                out.extend((inside.len() as u32).to_be_bytes());
                out.extend(inside);
            }
        }
    }

    fn inside(&self, level: usize, most: usize) -> Vec<u8> {
        let mut inside = Vec::new();
        match self {
            Self::Table(entries) => {
                for (key, value) in entries {
                    inside.push(key.len() as u8);
                    inside.extend(key);
                    value.write(level + 1, most, &mut inside);
                }
            }
            Self::Array(values) => {
                for value in values {
                    value.write(level + 1, most, &mut inside);
                }
            }
            Self::Fixed(..) | Self::Bytes(..) => {}
        }
        inside
    }
}

/// The table of a frame, without a type byte.
fn table(entries: &[(Vec<u8>, Value)], most: usize) -> Vec<u8> {
    let inside = Value::Table(entries.to_vec()).inside(0, most);
    let mut bytes = (inside.len() as u32).to_be_bytes().to_vec();
    bytes.extend(inside);
    bytes
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        prop::sample::select(vec![
            (b'V', 0),
            (b't', 1),
            (b'b', 1),
            (b'B', 1),
            (b's', 2),
            (b'U', 2),
            (b'u', 2),
            (b'I', 4),
            (b'i', 4),
            (b'f', 4),
            (b'D', 5),
            (b'L', 8),
            (b'l', 8),
            (b'd', 8),
            (b'T', 8),
        ])
        .prop_map(|(kind, size)| Value::Fixed(kind, size)),
        (
            prop::sample::select(vec![b'S', b'x']),
            prop::collection::vec(any::<u8>(), 0..9)
        )
            .prop_map(|(kind, bytes)| Value::Bytes(kind, bytes)),
    ];
    let tree = leaf.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec((key(), inner.clone()), 0..4).prop_map(Value::Table),
            prop::collection::vec(inner, 0..4).prop_map(Value::Array),
        ]
    });
    // A shaft brings the tree to about the limit, on either side of it.
    (tree, prop::collection::vec(any::<bool>(), 0..70)).prop_map(|(tree, shaft)| {
        shaft.into_iter().fold(tree, |inner, is_table| {
            if is_table {
                Value::Table(vec![
                    (b"k".to_vec(), inner),
                    (Vec::new(), Value::Fixed(b'V', 0)),
                ])
            } else {
                Value::Array(vec![Value::Fixed(b't', 1), inner])
            }
        })
    })
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..5)
}

fn entries() -> impl Strategy<Value = Vec<(Vec<u8>, Value)>> {
    prop::collection::vec((key(), value()), 0..4)
}

/// Every frame that has a table, with this one in it, and some that have none.
fn frames(table: &[u8]) -> Vec<u8> {
    let with = |before: &[u8], after: &[u8]| [before, table, after].concat();
    let header = |flags: u16, before: &[u8], after: &[u8]| {
        let mut payload = vec![0; 12];
        payload.extend(flags.to_be_bytes());
        payload.extend(with(before, after));
        frame(2, 1, &payload)
    };
    [
        method(
            0,
            10,
            10,
            &with(&[0, 9], b"\x00\x00\x00\x05PLAIN\x00\x00\x00\x02en"),
        ),
        frame(8, 0, &[]),
        method(0, 10, 11, &with(&[], b"\x05PLAIN")),
        frame(3, 1, &with(b"FA", b"F")),
        method(1, 40, 10, &with(b"\0\0\x02ex\x05topic\x01", &[])),
        method(1, 40, 30, &with(b"\0\0\x01d\x01s\x01r\0", &[])),
        method(1, 40, 40, &with(b"\0\0\x00\x01s\x01r\0", &[])),
        method(1, 50, 10, &with(b"\0\0\x05queue\x1f", &[])),
        frame(1, 1, &[]),
        frame(2, 1, &[]),
        method(1, 50, 20, &with(b"\0\0\x01q\x01e\x01r\0", &[])),
        method(1, 50, 50, &with(b"\0\0\x01q\x01e\x01r", &[])),
        method(1, 60, 20, &with(b"\0\0\x01q\x01t\0", &[])),
        header(1 << 13, &[], &[]),
        header(1 << 15 | 1 << 13, b"\x04text", &[]),
        header(1 << 14 | 1 << 13 | 1 << 12, b"\x04gzip", &[2]),
        header(7 << 13 | 1, b"\x04text\x04gzip", b"anything"),
    ]
    .concat()
}

fn pass(bytes: &[u8], cuts: &[usize]) -> Vec<u8> {
    let (mut bytes, mut limit) = (bytes.to_vec(), DepthLimit::new());
    let (mut rest, mut cuts) = (&mut bytes[..], cuts.iter().cycle());
    while !rest.is_empty() {
        let size = cuts.next().map_or(rest.len(), |&cut| cut.min(rest.len()));
        let (chunk, after) = rest.split_at_mut(size);
        limit.pass(chunk);
        rest = after;
    }
    bytes
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        Just(Vec::new()),
        Just(vec![1]),
        prop::collection::vec(1..40_usize, 1..20),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn does_what_the_recursive_model_does(entries in entries(), cuts in cuts()) {
        // A frame without a table is as it was, however much its bytes look like one.
        let original = frames(&table(&entries, usize::MAX));
        let limited = table(&entries, MOST_LEVELS);
        let mut expected = frames(&limited);
        let body = frame(3, 1, &[b"FA", &table(&entries, usize::MAX)[..], b"F"].concat());
        let place = expected.windows(10).position(|window| {
            window[0] == 3 && window[1..3] == [0, 1] && window[7..9] == *b"FA"
        });
        let place = place.unwrap();
        expected.splice(place..place + body.len(), body);
        let passed = pass(&original, &cuts);
        prop_assert_eq!(&passed, &expected);
        prop_assert_eq!(pass(&passed, &cuts), passed, "a second pass changes nothing");
    }

    #[test]
    fn random_bytes_keep_their_length_and_the_cuts_do_not_matter(
        mut bytes in prop::collection::vec(any::<u8>(), 0..600),
        kind in prop::sample::select(vec![1_u8, 2, 3, 8, b'A', 7]),
        cuts in cuts(),
    ) {
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        let passed = pass(&bytes, &cuts);
        prop_assert_eq!(passed.len(), bytes.len());
        prop_assert_eq!(passed, pass(&bytes, &[]));
    }

    #[test]
    fn damaged_frames_change_no_more_than_types(
        entries in entries(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cuts in cuts(),
    ) {
        let mut bytes = frames(&table(&entries, usize::MAX));
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let passed = pass(&bytes, &cuts);
        prop_assert_eq!(&passed, &pass(&bytes, &[]));
        for (before, after) in bytes.iter().zip(&passed) {
            prop_assert!(before == after || (matches!(before, b'F' | b'A') && *after == b'x'));
        }
    }
}

#[test]
fn the_limit_counts_the_table_of_headers_itself() {
    for nested in [nested_tables, nested_arrays] {
        let at = |levels: usize| delivery(1, &nested(levels));
        assert_eq!(pass(&at(MOST_LEVELS - 1), &[]), at(MOST_LEVELS - 1));
        let deep = at(18_000);
        let passed = pass(&deep, &[]);
        let changed: Vec<_> = (0..deep.len())
            .filter(|&at| deep[at] != passed[at])
            .collect();
        assert_eq!(changed.len(), 1);
        assert_eq!(passed[changed[0]], b'x');
    }
    let table = nested_tables(MOST_LEVELS);
    assert_eq!(pass(&table, &[]), table);
    assert_eq!(
        pass(&delivery(1, &nested_tables(MOST_LEVELS)), &[]),
        delivery(1, &table)
    );
    let one_more = delivery(1, &nested_tables(MOST_LEVELS + 1));
    assert_ne!(pass(&one_more, &[]), one_more);
}

#[test]
fn what_follows_a_protocol_header_is_still_followed() {
    let deep = delivery(1, &nested_tables(100));
    let bytes = [b"AMQP\x00\x00\x09\x01", &deep[..]].concat();
    assert_eq!(pass(&bytes, &[3])[8..], pass(&deep, &[]));
}

#[test]
fn an_unknown_frame_type_passes_all_that_follows() {
    let bytes = [&[9_u8][..], &delivery(1, &nested_tables(100))].concat();
    assert_eq!(pass(&bytes, &[2]), bytes);
}
