-- The projection of rows onto the app's own tables.

-- Whether the projection for this user put the row's business row there. If not, that row is somebody else's and is left
-- alone: two users may use the same key.
ALTER TABLE sync.sync_row_meta ADD COLUMN projected boolean NOT NULL DEFAULT false;

-- Numbers the failures of each user. Counted here and not by the highest id there is: an id is not used again after
-- its failure is gone.
ALTER TABLE sync.user_stream ADD COLUMN last_failure_id bigint NOT NULL DEFAULT 0;

-- Rows that could not be projected: one failure per row and version.
CREATE TABLE sync.materialize_failures (
    user_id text COLLATE "C" NOT NULL,
    id bigint NOT NULL,
    schema_name text COLLATE "C" NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    pk_uuid uuid NOT NULL,
    attempted_version bigint NOT NULL,
    op text COLLATE "C" NOT NULL,
    payload json,
    error text NOT NULL,
    first_seen timestamptz NOT NULL,
    retry_count bigint NOT NULL DEFAULT 0,
    CONSTRAINT materialize_failures_pkey PRIMARY KEY (user_id, id),
    CONSTRAINT materialize_failures_row_key
        UNIQUE (user_id, schema_name, table_name, pk_uuid, attempted_version),
    CONSTRAINT materialize_failures_op_check CHECK (op IN ('INSERT', 'UPDATE', 'DELETE'))
);
