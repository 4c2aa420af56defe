\set user :client_id % :users
\set first random(0, :rows - 1)
WITH turn AS (
    UPDATE bench_floor.user_stream SET last_server_id = last_server_id + :batch
    WHERE user_id = :run || '-user-' || :user
    RETURNING user_id, last_server_id - :batch AS head
), entry AS MATERIALIZED (
    SELECT t.user_id, t.head + n AS server_id, k.pk, f.name, f.email,
           ('{"id":"' || k.pk || '","name":"' || f.name || '","email":"' || f.email || '"}')::json AS payload
    FROM turn t CROSS JOIN generate_series(1, :batch) n
    CROSS JOIN LATERAL (
        SELECT md5(t.user_id || '-' || :client_id || '-' || (:first + n) % :rows)::uuid AS pk
    ) k
    CROSS JOIN LATERAL (
        SELECT left(repeat(md5((n + :first)::text), :name_bytes / 32 + 1), :name_bytes) AS name,
               lpad(n::text, 8, '0') || '@example.com' AS email
    ) f
), logged AS (
    INSERT INTO bench_floor.server_change_log
    SELECT user_id, server_id, 'public', 'users', 'UPDATE', pk, payload, 'phone', server_id, 2, now() FROM entry
), meta AS (
    UPDATE bench_floor.sync_row_meta m SET server_version = m.server_version + 1, updated_at = now()
    FROM entry e
    WHERE m.user_id = e.user_id AND m.schema_name = 'public' AND m.table_name = 'users' AND m.pk_uuid = e.pk
), state AS (
    UPDATE bench_floor.sync_state s SET payload = e.payload
    FROM entry e
    WHERE s.user_id = e.user_id AND s.schema_name = 'public' AND s.table_name = 'users' AND s.pk_uuid = e.pk
)
UPDATE bench_floor.users b SET name = e.name, email = e.email FROM entry e WHERE b.id = e.pk;
