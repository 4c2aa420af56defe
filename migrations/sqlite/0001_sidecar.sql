-- The sidecar: what the server keeps of every user beside the tables of the app.
--
-- UUIDs and times are text, so that the tables can be read in the sqlite3 shell and joined with those of the app.
-- UUIDs are lower case with hyphens; times are RFC 3339 in UTC with six digits of a second, and so sort as text.
-- Tables that hold payloads keep their rowid: rows of some hundred bytes and more inside a key's own tree make
-- it deep and slow to write. Payloads are the last column: whatever stands behind one is only reached by
-- reading through it.

-- Where each user's stream ends. A commit moves this on from where its plan saw it, or writes nothing.
CREATE TABLE user_stream (
    user_id        TEXT    NOT NULL PRIMARY KEY,
    last_server_id INTEGER NOT NULL CHECK (last_server_id > 0)
) STRICT, WITHOUT ROWID;

-- The version of every row that was ever applied, tombstones included.
CREATE TABLE sync_row_meta (
    user_id        TEXT    NOT NULL,
    schema_name    TEXT    NOT NULL,
    table_name     TEXT    NOT NULL,
    pk_uuid        TEXT    NOT NULL,
    server_version INTEGER NOT NULL CHECK (server_version > 0),
    deleted        INTEGER NOT NULL CHECK (deleted IN (0, 1)),
    updated_at     TEXT    NOT NULL,
    PRIMARY KEY (user_id, schema_name, table_name, pk_uuid)
) STRICT, WITHOUT ROWID;

-- The payload of every row that is not deleted.
CREATE TABLE sync_state (
    user_id     TEXT NOT NULL,
    schema_name TEXT NOT NULL,
    table_name  TEXT NOT NULL,
    pk_uuid     TEXT NOT NULL,
    payload     TEXT NOT NULL,
    PRIMARY KEY (user_id, schema_name, table_name, pk_uuid)
) STRICT;

-- Every applied change: the stream that devices download, and the memory of the idempotency keys.
CREATE TABLE server_change_log (
    user_id          TEXT    NOT NULL,
    server_id        INTEGER NOT NULL CHECK (server_id > 0),
    schema_name      TEXT    NOT NULL,
    table_name       TEXT    NOT NULL,
    op               TEXT    NOT NULL CHECK (op IN ('INSERT', 'UPDATE', 'DELETE')),
    pk_uuid          TEXT    NOT NULL,
    source_id        TEXT    NOT NULL,
    source_change_id INTEGER NOT NULL CHECK (source_change_id > 0),
    server_version   INTEGER NOT NULL CHECK (server_version > 0),
    ts               TEXT    NOT NULL,
    payload          TEXT    CHECK ((payload IS NULL) = (op = 'DELETE')),
    PRIMARY KEY (user_id, server_id),
    UNIQUE (user_id, source_id, source_change_id)
) STRICT;
