-- The rows that are updated: known by their numbers.
WITH k AS (
    SELECT s.user_id, md5(s.user_id || '-' || c || '-' || n)::uuid AS pk,
           left(repeat(md5(n::text), :name_bytes / 32 + 1), :name_bytes) AS name
    FROM generate_series(0, :clients - 1) c
    JOIN bench_floor.user_stream s ON s.user_id = :run || '-user-' || c % :users
    CROSS JOIN generate_series(0, :rows - 1) n
), meta AS (
    INSERT INTO bench_floor.sync_row_meta SELECT user_id, 'public', 'users', pk, 1, false, now() FROM k
), state AS (
    INSERT INTO bench_floor.sync_state
    SELECT user_id, 'public', 'users', pk, ('{"id":"' || pk || '","name":"' || name || '"}')::json FROM k
)
INSERT INTO bench_floor.users (id, name) SELECT pk, name FROM k;
