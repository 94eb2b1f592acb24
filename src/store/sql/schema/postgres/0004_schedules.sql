-- A delayed message is there once, and is found by its id to be taken back.
CREATE UNIQUE INDEX {outbox_}schedules ON {outbox} (id) WHERE status = 'scheduled';
