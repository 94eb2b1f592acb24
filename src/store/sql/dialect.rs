/// In what SQLite and PostgreSQL differ, as pieces of statements. Lists come in as JSON text, since both read that.
pub(super) struct Dialect {
    pub(super) name: &'static str,
    /// The time.
    pub(super) now: &'static str,
    /// The time so many milliseconds from now, later or earlier; `$` stands for the number.
    pub(super) after: &'static str,
    pub(super) before: &'static str,
    /// Milliseconds until the time `$`.
    pub(super) left: &'static str,
    /// The time that is so many milliseconds after the beginning of 1970, and back.
    pub(super) from_ms: &'static str,
    pub(super) to_ms: &'static str,
    /// A time as text.
    pub(super) text: &'static str,
    /// The numbers, the texts and the elements of a JSON array; of an element the field `#`.
    pub(super) numbers: &'static str,
    pub(super) texts: &'static str,
    pub(super) elements: &'static str,
    pub(super) number_field: &'static str,
    pub(super) text_field: &'static str,
    /// Of an element the array that is its field `#`, as rows `p`, and the number that one of them is.
    pub(super) array_field: &'static str,
    pub(super) array_number: &'static str,
    /// That a number is one of those which the query `$` returns; the query is run once, and the number looked up by
    /// its index, however many the planner thinks that they are.
    pub(super) among: &'static str,
    /// Rows locked until the end of the transaction, for whoever changes them: those that nobody else has, or all; and
    /// against who would.
    pub(super) skip_locked: &'static str,
    pub(super) lock: &'static str,
    pub(super) share: &'static str,
    /// Begins a transaction that writes.
    pub(super) begin: &'static str,
    /// A text as a part of a statement.
    pub(super) quote: fn(&str) -> String,
    /// Behind the record of a message: what makes its transaction known again.
    pub(super) mark_handling: &'static str,
    /// Fails where the transaction is not that one any more, or cannot be committed. `$` stands for the record.
    pub(super) check_handling: &'static str,
    /// Makes that one process at a time migrates; with `#` for a number.
    pub(super) one_at_a_time: Option<&'static str>,
    /// The waiting rows whose turn it is, of lanes `$1`, not `$2`, at most `$4`, and `$5` of a lane where
    /// that is less work; `{stays}` is true of a row `q` that must stay.
    pub(super) waiting: &'static str,
    /// The table of versions.
    pub(super) schema_table: &'static str,
    /// Whether a table of a name is there, as a number.
    pub(super) has_table: &'static str,
    pub(super) steps: &'static [(&'static str, &'static str)],
}

/// A lease that has more of its lengths to go than this is not of the clock as it is now.
const LENGTHS_AHEAD: u32 = 10;

impl Dialect {
    /// That a lease has ended which was taken until the time `until`; `lease` is how many milliseconds one lasts. One that
    /// ends too far ahead was taken before the clock was set back, and would hold for as long as that was.
    pub(super) fn has_ended(&self, until: &str, lease: &str) -> String {
        let lengths = format!("{LENGTHS_AHEAD} * {lease}");
        let far = self.after.replace('$', &lengths);
        format!("({until} < {} OR {until} > {far})", self.now)
    }
}

