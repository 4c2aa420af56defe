-- Streams in the long run: their epochs, what of them is kept, and the devices that read them.

-- The epoch of all streams. Another one is given out after the database was restored from a backup. The one table
-- without a user: its single row is the same for all.
CREATE TABLE sync_epoch (
    is_present INTEGER NOT NULL PRIMARY KEY CHECK (is_present = 1),
    epoch      TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO sync_epoch (is_present, epoch) VALUES (
    1,
    lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-'
        || substr('89AB', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))
);

-- epoch: that of this stream alone, if it has begun anew. kept_floor: the highest number of a deletion that was pruned;
-- kept_moved_at: the number that the last pruning took for itself. swept_at: when the stream was last swept;
-- clean_at: where it ended when a sweep left nothing to do.
ALTER TABLE user_stream ADD COLUMN epoch TEXT;
ALTER TABLE user_stream ADD COLUMN kept_floor INTEGER NOT NULL DEFAULT 0;
ALTER TABLE user_stream ADD COLUMN kept_moved_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE user_stream ADD COLUMN swept_at TEXT;
ALTER TABLE user_stream ADD COLUMN clean_at INTEGER;

-- The idempotency keys of entries that were pruned from the log. digest: SHA-256 of the payload's canonical form.
CREATE TABLE sync_pruned_key (
    user_id          TEXT    NOT NULL,
    source_id        TEXT    NOT NULL,
    source_change_id INTEGER NOT NULL,
    op               TEXT    NOT NULL,
    schema_name      TEXT    NOT NULL,
    table_name       TEXT    NOT NULL,
    pk_uuid          TEXT    NOT NULL,
    digest           BLOB,
    server_version   INTEGER NOT NULL,
    pruned_at        TEXT    NOT NULL,
    PRIMARY KEY (user_id, source_id, source_change_id)
) STRICT, WITHOUT ROWID;

-- The devices. The contacts are written some seconds late. forgotten_id: the highest number of a change whose
-- key is not remembered any more; a change with such a number or a lower one may have been applied before.
CREATE TABLE sync_source (
    user_id       TEXT    NOT NULL,
    source_id     TEXT    NOT NULL,
    first_contact TEXT,
    last_contact  TEXT,
    last_cursor   INTEGER,
    forgotten_id  INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, source_id)
) STRICT, WITHOUT ROWID;
