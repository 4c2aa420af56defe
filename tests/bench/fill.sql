-- Fills a database that `outrigger migrate` has made with :rows rows, :large of them one user's and the rest those of 90
-- others, as if each had been uploaded once. A benchmark can then be run on it:
--
--   psql URL -v rows=10000000 -v large=1000000 -f tests/bench/fill.sql
--
-- Keys are put on again at the end, which takes a fraction of the time.
\set ON_ERROR_STOP on
SET synchronous_commit = off;
SET maintenance_work_mem = '1GB';
ALTER TABLE sync.server_change_log
    DROP CONSTRAINT server_change_log_pkey, DROP CONSTRAINT server_change_log_source_change_key;
ALTER TABLE sync.sync_row_meta DROP CONSTRAINT sync_row_meta_pkey;
ALTER TABLE sync.sync_state DROP CONSTRAINT sync_state_pkey;
CREATE VIEW sync.fill AS
SELECT CASE WHEN i < :large THEN 'large' ELSE 'user-' || i % 90 END AS user_id,
       CASE WHEN i < :large THEN i + 1 ELSE (i - :large) / 90 + 1 END AS server_id,
       md5(i::text)::uuid AS pk,
       ('{"id":"' || md5(i::text)::uuid || '","name":"' || repeat('x', 100) || '","email":"a@example.com"}')::json AS payload
FROM generate_series(0, :rows - 1::int8) i;
INSERT INTO sync.server_change_log (
    user_id, server_id, schema_name, table_name, op, pk_uuid, payload, source_id, source_change_id, server_version, ts
)
SELECT user_id, server_id, 'public', 'users', 'INSERT', pk, payload, 'phone', server_id, 1, now() FROM sync.fill;
INSERT INTO sync.sync_row_meta (user_id, schema_name, table_name, pk_uuid, server_version, deleted, updated_at)
SELECT user_id, 'public', 'users', pk, 1, false, now() FROM sync.fill;
INSERT INTO sync.sync_state (user_id, schema_name, table_name, pk_uuid, payload)
SELECT user_id, 'public', 'users', pk, payload FROM sync.fill;
INSERT INTO sync.user_stream (user_id, last_server_id) SELECT user_id, max(server_id) FROM sync.fill GROUP BY user_id;
DROP VIEW sync.fill;
ALTER TABLE sync.server_change_log
    ADD CONSTRAINT server_change_log_pkey PRIMARY KEY (user_id, server_id),
    ADD CONSTRAINT server_change_log_source_change_key UNIQUE (user_id, source_id, source_change_id);
ALTER TABLE sync.sync_row_meta
    ADD CONSTRAINT sync_row_meta_pkey PRIMARY KEY (user_id, schema_name, table_name, pk_uuid);
ALTER TABLE sync.sync_state
    ADD CONSTRAINT sync_state_pkey PRIMARY KEY (user_id, schema_name, table_name, pk_uuid);
VACUUM ANALYZE;
CHECKPOINT;
