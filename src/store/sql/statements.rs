use std::sync::Arc;

use super::dialect::Dialect;
use super::handling::Template;
use super::migration::{Migration, migrations};
use super::queue_statements::QueueStatements;
use super::tables::Tables;

/// Every statement of a store, with its dialect and its tables' names filled in.
pub(super) struct Statements {
    pub(super) dialect: &'static Dialect,
    pub(super) insert: Arc<str>,
    pub(super) insert_plain: Arc<str>,
    pub(super) insert_all: Arc<str>,
    pub(super) record_handled: Arc<str>,
    pub(super) begin_handling: Template,
    pub(super) check_handling: Template,
    pub(super) take_due: Arc<str>,
    pub(super) take_waiting: Arc<str>,
    pub(super) begin_due: Arc<str>,
    pub(super) delayed: Arc<str>,
    pub(super) count_delayed: Arc<str>,
    pub(super) cancel: Arc<str>,
    pub(super) next_due: Arc<str>,
    pub(super) publish: Arc<str>,
    pub(super) publish_and_delete: Arc<str>,
    pub(super) fail: Arc<str>,
    pub(super) give_up: Arc<str>,
    pub(super) live: Arc<str>,
    pub(super) bury: Arc<str>,
    pub(super) count: Arc<str>,
    pub(super) take_over: Arc<str>,
    pub(super) renew: Arc<str>,
    pub(super) leave: Arc<str>,
    pub(super) end: Arc<str>,
    pub(super) clean_outbox: Arc<str>,
    pub(super) clean_inbox: Arc<str>,
    pub(super) backlog: Arc<str>,
    pub(super) dead: Arc<str>,
    pub(super) replay: Arc<str>,
    pub(super) discard: Arc<str>,
    pub(super) lanes: Arc<str>,
    pub(super) queues: QueueStatements,
    pub(super) schema_table: Arc<str>,
    pub(super) has_schema: Arc<str>,
    pub(super) version: Arc<str>,
    pub(super) migrations: Vec<Migration>,
    pub(super) lock_number: i64,
    pub(super) schema: Option<String>,
}

