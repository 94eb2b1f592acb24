-- Messages that a consumer has handled.
CREATE TABLE {inbox} (
    consumer TEXT NOT NULL,
    message_id TEXT NOT NULL,
    handled_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, message_id)
);
CREATE INDEX {inbox_}handled ON {inbox} (handled_at);
