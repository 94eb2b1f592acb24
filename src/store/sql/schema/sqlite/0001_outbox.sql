-- Messages written in a transaction of the application's, to be published after its commit.
CREATE TABLE {outbox} (
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
CREATE INDEX {outbox_}waiting ON {outbox} (position) WHERE status = 'waiting';
CREATE INDEX {outbox_}scheduled ON {outbox} (due_at) WHERE status = 'scheduled';
CREATE INDEX {outbox_}retrying ON {outbox} (retry_at) WHERE status = 'retrying';
CREATE INDEX {outbox_}keys ON {outbox} (key, position) WHERE key IS NOT NULL AND status IN ('waiting', 'retrying');
CREATE INDEX {outbox_}published ON {outbox} (published_at) WHERE status = 'published';
CREATE INDEX {outbox_}dead ON {outbox} (position) WHERE status = 'dead';

-- Which relay publishes the rows of which lane.
CREATE TABLE {lanes} (
    lane INTEGER PRIMARY KEY,
    holder TEXT,
    fence INTEGER NOT NULL DEFAULT 0,
    leased_until TEXT
);
WITH RECURSIVE numbers(lane) AS (SELECT 0 UNION ALL SELECT lane + 1 FROM numbers WHERE lane < 31)
INSERT INTO {lanes} (lane) SELECT lane FROM numbers;

-- The relays that live.
CREATE TABLE {relays} (
    holder TEXT PRIMARY KEY,
    started_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    alive_until TEXT NOT NULL
);
