\set user :client_id % :users
WITH turn AS (
    UPDATE bench_floor.user_stream SET last_server_id = last_server_id + :batch
    WHERE user_id = :run || '-user-' || :user
    RETURNING user_id, last_server_id - :batch AS head
), entry AS MATERIALIZED (
    SELECT t.user_id, t.head + n AS server_id, k.pk, f.name, f.email,
           ('{"id":"' || k.pk || '","name":"' || f.name || '","email":"' || f.email || '"}')::json AS payload
    FROM turn t CROSS JOIN generate_series(1, :batch) n
    CROSS JOIN LATERAL (SELECT gen_random_uuid() AS pk, n AS of) k
    CROSS JOIN LATERAL (
        SELECT left(repeat(md5(n::text), :name_bytes / 32 + 1), :name_bytes) AS name,
               lpad(n::text, 8, '0') || '@example.com' AS email
    ) f
), logged AS (
    INSERT INTO bench_floor.server_change_log
    SELECT user_id, server_id, 'public', 'users', 'INSERT', pk, payload, 'phone', server_id, 1, now() FROM entry
), meta AS (
    INSERT INTO bench_floor.sync_row_meta SELECT user_id, 'public', 'users', pk, 1, false, now() FROM entry
), state AS (
    INSERT INTO bench_floor.sync_state SELECT user_id, 'public', 'users', pk, payload FROM entry
)
INSERT INTO bench_floor.users (id, name, email) SELECT pk, name, email FROM entry;