#[cfg(feature = "sqlite")]
pub(super) const SQLITE: Dialect = Dialect {
    name: "SQLite",
    now: "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')",
    after: "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', printf('%+.3f seconds', $ / 1000.0))",
    before: "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', printf('%+.3f seconds', $ / -1000.0))",
    left: "CAST(round((julianday($) - julianday('now')) * 86400000.0) AS INTEGER)",
    from_ms: "strftime('%Y-%m-%dT%H:%M:%fZ', $ / 1000.0, 'unixepoch')",
    to_ms: "CAST(round((julianday($) - 2440587.5) * 86400000.0) AS INTEGER)",
    text: "$",
    numbers: "SELECT value FROM json_each($)",
    texts: "SELECT value FROM json_each($)",
    elements: "json_each($) AS e",
    number_field: "json_extract(e.value, '$[#]')",
    text_field: "json_extract(e.value, '$[#]')",
    array_field: "json_each(e.value, '$[#]') AS p",
    array_number: "p.value",
    among: "IN ($)",
    skip_locked: "",
    lock: "",
    share: "",
    begin: "BEGIN IMMEDIATE",
    quote: |text| format!("'{}'", text.replace('\'', "''")),
    // A savepoint goes with its transaction, whoever ends that.
    mark_handling: "; SAVEPOINT postroom_handling",
    check_handling: "RELEASE postroom_handling",
    one_at_a_time: None,
    waiting: "SELECT q.* FROM {outbox} AS q INDEXED BY {outbox_}waiting \
        WHERE q.status = 'waiting' AND q.lane IN (SELECT value FROM json_each($1)) \
        AND q.position NOT IN (SELECT value FROM json_each($2)) AND NOT ({stays}) \
        ORDER BY q.position LIMIT $4",
    schema_table: "CREATE TABLE IF NOT EXISTS {schema} (version INTEGER PRIMARY KEY, name TEXT NOT NULL, \
        applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')))",
    has_table: "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = '{schema}'",
    steps: &[
        ("outbox", include_str!("schema/sqlite/0001_outbox.sql")),
        ("inbox", include_str!("schema/sqlite/0002_inbox.sql")),
        ("queues", include_str!("schema/sqlite/0003_queues.sql")),
        (
            "schedules",
            include_str!("schema/sqlite/0004_schedules.sql"),
        ),
    ],
};

#[cfg(feature = "postgres")]
pub(super) const POSTGRES: Dialect = Dialect {
    name: "PostgreSQL",
    now: "now()",
    // Not from where a transaction began: it may be long.
    after: "clock_timestamp() + $ * interval '1 millisecond'",
    before: "now() - $ * interval '1 millisecond'",
    left: "(extract(epoch FROM $ - now()) * 1000)::bigint",
    from_ms: "to_timestamp($ / 1000.0)",
    to_ms: "round(extract(epoch FROM $) * 1000)::bigint",
    text: "$::text",
    numbers: "SELECT e::bigint FROM jsonb_array_elements_text($::jsonb) AS e",
    texts: "SELECT e FROM jsonb_array_elements_text($::jsonb) AS e",
    elements: "jsonb_array_elements($::jsonb) AS e(value)",
    number_field: "(e.value ->> #)::bigint",
    text_field: "(e.value ->> #)",
    array_field: "jsonb_array_elements_text(e.value -> #) AS p(value)",
    array_number: "p.value::bigint",
    among: "= ANY (ARRAY($))",
    skip_locked: "FOR UPDATE SKIP LOCKED",
    lock: "FOR UPDATE",
    share: "FOR SHARE",
    begin: "BEGIN",
    // As `E'…'`, it does not depend on `standard_conforming_strings`.
    quote: |text| format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''")),
    // A row knows which transaction wrote it. Where it is not this one, zero cannot be divided by.
    mark_handling: "",
    check_handling: "SELECT 1 / count(*) FROM {inbox} WHERE (consumer, message_id) = ($) \
        AND xmin::text = (txid_current() % 4294967296)::text",
    one_at_a_time: Some("SELECT pg_advisory_xact_lock(#)"),
    // By lane, so that rows of others are not read: the backlog of one that is stopped holds up nobody.
    waiting: "SELECT w.* FROM (SELECT e::int AS lane FROM jsonb_array_elements_text($1::jsonb) AS e) AS mine \
        CROSS JOIN LATERAL (SELECT q.* FROM {outbox} AS q WHERE q.status = 'waiting' AND q.lane = mine.lane \
            AND q.position NOT IN (SELECT e::bigint FROM jsonb_array_elements_text($2::jsonb) AS e) \
            AND NOT ({stays}) ORDER BY q.position LIMIT $5) AS w ORDER BY w.position LIMIT $4",
    schema_table: "CREATE TABLE IF NOT EXISTS {schema} (version INTEGER PRIMARY KEY, name TEXT NOT NULL, \
        applied_at TIMESTAMPTZ NOT NULL DEFAULT now())",
    has_table: "SELECT (to_regclass('{schema}') IS NOT NULL)::int::bigint",
    steps: &[
        ("outbox", include_str!("schema/postgres/0001_outbox.sql")),
        ("inbox", include_str!("schema/postgres/0002_inbox.sql")),
        ("queues", include_str!("schema/postgres/0003_queues.sql")),
        (
            "schedules",
            include_str!("schema/postgres/0004_schedules.sql"),
        ),
    ],
};
