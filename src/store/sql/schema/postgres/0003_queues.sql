-- Messages of durable queues: one row for each queue that took a message.
CREATE TABLE {queue} (
    position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue TEXT NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    address TEXT NOT NULL,
    key TEXT,
    correlation TEXT,
    causation TEXT,
    headers TEXT,
    traceparent TEXT,
    expires_at TIMESTAMPTZ,
    body TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    due_at TIMESTAMPTZ,
    attempts INTEGER NOT NULL DEFAULT 0,
    errors TEXT,
    first_failed_at TIMESTAMPTZ,
    last_failed_at TIMESTAMPTZ,
    awaited_handler INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX {queue_}messages ON {queue} (queue, id);
CREATE INDEX {queue_}ready ON {queue} (queue, position) WHERE due_at IS NULL;
CREATE INDEX {queue_}due ON {queue} (queue, due_at) WHERE due_at IS NOT NULL;

-- Which process hands out the messages of which durable queue.
CREATE TABLE {consumers} (
    queue TEXT PRIMARY KEY,
    holder TEXT,
    fence BIGINT NOT NULL DEFAULT 0,
    leased_until TIMESTAMPTZ
);

-- Messages that durable queues gave up.
CREATE TABLE {dead_letters} (
    position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    queue TEXT NOT NULL,
    reason TEXT NOT NULL,
    errors TEXT,
    attempts INTEGER NOT NULL,
    first_failed_at TIMESTAMPTZ NOT NULL,
    last_failed_at TIMESTAMPTZ NOT NULL,
    message_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    address TEXT NOT NULL,
    key TEXT,
    correlation TEXT,
    causation TEXT,
    headers TEXT,
    traceparent TEXT,
    expires_at TIMESTAMPTZ,
    body TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    died_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX {dead_letters_}queue ON {dead_letters} (queue, position);
