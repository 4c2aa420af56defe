//! The part of a commit that remembers conflicts. Most commits have none, and go without it.

use outrigger_domain::{Conflicted, Plan, SourceChangeId, SourceId};
use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;

/// Its parameters, the first of which is $15.
pub(super) const PARAMETERS: usize = 7;

/// The key of an entry that was pruned stays one. For the digest see migration 4.
pub(super) const REMEMBERED: &str = ", remembered AS (
    INSERT INTO sync.sync_pruned_key AS k (
        user_id, source_id, source_change_id, op, schema_name, table_name, pk_uuid, server_version, digest, pruned_at,
        unlogged
    )
    SELECT $1, c.source_id, c.source_change_id, c.op, c.schema_name, c.table_name, c.pk_uuid, c.base,
           decode(repeat('00', 32), 'hex'), $4, 'conflict'
    FROM turn CROSS JOIN unnest(
        $15::text[], $16::int8[], $17::text[], $18::text[], $19::text[], $20::uuid[], $21::int8[]
    ) AS c (source_id, source_change_id, op, schema_name, table_name, pk_uuid, base)
    ON CONFLICT (user_id, source_id, source_change_id) DO UPDATE SET
        op = excluded.op, schema_name = excluded.schema_name, table_name = excluded.table_name,
        pk_uuid = excluded.pk_uuid, server_version = excluded.server_version, pruned_at = excluded.pruned_at
    WHERE k.unlogged IS NOT NULL
)";

/// Binds the conflicts of the plan, if it has any, in the order of the parameters.
pub(super) fn bind<'q>(
    statement: Query<'q, Postgres, PgArguments>,
    plan: &'q Plan,
) -> Query<'q, Postgres, PgArguments> {
    if plan.conflicts.is_empty() {
        return statement;
    }
    fn all<'q, T>(plan: &'q Plan, of: impl Fn(&'q (SourceId, SourceChangeId), &'q Conflicted) -> T) -> Vec<T> {
        plan.conflicts.iter().map(|(key, conflicted)| of(key, conflicted)).collect()
    }
    statement
        .bind(all(plan, |key, _| key.0.as_str()))
        .bind(all(plan, |key, _| key.1.0))
        .bind(all(plan, |_, conflicted| conflicted.op.as_str()))
        .bind(all(plan, |_, conflicted| conflicted.row.table.schema()))
        .bind(all(plan, |_, conflicted| conflicted.row.table.table()))
        .bind(all(plan, |_, conflicted| conflicted.row.pk))
        .bind(all(plan, |_, conflicted| conflicted.base.0))
}
