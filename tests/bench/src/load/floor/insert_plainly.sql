\set user :client_id % :users
BEGIN;
UPDATE bench_floor.user_stream SET last_server_id = last_server_id + :batch
WHERE user_id = :run || '-user-' || :user
RETURNING last_server_id - :batch AS head \gset
INSERT INTO bench_floor.server_change_log
SELECT :run || '-user-' || :user, :head::int8 + n, 'public', 'users', 'INSERT', k.pk,
       ('{"id":"' || k.pk || '","name":"' || left(repeat(md5(n::text), :name_bytes / 32 + 1), :name_bytes)
           || '","email":"' || lpad(n::text, 8, '0') || '@example.com"}')::json,
       'phone', :head::int8 + n, 1, now()
FROM generate_series(1, :batch) n
CROSS JOIN LATERAL (SELECT md5(:run || '-' || :user || '-' || :head::int8 + n)::uuid AS pk) k;
INSERT INTO bench_floor.sync_row_meta
SELECT :run || '-user-' || :user, 'public', 'users', md5(:run || '-' || :user || '-' || :head::int8 + n)::uuid, 1, false, now()
FROM generate_series(1, :batch) n;
INSERT INTO bench_floor.sync_state
SELECT :run || '-user-' || :user, 'public', 'users', k.pk,
       ('{"id":"' || k.pk || '","name":"' || left(repeat(md5(n::text), :name_bytes / 32 + 1), :name_bytes)
           || '","email":"' || lpad(n::text, 8, '0') || '@example.com"}')::json
FROM generate_series(1, :batch) n
CROSS JOIN LATERAL (SELECT md5(:run || '-' || :user || '-' || :head::int8 + n)::uuid AS pk) k;
INSERT INTO bench_floor.users (id, name, email)
SELECT md5(:run || '-' || :user || '-' || :head::int8 + n)::uuid,
       left(repeat(md5(n::text), :name_bytes / 32 + 1), :name_bytes), lpad(n::text, 8, '0') || '@example.com'
FROM generate_series(1, :batch) n;
COMMIT;
