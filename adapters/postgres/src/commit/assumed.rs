//! The part of a commit that checks what its plan was made on, where nobody has looked before.
//!
//! It stands in the condition under which the stream moves, and is evaluated on the statement's snapshot. That is as good
//! as a look under the lock: the UPDATE finds the stream's row only if it ends at $2 in that very snapshot, and, once it has
//! the row's lock, only if it ends there still. So between the two nobody has written for this user.

use outrigger_domain::Plan;
use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;

use super::sidecar::Sidecar;
use crate::ranges::ranges;

/// The epoch, $15.
const EPOCH: &str = "
      AND coalesce(epoch, (SELECT e.epoch FROM sync.sync_epoch e WHERE e.is_present)) = $15::uuid";
/// The key of the only entry.
const KEY: &str = "
      AND NOT EXISTS (
          SELECT FROM sync.server_change_log l
          WHERE l.user_id = $1 AND l.source_id = $10::text AND l.source_change_id = $11::int8
      )
      AND NOT EXISTS (
          SELECT FROM sync.sync_pruned_key k
          WHERE k.user_id = $1 AND k.source_id = $10::text AND k.source_change_id = $11::int8
      )
      AND NOT EXISTS (
          SELECT FROM sync.sync_source f
          WHERE f.user_id = $1 AND f.source_id = $10::text AND f.forgotten_id >= $11::int8
      )";
const ROW_IS_NEW: &str = "
      AND NOT EXISTS (
          SELECT FROM sync.sync_row_meta r
          WHERE r.user_id = $1 AND r.schema_name = $5::text AND r.table_name = $6::text AND r.pk_uuid = $8::uuid
      )";
const ROW_IS_KNOWN: &str = "
      AND EXISTS (
          SELECT FROM sync.sync_row_meta r
          WHERE r.user_id = $1 AND r.schema_name = $5::text AND r.table_name = $6::text AND r.pk_uuid = $8::uuid
            AND r.server_version = $12::int8 - 1 AND NOT r.deleted
      )";
/// Ranges of keys, as they are looked for when they are loaded, and the rows. Each look is one that the planner
/// cannot turn into a join.
const ALL: &str = "
      AND NOT EXISTS (
          SELECT FROM unnest($16::text[], $17::int8[], $18::int8[]) AS k (source_id, first, last)
          WHERE EXISTS (
                    SELECT FROM sync.server_change_log l
                    WHERE l.user_id = $1 AND l.source_id = k.source_id AND l.source_change_id BETWEEN k.first AND k.last
                )
             OR EXISTS (
                    SELECT FROM sync.sync_pruned_key p
                    WHERE p.user_id = $1 AND p.source_id = k.source_id AND p.source_change_id BETWEEN k.first AND k.last
                )
             OR EXISTS (
                    SELECT FROM sync.sync_source f
                    WHERE f.user_id = $1 AND f.source_id = k.source_id AND f.forgotten_id >= k.first
                )
      )
      AND NOT EXISTS (
          SELECT FROM unnest($5::text[], $6::text[], $8::uuid[], $12::int8[]) AS w (schema_name, table_name, pk, version)
          WHERE w.version - 1 <> coalesce((
              SELECT CASE WHEN r.deleted THEN -1 ELSE r.server_version END
              FROM sync.sync_row_meta r
              WHERE r.user_id = $1 AND r.schema_name = w.schema_name AND r.table_name = w.table_name AND r.pk_uuid = w.pk
              LIMIT 1
          ), 0)
      )";

/// The conditions for such a plan.
pub(super) fn conditions(sidecar: Sidecar) -> String {
    if sidecar.is_single {
        return [EPOCH, KEY, if sidecar.has_known { ROW_IS_KNOWN } else { ROW_IS_NEW }].concat();
    }
    [EPOCH, ALL].concat()
}

/// How many parameters they have, the first of which is $15.
pub(super) fn parameters(sidecar: Sidecar) -> usize {
    if sidecar.is_single { 1 } else { 4 }
}

/// Binds what they ask for, if the plan has any, in the order of the parameters.
pub(super) fn bind<'q>(
    statement: Query<'q, Postgres, PgArguments>,
    plan: &'q Plan,
) -> Query<'q, Postgres, PgArguments> {
    if !plan.is_assumed {
        return statement;
    }
    debug_assert!(plan.unlogged.is_empty(), "an assumed plan remembers what it has not applied");
    let statement = statement.bind(plan.head.epoch.0);
    if plan.log.len() == 1 {
        return statement;
    }
    let keys = ranges(plan.log.iter().map(|entry| (&entry.source, entry.change.source_change_id)));
    statement
        .bind(keys.iter().map(|range| range.source.as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|range| range.first).collect::<Vec<_>>())
        .bind(keys.iter().map(|range| range.last).collect::<Vec<_>>())
}
