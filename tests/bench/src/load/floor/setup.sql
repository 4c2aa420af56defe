-- Tables as the protocol describes them, with the keys that its promises need and nothing more.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS bench_floor CASCADE;
CREATE SCHEMA bench_floor;
CREATE TABLE bench_floor.user_stream (
    user_id text COLLATE "C" PRIMARY KEY,
    last_server_id bigint NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE bench_floor.sync_row_meta (
    user_id text COLLATE "C" NOT NULL,
    schema_name text COLLATE "C" NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    pk_uuid uuid NOT NULL,
    server_version bigint NOT NULL,
    deleted boolean NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, schema_name, table_name, pk_uuid)
);
CREATE TABLE bench_floor.sync_state (
    user_id text COLLATE "C" NOT NULL,
    schema_name text COLLATE "C" NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    pk_uuid uuid NOT NULL,
    payload json NOT NULL,
    PRIMARY KEY (user_id, schema_name, table_name, pk_uuid)
);
CREATE TABLE bench_floor.server_change_log (
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
    PRIMARY KEY (user_id, server_id),
    UNIQUE (user_id, source_id, source_change_id)
);
CREATE TABLE bench_floor.users (
    id uuid PRIMARY KEY,
    name text,
    email text,
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
);
