-- Tables as the protocol describes them, with the keys that its promises need and nothing more.
CREATE TABLE user_stream (user_id TEXT NOT NULL PRIMARY KEY, last_server_id INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE sync_row_meta (
    user_id        TEXT    NOT NULL,
    schema_name    TEXT    NOT NULL,
    table_name     TEXT    NOT NULL,
    pk_uuid        TEXT    NOT NULL,
    server_version INTEGER NOT NULL,
    deleted        INTEGER NOT NULL,
    updated_at     TEXT    NOT NULL,
    PRIMARY KEY (user_id, schema_name, table_name, pk_uuid)
) STRICT, WITHOUT ROWID;
CREATE TABLE sync_state (
    user_id     TEXT NOT NULL,
    schema_name TEXT NOT NULL,
    table_name  TEXT NOT NULL,
    pk_uuid     TEXT NOT NULL,
    payload     TEXT NOT NULL,
    PRIMARY KEY (user_id, schema_name, table_name, pk_uuid)
) STRICT;
CREATE TABLE server_change_log (
    user_id          TEXT    NOT NULL,
    server_id        INTEGER NOT NULL,
    schema_name      TEXT    NOT NULL,
    table_name       TEXT    NOT NULL,
    op               TEXT    NOT NULL,
    pk_uuid          TEXT    NOT NULL,
    source_id        TEXT    NOT NULL,
    source_change_id INTEGER NOT NULL,
    server_version   INTEGER NOT NULL,
    ts               TEXT    NOT NULL,
    payload          TEXT,
    PRIMARY KEY (user_id, server_id),
    UNIQUE (user_id, source_id, source_change_id)
) STRICT;
CREATE TABLE users (
    id TEXT PRIMARY KEY,
    name TEXT,
    email TEXT,
    created_at TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    updated_at TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
