-- Changes that were answered and left no entry in the log are remembered like those that were applied and pruned: a copy
-- of one that comes late is told the same, whatever has become of its row.

-- unlogged: how the change was settled without an entry, null where there was one: 'conflict'; or 'never_there' or
-- 'deleted_before', which were to delete such a row. server_version is then the one that the change named, and the digest
-- is of no payload: a node of the release before takes the key for that of an entry, and must not find that it was this
-- change's.
ALTER TABLE sync_pruned_key ADD COLUMN unlogged TEXT;

-- A user with nothing else has a stream that ends at 0, which the table's CHECK refused. SQLite drops none without
-- making the table anew: of a row for each user, and no payloads. It is copied and not renamed, which would fail where a
-- view of the app's is broken.
CREATE TABLE user_stream_before AS SELECT * FROM user_stream;
DROP TABLE user_stream;
CREATE TABLE user_stream (
    user_id         TEXT    NOT NULL PRIMARY KEY,
    last_server_id  INTEGER NOT NULL CHECK (last_server_id >= 0),
    last_failure_id INTEGER NOT NULL DEFAULT 0,
    epoch           TEXT,
    kept_floor      INTEGER NOT NULL DEFAULT 0,
    kept_moved_at   INTEGER NOT NULL DEFAULT 0,
    swept_at        TEXT,
    clean_at        INTEGER
) STRICT, WITHOUT ROWID;
INSERT INTO user_stream
    SELECT user_id, last_server_id, last_failure_id, epoch, kept_floor, kept_moved_at, swept_at, clean_at
    FROM user_stream_before;
DROP TABLE user_stream_before;
