-- The sidecar: where each user's stream ends, the stream itself, and the rows that it adds up to.
--
-- Every key leads with user_id and nothing is shared between users: no sequence, no foreign key, no unique
-- key without user_id. So the schema can be distributed by user as it stands. Names and ids are
-- COLLATE "C": they are compared for equality only, and byte order makes an index comparison a memcmp.

-- One row per user. A commit is a compare-and-swap of last_server_id, which makes server_id free of holes and
-- ordered by commit. The free half of each page lets that update stay on its page (HOT), off the index.
CREATE TABLE sync.user_stream (
    user_id text COLLATE "C" NOT NULL,
    last_server_id bigint NOT NULL,
    CONSTRAINT user_stream_pkey PRIMARY KEY (user_id)
) WITH (fillfactor = 50);

CREATE TABLE sync.sync_row_meta (
    user_id text COLLATE "C" NOT NULL,
    schema_name text COLLATE "C" NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    pk_uuid uuid NOT NULL,
    server_version bigint NOT NULL,
    deleted boolean NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT sync_row_meta_pkey PRIMARY KEY (user_id, schema_name, table_name, pk_uuid)
) WITH (
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05
);

-- The payloads of the rows that exist; a tombstone has a row in sync_row_meta alone. json, not jsonb: a payload
-- comes back as it came.
CREATE TABLE sync.sync_state (
    user_id text COLLATE "C" NOT NULL,
    schema_name text COLLATE "C" NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    pk_uuid uuid NOT NULL,
    payload json NOT NULL,
    CONSTRAINT sync_state_pkey PRIMARY KEY (user_id, schema_name, table_name, pk_uuid)
) WITH (
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05
);

-- Append only. The primary key is the order in which a stream is read, the unique key the idempotency key.
CREATE TABLE sync.server_change_log (
    user_id text COLLATE "C" NOT NULL,
    server_id bigint NOT NULL,
    schema_name text COLLATE "C" NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    op text COLLATE "C" NOT NULL,
    pk_uuid uuid NOT NULL,
    payload json,
    source_id text COLLATE "C" NOT NULL,
    source_change_id bigint NOT NULL,
    server_version bigint NOT NULL,
    ts timestamptz NOT NULL,
    CONSTRAINT server_change_log_pkey PRIMARY KEY (user_id, server_id),
    CONSTRAINT server_change_log_source_change_key UNIQUE (user_id, source_id, source_change_id),
    CONSTRAINT server_change_log_op_check CHECK (op IN ('INSERT', 'UPDATE', 'DELETE')),
    CONSTRAINT server_change_log_payload_check CHECK ((payload IS NULL) = (op = 'DELETE'))
) WITH (
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05
);

-- lz4 compresses long payloads several times faster than the default, but a server may be built without it.
DO $$
BEGIN
    ALTER TABLE sync.sync_state ALTER COLUMN payload SET COMPRESSION lz4;
    ALTER TABLE sync.server_change_log ALTER COLUMN payload SET COMPRESSION lz4;
EXCEPTION
    WHEN feature_not_supported THEN NULL;
END
$$;
