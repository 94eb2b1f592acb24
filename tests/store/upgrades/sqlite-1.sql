-- The tables of version 1 in SQLite, and what its program left in them. Never changed: a new version gets a file of its own.
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
