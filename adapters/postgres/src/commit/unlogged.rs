//! The part of a commit that remembers changes without an entry. Most commits have none, and go without it.

use outrigger_domain::{Plan, SourceChangeId, SourceId, Unlogged};
use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;

/// Its parameters, the first of which is $15.
pub(super) const PARAMETERS: usize = 8;

/// The key of an entry that was pruned stays one. For the digest see migration 4.
pub(super) const REMEMBERED: &str = ", remembered AS (
    INSERT INTO sync.sync_pruned_key AS k (
        user_id, source_id, source_change_id, op, schema_name, table_name, pk_uuid, server_version, digest, pruned_at,
        unlogged
    )
    SELECT $1, c.source_id, c.source_change_id, c.op, c.schema_name, c.table_name, c.pk_uuid, c.base,
           decode(repeat('00', 32), 'hex'), $4, c.settled
    FROM turn CROSS JOIN unnest(
        $15::text[], $16::int8[], $17::text[], $18::text[], $19::text[], $20::uuid[], $21::int8[],
        $22::text[]
    ) AS c (source_id, source_change_id, op, schema_name, table_name, pk_uuid, base, settled)
    ON CONFLICT (user_id, source_id, source_change_id) DO UPDATE SET
        op = excluded.op, schema_name = excluded.schema_name, table_name = excluded.table_name,
        pk_uuid = excluded.pk_uuid, server_version = excluded.server_version, pruned_at = excluded.pruned_at,
        unlogged = excluded.unlogged
    WHERE k.unlogged IS NOT NULL
)";

/// Binds what the plan has of them, if anything, in the order of the parameters.
pub(super) fn bind<'q>(
    statement: Query<'q, Postgres, PgArguments>,
    plan: &'q Plan,
) -> Query<'q, Postgres, PgArguments> {
    if plan.unlogged.is_empty() {
        return statement;
    }
    fn all<'q, T>(plan: &'q Plan, of: impl Fn(&'q (SourceId, SourceChangeId), &'q Unlogged) -> T) -> Vec<T> {
        plan.unlogged.iter().map(|(key, unlogged)| of(key, unlogged)).collect()
    }
    statement
        .bind(all(plan, |key, _| key.0.as_str()))
        .bind(all(plan, |key, _| key.1.0))
        .bind(all(plan, |_, unlogged| unlogged.op.as_str()))
        .bind(all(plan, |_, unlogged| unlogged.row.table.schema()))
        .bind(all(plan, |_, unlogged| unlogged.row.table.table()))
        .bind(all(plan, |_, unlogged| unlogged.row.pk))
        .bind(all(plan, |_, unlogged| unlogged.base.0))
        .bind(all(plan, |_, unlogged| unlogged.settled.as_str()))
}
