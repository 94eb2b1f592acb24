use std::sync::Arc;

use super::dialect::Dialect;
use super::tables::Tables;

/// The statements of durable queues and their dead letters.
pub(super) struct QueueStatements {
    pub(super) insert: Arc<str>,
    pub(super) done: Arc<str>,
    pub(super) retry: Arc<str>,
    pub(super) bury: Arc<str>,
    pub(super) bury_done: Arc<str>,
    pub(super) buried_before: Arc<str>,
    pub(super) insert_letters: Arc<str>,
    pub(super) take: Arc<str>,
    pub(super) next_due: Arc<str>,
    pub(super) count: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) give_up: Arc<str>,
    pub(super) take_over: Arc<str>,
    pub(super) renew: Arc<str>,
    pub(super) leave: Arc<str>,
    pub(super) letters: Arc<str>,
    pub(super) count_letters: Arc<str>,
    pub(super) replay: Arc<str>,
    pub(super) letter_queue: Arc<str>,
    pub(super) discard: Arc<str>,
    pub(super) trim: Arc<str>,
}

/// The columns of a message, which its row and its dead letter share.
const MESSAGE: &str = "kind, address, key, correlation, causation, headers, traceparent, \
    expires_at, body, created_at";

impl QueueStatements {
    pub(super) fn new(dialect: &'static Dialect, tables: &Tables, tells: &str) -> Self {
        let sql = |text: &str| -> Arc<str> { tables.fill(text).into() };
        let put = |piece: &str, what: &str| piece.replace('$', what);
        let after = |what: &str| put(dialect.after, what);
        let left = |what: &str| put(dialect.left, what);
        let from_ms = |what: &str| put(dialect.from_ms, what);
        let to_ms = |what: &str| put(dialect.to_ms, what);
        let numbers = |what: &str| put(dialect.numbers, what);
        let texts = |what: &str| put(dialect.texts, what);
        let elements = put(dialect.elements, "$1");
        let number = |at: u8| dialect.number_field.replace('#', &at.to_string());
        let word = |at: u8| dialect.text_field.replace('#', &at.to_string());
        let Dialect {
            now,
            skip_locked,
            lock,
            share,
            ..
        } = *dialect;
        let expires = format!(
            "CASE WHEN {millis} IS NULL THEN NULL ELSE {after} END",
            millis = number(10),
            after = after(&number(10))
        );
        let insert = format!(
            "INSERT INTO {{queue}} (queue, id, kind, address, key, correlation, causation, headers, traceparent, body, \
             expires_at) SELECT {}, {expires} FROM {elements} WHERE {} IS NOT NULL ON CONFLICT DO NOTHING{tells}",
            (0..=9).map(&word).collect::<Vec<_>>().join(", "),
            word(0),
        );
        // Only of queues that are held by the same taking over. Shared, so that a successor waits for what is being
        // written.
        let held = format!(
            "WITH held AS MATERIALIZED (SELECT queue, fence FROM {{consumers}} WHERE holder = $2 {share})"
        );
        let fenced = "q.position = given.place \
             AND given.fence = (SELECT held.fence FROM held WHERE held.queue = q.queue)";
        let given = |more: &str| {
            format!(
                "(SELECT {} AS place, {} AS fence{more} FROM {elements}) AS given",
                number(0),
                number(1)
            )
        };
        let done = format!(
            "{held} DELETE FROM {{queue}} WHERE position IN \
             (SELECT q.position FROM {{queue}} AS q, {given} WHERE {fenced})",
            given = given(""),
        );
        let failures = format!(
            ", {attempts} AS attempts, {errors} AS errors, {first} AS first_ms, {last} AS last_ms",
            attempts = number(2),
            errors = word(3),
            first = number(4),
            last = number(5),
        );
        let retry = format!(
            "{held} UPDATE {{queue}} AS q SET attempts = given.attempts, errors = given.errors, \
             first_failed_at = {first}, last_failed_at = {last}, awaited_handler = given.awaited, \
             due_at = CASE WHEN given.delay IS NULL THEN NULL ELSE {due} END \
             FROM {given} WHERE {fenced} RETURNING position",
            first = from_ms("given.first_ms"),
            last = from_ms("given.last_ms"),
            due = after("given.delay"),
            given = given(&format!(
                "{failures}, {} AS awaited, {} AS delay",
                number(6),
                number(7)
            )),
        );
        let of_message = MESSAGE.replace(", ", ", q.");
        let bury = format!(
            "{held} INSERT INTO {{dead_letters}} (id, queue, reason, errors, attempts, first_failed_at, last_failed_at, \
             message_id, {MESSAGE}) SELECT given.letter, q.queue, given.reason, given.errors, given.attempts, {first}, \
             {last}, q.id, q.{of_message} FROM {{queue}} AS q, {given} WHERE {fenced}",
            first = from_ms("given.first_ms"),
            last = from_ms("given.last_ms"),
            given = given(&format!(
                "{failures}, {} AS letter, {} AS reason",
                word(6),
                word(7)
            )),
        );
        let ready = |which: &str, order: &str| {
            format!(
                "SELECT position FROM {{queue}} WHERE queue = $1 AND {which} AND position NOT IN ({except}) \
                 ORDER BY {order} LIMIT $3",
                except = numbers("$2"),
            )
        };
        let take = format!(
            "SELECT q.position, q.id, q.kind, q.address, q.key, q.correlation, q.causation, q.headers, q.traceparent, \
             {left}, q.body, CAST(q.attempts AS BIGINT), q.errors, {first}, {last}, \
             CAST(q.awaited_handler AS BIGINT), {ready_ms}, \
             CAST(CASE WHEN q.due_at IS NULL THEN 0 ELSE 1 END AS BIGINT) \
             FROM (SELECT * FROM ({written}) AS written UNION ALL SELECT * FROM ({waited}) AS waited) AS chosen \
             JOIN {{queue}} AS q ON q.position = chosen.position",
            left = left("q.expires_at"),
            first = to_ms("q.first_failed_at"),
            last = to_ms("q.last_failed_at"),
            ready_ms = to_ms("coalesce(q.due_at, q.created_at)"),
            written = ready("due_at IS NULL", "position"),
            waited = ready(
                &format!("due_at IS NOT NULL AND due_at <= {now}"),
                "due_at, position"
            ),
        );
        let optional =
            |column: &str, at: u8| format!("(CAST(${at} AS TEXT) IS NULL OR {column} = ${at})");
        Self {
            insert: sql(&insert),
            done: sql(&done),
            retry: sql(&retry),
            bury: sql(&bury),
            insert_letters: sql(&format!(
                "INSERT INTO {{dead_letters}} (id, queue, reason, errors, attempts, first_failed_at, last_failed_at, \
                 message_id, {MESSAGE}) SELECT {}, {}, {}, {}, {}, {}, {}, {}, CASE WHEN {left} IS NULL THEN NULL ELSE {} END, \
                 {}, {now} FROM {elements} WHERE {} IS NOT NULL ON CONFLICT DO NOTHING",
                word(0),
                word(1),
                word(2),
                word(3),
                number(4),
                from_ms(&number(5)),
                from_ms(&number(6)),
                (7..=14).map(&word).collect::<Vec<_>>().join(", "),
                after(&number(15)),
                word(16),
                word(0),
                left = number(15),
            )),
            bury_done: sql(&format!("{done} RETURNING position")),
            buried_before: sql(&format!(
                "SELECT {place} FROM {elements} WHERE {letter} IN (SELECT id FROM {{dead_letters}})",
                place = number(0),
                letter = word(6),
            )),
            take: sql(&take),
            next_due: sql(&format!(
                "SELECT {} FROM (SELECT min(due_at) AS at FROM {{queue}} WHERE queue = $1 AND due_at IS NOT NULL \
                 AND position NOT IN ({})) AS d",
                left("d.at"),
                numbers("$2"),
            )),
            count: sql(
                "SELECT count(*) FROM (SELECT 1 FROM {queue} WHERE queue = $1 LIMIT $2) AS counted",
            ),
            name: sql(&format!(
                "INSERT INTO {{consumers}} (queue) {} WHERE true ON CONFLICT DO NOTHING",
                texts("$1")
            )),
            give_up: sql(&format!(
                "UPDATE {{consumers}} SET holder = NULL, leased_until = NULL WHERE holder = $1 AND queue IN ({})",
                texts("$2")
            )),
            take_over: sql(&format!(
                "UPDATE {{consumers}} SET holder = $1, fence = fence + 1 WHERE queue IN (SELECT queue FROM {{consumers}} \
                 WHERE queue IN ({}) AND (holder IS NULL OR (holder <> $1 AND {has_ended})) {skip_locked})",
                texts("$2"),
                has_ended = dialect.has_ended("leased_until", "$3"),
            )),
            renew: sql(&format!(
                "UPDATE {{consumers}} SET leased_until = {} WHERE holder = $1 RETURNING queue, fence",
                after("$2")
            )),
            leave: sql(
                "UPDATE {consumers} SET holder = NULL, leased_until = NULL WHERE holder = $1",
            ),
            letters: sql(&format!(
                "SELECT position, message_id, kind, address, key, correlation, causation, headers, traceparent, {left}, \
                 body, CAST(attempts AS BIGINT), errors, {first}, {last}, CAST(0 AS BIGINT), id, queue, reason \
                 FROM {{dead_letters}} WHERE {id} AND {queue} AND {address} AND {reason} AND position > $5 \
                 ORDER BY position LIMIT $6",
                left = left("expires_at"),
                first = to_ms("first_failed_at"),
                last = to_ms("last_failed_at"),
                id = optional("id", 1),
                queue = optional("queue", 2),
                address = optional("address", 3),
                reason = optional("reason", 4),
            )),
            count_letters: sql(
                "SELECT count(*), CAST(coalesce(max(position), 0) AS BIGINT) FROM {dead_letters}",
            ),
            replay: sql(&format!(
                "INSERT INTO {{queue}} (queue, id, {MESSAGE}) SELECT queue, message_id, {copied} \
                 FROM {{dead_letters}} WHERE id = $1 ON CONFLICT DO NOTHING{tells}",
                copied = MESSAGE.replace("created_at", now),
            )),
            letter_queue: sql(&format!(
                // Who waits for another's replay finds nothing then.
                "SELECT queue FROM {{dead_letters}} WHERE id = $1 AND queue IN (SELECT queue FROM {{consumers}}) {lock}"
            )),
            discard: sql("DELETE FROM {dead_letters} WHERE id = $1"),
            trim: sql(&format!(
                "DELETE FROM {{dead_letters}} WHERE position IN (SELECT position FROM {{dead_letters}} \
                 WHERE position <= (SELECT position FROM {{dead_letters}} ORDER BY position DESC LIMIT 1 OFFSET $1) \
                 ORDER BY position LIMIT $2 {skip_locked})"
            )),
        }
    }
}
