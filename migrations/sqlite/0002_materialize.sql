-- The projection of rows onto the app's own tables.

-- Whether the projection for this user put the row's business row there. If not, that row is somebody else's and is left
-- alone: two users may use the same key.
ALTER TABLE sync_row_meta ADD COLUMN projected INTEGER NOT NULL DEFAULT 0 CHECK (projected IN (0, 1));

-- Numbers the failures of each user. Counted here and not by the highest id there is: an id is not used again after
-- its failure is gone.
ALTER TABLE user_stream ADD COLUMN last_failure_id INTEGER NOT NULL DEFAULT 0;

-- Rows that could not be projected: one failure per row and version.
CREATE TABLE materialize_failures (
    user_id           TEXT    NOT NULL,
    id                INTEGER NOT NULL,
    schema_name       TEXT    NOT NULL,
    table_name        TEXT    NOT NULL,
    pk_uuid           TEXT    NOT NULL,
    attempted_version INTEGER NOT NULL CHECK (attempted_version > 0),
    op                TEXT    NOT NULL CHECK (op IN ('INSERT', 'UPDATE', 'DELETE')),
    error             TEXT    NOT NULL,
    first_seen        TEXT    NOT NULL,
    retry_count       INTEGER NOT NULL DEFAULT 0,
    payload           TEXT,
    PRIMARY KEY (user_id, id),
    UNIQUE (user_id, schema_name, table_name, pk_uuid, attempted_version)
) STRICT;
