-- Messages of durable queues: one row for each queue that took a message.
CREATE TABLE {queue} (
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
CREATE UNIQUE INDEX {queue_}messages ON {queue} (queue, id);
CREATE INDEX {queue_}ready ON {queue} (queue, position) WHERE due_at IS NULL;
CREATE INDEX {queue_}due ON {queue} (queue, due_at) WHERE due_at IS NOT NULL;

-- Which process hands out the messages of which durable queue.
CREATE TABLE {consumers} (
    queue TEXT PRIMARY KEY,
    holder TEXT,
    fence INTEGER NOT NULL DEFAULT 0,
    leased_until TEXT
);

-- Messages that durable queues gave up.
CREATE TABLE {dead_letters} (
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
CREATE INDEX {dead_letters_}queue ON {dead_letters} (queue, position);
