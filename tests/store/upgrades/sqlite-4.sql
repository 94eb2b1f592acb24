-- The tables of version 4 in SQLite, and what its program left in them. Never changed: a new version gets a file of its own.
CREATE TABLE postroom_schema (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
CREATE TABLE postroom_outbox (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    address TEXT NOT NULL,
    key TEXT,
    lane INTEGER NOT NULL,
    correlation TEXT,
    causation TEXT,
    headers TEXT,
    traceparent TEXT,
    expires_at TEXT,
    body TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    due_at TEXT,
    retry_at TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    published_at TEXT
);
CREATE INDEX postroom_outbox_waiting ON postroom_outbox (position) WHERE status = 'waiting';
CREATE INDEX postroom_outbox_scheduled ON postroom_outbox (due_at) WHERE status = 'scheduled';
CREATE INDEX postroom_outbox_retrying ON postroom_outbox (retry_at) WHERE status = 'retrying';
CREATE INDEX postroom_outbox_keys ON postroom_outbox (key, position) WHERE key IS NOT NULL AND status IN ('waiting', 'retrying');
CREATE INDEX postroom_outbox_published ON postroom_outbox (published_at) WHERE status = 'published';
CREATE INDEX postroom_outbox_dead ON postroom_outbox (position) WHERE status = 'dead';
CREATE TABLE postroom_lanes (
    lane INTEGER PRIMARY KEY,
    holder TEXT,
    fence INTEGER NOT NULL DEFAULT 0,
    leased_until TEXT
);
WITH RECURSIVE numbers(lane) AS (SELECT 0 UNION ALL SELECT lane + 1 FROM numbers WHERE lane < 31)
INSERT INTO postroom_lanes (lane) SELECT lane FROM numbers;
CREATE TABLE postroom_relays (
    holder TEXT PRIMARY KEY,
    started_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    alive_until TEXT NOT NULL
);
INSERT INTO postroom_schema (version, name) VALUES (1, 'outbox');
CREATE TABLE postroom_inbox (
    consumer TEXT NOT NULL,
    message_id TEXT NOT NULL,
    handled_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (consumer, message_id)
) WITHOUT ROWID;
CREATE INDEX postroom_inbox_handled ON postroom_inbox (handled_at);
INSERT INTO postroom_schema (version, name) VALUES (2, 'inbox');
CREATE TABLE postroom_queue (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    address TEXT NOT NULL,
    key TEXT,
    correlation TEXT,
    causation TEXT,
    headers TEXT,
    traceparent TEXT,
    expires_at TEXT,
    body TEXT NOT NULL,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    due_at TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    errors TEXT,
    first_failed_at TEXT,
    last_failed_at TEXT,
    awaited_handler INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX postroom_queue_messages ON postroom_queue (queue, id);
CREATE INDEX postroom_queue_ready ON postroom_queue (queue, position) WHERE due_at IS NULL;
CREATE INDEX postroom_queue_due ON postroom_queue (queue, due_at) WHERE due_at IS NOT NULL;
CREATE TABLE postroom_consumers (
    queue TEXT PRIMARY KEY,
    holder TEXT,
    fence INTEGER NOT NULL DEFAULT 0,
    leased_until TEXT
);
CREATE TABLE postroom_dead_letters (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    queue TEXT NOT NULL,
    reason TEXT NOT NULL,
    errors TEXT,
    attempts INTEGER NOT NULL,
    first_failed_at TEXT NOT NULL,
    last_failed_at TEXT NOT NULL,
    message_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    address TEXT NOT NULL,
    key TEXT,
    correlation TEXT,
    causation TEXT,
    headers TEXT,
    traceparent TEXT,
    expires_at TEXT,
    body TEXT NOT NULL,
    created_at TEXT NOT NULL,
    died_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
CREATE INDEX postroom_dead_letters_queue ON postroom_dead_letters (queue, position);
INSERT INTO postroom_schema (version, name) VALUES (3, 'queues');
CREATE UNIQUE INDEX postroom_outbox_schedules ON postroom_outbox (id) WHERE status = 'scheduled';
INSERT INTO postroom_schema (version, name) VALUES (4, 'schedules');
INSERT INTO postroom_outbox (id, kind, address, key, lane, body, status, created_at, due_at, retry_at, attempts, last_error, published_at) VALUES
    ('01970000-0000-7000-8000-000000000001', 'event', 'ordering.order-placed', 'a', 7, '{"order":1}', 'waiting', '2026-01-01T00:00:00.000Z', NULL, NULL, 0, NULL, NULL),
    ('01970000-0000-7000-8000-000000000002', 'event', 'ordering.order-placed', 'a', 7, '{"order":2}', 'waiting', '2026-01-01T00:00:00.000Z', NULL, NULL, 0, NULL, NULL),
    ('01970000-0000-7000-8000-000000000003', 'event', 'ordering.order-placed', 'b', 7, '{"order":3}', 'retrying', '2026-01-01T00:00:00.000Z', NULL, '2026-01-01T00:00:00.000Z', 2, 'the queue was full', NULL),
    ('01970000-0000-7000-8000-000000000004', 'event', 'ordering.order-placed', NULL, 7, '{"order":4}', 'dead', '2026-01-01T00:00:00.000Z', NULL, NULL, 10, 'it was refused', NULL),
    ('01970000-0000-7000-8000-000000000005', 'event', 'ordering.order-placed', NULL, 7, '{"order":5}', 'published', '2026-01-01T00:00:00.000Z', NULL, NULL, 0, NULL, '2026-01-01T00:00:00.000Z'),
    ('01970000-0000-7000-8000-000000000006', 'event', 'ordering.order-placed', NULL, 7, '{"order":6}', 'scheduled', '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z', NULL, 0, NULL, NULL),
    ('01970000-0000-7000-8000-000000000007', 'event', 'ordering.order-placed', NULL, 7, '{"order":7}', 'scheduled', '2026-01-01T00:00:00.000Z', '2999-01-01T00:00:00.000Z', NULL, 0, NULL, NULL);
UPDATE postroom_lanes SET holder = 'shop/old', fence = 3, leased_until = '2026-01-01T00:00:00.000Z';
INSERT INTO postroom_relays (holder, started_at, alive_until) VALUES ('shop/old', '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z');
-- Handled just now: what is older than `keep_handled` is forgotten.
INSERT INTO postroom_inbox (consumer, message_id) VALUES ('stock', '01970000-0000-7000-8000-000000000001');
INSERT INTO postroom_queue (queue, id, kind, address, key, body, created_at, due_at, attempts, errors, first_failed_at, last_failed_at) VALUES
    ('kept', '01970000-0000-7000-8000-000000000011', 'event', 'ordering.order-placed', 'a', '{"order":11}', '2026-01-01T00:00:00.000Z', NULL, 0, NULL, NULL, NULL),
    ('kept', '01970000-0000-7000-8000-000000000012', 'event', 'ordering.order-placed', NULL, '{"order":12}', '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z', 2, '["it failed","and why"]', '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z');
INSERT INTO postroom_consumers (queue, holder, fence, leased_until) VALUES ('kept', 'shop/old', 5, '2026-01-01T00:00:00.000Z');
INSERT INTO postroom_dead_letters (id, queue, reason, errors, attempts, first_failed_at, last_failed_at, message_id, kind, address, body, created_at, died_at) VALUES
    ('01970000-0000-7000-8000-000000000090', 'kept', 'rejected', '["never"]', 1, '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z', '01970000-0000-7000-8000-000000000013', 'event', 'ordering.order-placed', '{"order":13}', '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z');