impl Statements {
    /// `tells`: what is told of in a commit that writes rows into a table; empty where nothing is.
    pub(super) fn new(
        dialect: &'static Dialect,
        tables: &Tables,
        tells: impl Fn(&str) -> String,
    ) -> Self {
        let sql = |text: &str| -> Arc<str> { tables.fill(text).into() };
        let put = |piece: &str, what: &str| piece.replace('$', what);
        let after = |what: &str| put(dialect.after, what);
        let before = |what: &str| put(dialect.before, what);
        let left = |what: &str| put(dialect.left, what);
        let text = |what: &str| put(dialect.text, what);
        let numbers = |what: &str| put(dialect.numbers, what);
        let texts = |what: &str| put(dialect.texts, what);
        let elements = |what: &str| put(dialect.elements, what);
        let number = |at: u8| dialect.number_field.replace('#', &at.to_string());
        let word = |at: u8| dialect.text_field.replace('#', &at.to_string());
        let Dialect {
            now,
            skip_locked,
            share,
            ..
        } = *dialect;

        // An earlier row of the key waits for a retry, or for an address that takes nothing: this one is behind it.
        let stays = format!(
            "q.address IN ({blocked}) OR (q.key IS NOT NULL AND EXISTS (SELECT 1 FROM {{outbox}} AS b \
             WHERE b.key = q.key AND b.status IN ('waiting', 'retrying') AND b.position < q.position \
             AND (b.status = 'retrying' OR b.address IN ({blocked}))))",
            blocked = texts("$3"),
        );
        let due = |status: &str, time: &str| {
            format!(
                "SELECT q.* FROM {{outbox}} AS q WHERE q.status = '{status}' AND q.{time} <= {now} \
                 AND q.lane IN ({lanes}) AND q.position NOT IN ({except}) AND NOT ({stays}) \
                 ORDER BY q.{time} LIMIT $6",
                lanes = numbers("$1"),
                except = numbers("$2"),
            )
        };
        let waiting = dialect.waiting.replace("{stays}", &stays);
        let take = |chosen: &str| {
            format!(
                "SELECT o.position, CAST(o.lane AS BIGINT), o.id, o.kind, o.address, o.key, o.correlation, \
                 o.causation, o.headers, o.traceparent, {left}, CAST(o.attempts AS BIGINT), o.body, \
                 CAST(CASE WHEN o.status = 'scheduled' THEN 1 ELSE 0 END AS BIGINT) \
                 FROM ({chosen}) AS o ORDER BY o.position",
                left = left("o.expires_at"),
            )
        };
        let take_due = take(&format!(
            "SELECT * FROM ({waiting}) AS first UNION ALL SELECT * FROM ({retrying}) AS second \
             UNION ALL SELECT * FROM ({scheduled}) AS third",
            retrying = due("retrying", "retry_at"),
            scheduled = due("scheduled", "due_at"),
        ));
        let take_waiting = take(&waiting);
        // Only of lanes that are held by the same taking over. Shared, so that a successor waits for the mark.
        let held = format!(
            "WITH held AS MATERIALIZED (SELECT lane, fence FROM {{lanes}} WHERE holder = $2 {share})"
        );
        let fenced = "WHERE o.position = done.position AND o.status IN ('waiting', 'retrying') \
             AND done.fence = (SELECT held.fence FROM held WHERE held.lane = o.lane)";
        // By lane, so that a fence is compared once, and not for each row.
        let published = format!(
            "position {} AND status IN ('waiting', 'retrying')",
            put(
                dialect.among,
                &format!(
                    "SELECT {position} FROM {groups} JOIN held ON held.lane = {lane} AND held.fence = {fence} \
                     CROSS JOIN {positions}",
                    position = dialect.array_number,
                    groups = elements("$1"),
                    lane = number(0),
                    fence = number(1),
                    positions = dialect.array_field.replace('#', "2"),
                )
            )
        );
        let publish = format!(
            "{held} UPDATE {{outbox}} SET status = 'published', published_at = {now}, retry_at = NULL \
             WHERE {published}"
        );
        let publish_and_delete = format!("{held} DELETE FROM {{outbox}} WHERE {published}");
        let fail = format!(
            "{held} UPDATE {{outbox}} AS o SET attempts = done.attempts, last_error = done.error, \
             status = CASE WHEN done.delay IS NULL THEN 'dead' ELSE 'retrying' END, \
             retry_at = CASE WHEN done.delay IS NULL THEN NULL ELSE {after} END \
             FROM (SELECT {position} AS position, {fence} AS fence, {delay} AS delay, {error} AS error, \
             {attempts} AS attempts FROM {rows}) AS done {fenced}",
            after = after("done.delay"),
            position = number(0),
            fence = number(1),
            delay = number(2),
            error = word(3),
            attempts = number(4),
            rows = elements("$1"),
        );
        let when = |what: &str| {
            format!(
                "CASE WHEN {what} IS NULL THEN NULL ELSE {} END",
                after(what)
            )
        };
        let of_time = |status: &str, column: &str| {
            format!(
                "SELECT {past} AS past_ms, {left} AS left_ms FROM (SELECT min({column}) AS at FROM {{outbox}} \
                 WHERE status = '{status}' AND {column} <= {now}) AS past, \
                 (SELECT min({column}) AS at FROM {{outbox}} WHERE status = '{status}' AND {column} > {now}) AS later",
                past = left("past.at"),
                left = left("later.at"),
                now = dialect.now,
            )
        };
        let next_due = format!(
            "SELECT min(past_ms), min(left_ms) FROM ({} UNION ALL {}) AS due",
            of_time("retrying", "retry_at"),
            of_time("scheduled", "due_at"),
        );
        let counted = |status: &str| {
            format!(
                "(SELECT count(*) FROM (SELECT 1 FROM {{outbox}} WHERE status = '{status}' LIMIT $1) AS {status})"
            )
        };
        Self {
            dialect,
            insert: sql(&format!(
                "INSERT INTO {{outbox}} (id, kind, address, key, lane, body, correlation, causation, headers, \
                 traceparent, status, expires_at, due_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, {}, {}) \
                 ON CONFLICT DO NOTHING{}",
                when("$12"),
                when("$13"),
                tells("outbox"),
            )),
            insert_plain: sql(&format!(
                "INSERT INTO {{outbox}} (id, kind, address, key, lane, body, status) \
                 VALUES ($1, $2, $3, $4, $5, $6, 'waiting'){}",
                tells("outbox"),
            )),
            // A delayed one that is there already, since it is not known whether it was written, is left as it is.
            insert_all: sql(&format!(
                "INSERT INTO {{outbox}} (id, kind, address, key, correlation, causation, headers, traceparent, body, lane, \
                 status, expires_at, due_at) SELECT {words}, {lane}, \
                 CASE WHEN {delay} IS NULL THEN 'waiting' ELSE 'scheduled' END, {expires}, {due} \
                 FROM {elements} WHERE {id} IS NOT NULL ON CONFLICT DO NOTHING{tells}",
                words = (0..=8).map(&word).collect::<Vec<_>>().join(", "),
                lane = number(9),
                delay = number(11),
                expires = when(&number(10)),
                due = when(&number(11)),
                elements = elements("$1"),
                id = word(0),
                tells = tells("outbox"),
            )),
            begin_due: sql(&format!(
                "UPDATE {{outbox}} SET status = 'waiting' WHERE status = 'scheduled' AND position IN ({}) \
                 RETURNING position",
                numbers("$1")
            )),
            delayed: sql(&format!(
                "SELECT position, CAST(lane AS BIGINT), id, kind, address, key, correlation, causation, headers, \
                 traceparent, {}, CAST(attempts AS BIGINT), body, {} FROM {{outbox}} WHERE status = 'scheduled' \
                 AND (CAST($1 AS TEXT) IS NULL OR address = $1) ORDER BY due_at LIMIT $2",
                left("expires_at"),
                left("due_at"),
            )),
            count_delayed: sql("SELECT count(*) FROM {outbox} WHERE status = 'scheduled'"),
            cancel: sql("DELETE FROM {outbox} WHERE status = 'scheduled' AND id = $1"),
            record_handled: sql(
                "INSERT INTO {inbox} (consumer, message_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            ),
            begin_handling: Template::new(&tables.fill(&format!(
                "{}; INSERT INTO {{inbox}} (consumer, message_id) VALUES ($) ON CONFLICT DO NOTHING RETURNING 1{}",
                dialect.begin, dialect.mark_handling
            ))),
            check_handling: Template::new(&tables.fill(dialect.check_handling)),
            take_due: sql(&take_due),
            take_waiting: sql(&take_waiting),
            next_due: sql(&next_due),
            publish: sql(&publish),
            publish_and_delete: sql(&publish_and_delete),
            fail: sql(&fail),
            give_up: sql(&format!(
                "UPDATE {{lanes}} SET holder = NULL, leased_until = NULL WHERE holder = $1 AND lane IN ({})",
                numbers("$2")
            )),
            live: sql(&format!(
                "INSERT INTO {{relays}} (holder, alive_until) VALUES ($1, {}) \
                 ON CONFLICT (holder) DO UPDATE SET alive_until = excluded.alive_until",
                after("$2")
            )),
            bury: sql(&format!(
                // Not waited for: who holds one may wait for what this one holds.
                "DELETE FROM {{relays}} WHERE holder IN (SELECT holder FROM {{relays}} WHERE {} {skip_locked})",
                dialect.has_ended("alive_until", "$1")
            )),
            count: sql(
                "SELECT (SELECT count(*) FROM {relays}), (SELECT count(*) FROM {lanes} WHERE holder = $1)",
            ),
            take_over: sql(&format!(
                "UPDATE {{lanes}} SET holder = $1, fence = fence + 1 WHERE lane IN (SELECT lane FROM {{lanes}} \
                 WHERE holder IS NULL OR (holder <> $1 AND {}) ORDER BY lane LIMIT $2 {skip_locked})",
                dialect.has_ended("leased_until", "$3")
            )),
            renew: sql(&format!(
                "UPDATE {{lanes}} SET leased_until = {} WHERE holder = $1 RETURNING CAST(lane AS BIGINT), fence",
                after("$2")
            )),
            leave: sql(&format!(
                "UPDATE {{lanes}} SET holder = NULL, leased_until = NULL WHERE holder = $1 AND lane NOT IN ({})",
                numbers("$2")
            )),
            end: sql("DELETE FROM {relays} WHERE holder = $1"),
            clean_outbox: sql(&format!(
                "DELETE FROM {{outbox}} WHERE position IN (SELECT position FROM {{outbox}} \
                 WHERE status = 'published' AND published_at < {} ORDER BY published_at LIMIT $2 {skip_locked})",
                before("$1")
            )),
            clean_inbox: sql(&format!(
                "DELETE FROM {{inbox}} WHERE (consumer, message_id) IN (SELECT consumer, message_id FROM {{inbox}} \
                 WHERE handled_at < {} ORDER BY handled_at LIMIT $2 {skip_locked})",
                before("$1")
            )),
            backlog: sql(&format!(
                "SELECT {} + {} + {}, {}",
                counted("waiting"),
                counted("retrying"),
                counted("scheduled"),
                counted("dead")
            )),
            dead: sql(&format!(
                "SELECT id, kind, address, key, CAST(attempts AS BIGINT), last_error, {}, body FROM {{outbox}} \
                 WHERE status = 'dead' ORDER BY position LIMIT $1",
                text("created_at")
            )),
            replay: sql(&format!(
                "UPDATE {{outbox}} SET status = 'waiting', attempts = 0, retry_at = NULL, due_at = NULL \
                 WHERE status = 'dead' AND id = $1{}",
                tells("outbox"),
            )),
            discard: sql("DELETE FROM {outbox} WHERE status = 'dead' AND id = $1"),
            queues: QueueStatements::new(dialect, tables, &tells("queue")),
            lanes: sql("SELECT CAST(lane AS BIGINT), fence, holder FROM {lanes} ORDER BY 1"),
            schema_table: sql(dialect.schema_table),
            has_schema: sql(dialect.has_table),
            version: sql("SELECT CAST(coalesce(max(version), 0) AS BIGINT) FROM {schema}"),
            migrations: migrations(dialect.steps, tables),
            lock_number: lock_number(&tables.fill("{schema}")),
            schema: tables.schema.clone(),
        }
    }
}

/// What migrating processes of one store agree on, and those of another do not.
fn lock_number(name: &str) -> i64 {
    name.bytes().fold(0x706f_7374, |number: i64, byte| {
        number.wrapping_mul(31).wrapping_add(i64::from(byte))
    })
}
