-- Messages written in a transaction of the application's, to be published after its commit.
CREATE TABLE {outbox} (
    position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    address TEXT NOT NULL,
    key TEXT,
    lane INTEGER NOT NULL,
    correlation TEXT,
    causation TEXT,
    headers TEXT,
    traceparent TEXT,
    expires_at TIMESTAMPTZ,
    body TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    due_at TIMESTAMPTZ,
    retry_at TIMESTAMPTZ,
    attempts INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    published_at TIMESTAMPTZ
);
CREATE INDEX {outbox_}waiting ON {outbox} (lane, position) WHERE status = 'waiting';
CREATE INDEX {outbox_}scheduled ON {outbox} (due_at) WHERE status = 'scheduled';
CREATE INDEX {outbox_}retrying ON {outbox} (retry_at) WHERE status = 'retrying';
CREATE INDEX {outbox_}keys ON {outbox} (key, position) WHERE key IS NOT NULL AND status IN ('waiting', 'retrying');
CREATE INDEX {outbox_}published ON {outbox} (published_at) WHERE status = 'published';
CREATE INDEX {outbox_}dead ON {outbox} (position) WHERE status = 'dead';

-- Which relay publishes the rows of which lane.
CREATE TABLE {lanes} (
    lane INTEGER PRIMARY KEY,
    holder TEXT,
    fence BIGINT NOT NULL DEFAULT 0,
    leased_until TIMESTAMPTZ
);
INSERT INTO {lanes} (lane) SELECT generate_series(0, 31);

-- The relays that live.
CREATE TABLE {relays} (
    holder TEXT PRIMARY KEY,
    started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    alive_until TIMESTAMPTZ NOT NULL
);
