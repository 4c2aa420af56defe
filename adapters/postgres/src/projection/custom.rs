//! Hands rows to a materializer of the app's own.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use outrigger_application::{Batch, MaterializeError, Materializer, NetRow};
use outrigger_domain::TableName;
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::careful::{Careful, Refused};
use super::sql;
use super::values::NetChange;

/// Marks the rows that a custom materializer has projected.
const MARK_CUSTOM: &str = "
WITH written AS MATERIALIZED (
    SELECT $1::text AS user_id, $2::text AS schema_name, $3::text AS table_name, u.pk, u.deleted
    FROM unnest($4::uuid[], $5::bool[]) AS u (pk, deleted)
)";
const OURS: &str = "
SELECT pk_uuid FROM sync.sync_row_meta
WHERE user_id = $1 AND schema_name = $2 AND table_name = $3 AND pk_uuid = ANY ($4) AND projected";

impl Careful<'_> {
    /// Has the rows of one table written, and then deleted, and marks them.
    pub(super) async fn hand_over(
        &self,
        tx: &mut PgConnection,
        materializer: &dyn Materializer<PgConnection>,
        (table, changes): (&TableName, &[NetChange<'_>]),
    ) -> Result<(), Refused> {
        let pks: Vec<Uuid> = changes.iter().map(|row| row.key.pk).collect();
        let deleted: Vec<bool> = changes.iter().map(|row| row.payload.is_none()).collect();
        let ours =
            sqlx::query_scalar(OURS).bind(self.user.as_str()).bind(table.schema()).bind(table.table()).bind(&pks);
        let ours: Vec<Uuid> = ours.fetch_all(&mut *tx).await?;
        let net = |row: &NetChange<'_>| (row.key.pk, row.version, ours.contains(&row.key.pk));
        for deletes in [false, true] {
            let rows = changes.iter().filter(|row| row.payload.is_none() == deletes);
            let rows: Vec<NetRow<'_>> = rows
                .map(|row| {
                    let (pk, version, ours) = net(row);
                    NetRow { pk, version, payload: row.payload, ours }
                })
                .collect();
            if !rows.is_empty() {
                let batch = Batch { user: self.user, table, rows: &rows };
                // Foreign code may panic. What it leaves half done is rolled back.
                let applied = AssertUnwindSafe(materializer.apply(tx, batch)).catch_unwind().await;
                let panicked = |_| Err(MaterializeError("the materializer of the table panicked".into()));
                applied.unwrap_or_else(panicked).map_err(|MaterializeError(why)| Refused::because(why))?;
            }
        }
        let mark = format!("{MARK_CUSTOM}{} SELECT 1", sql::MARK);
        let mark = sqlx::query(AssertSqlSafe(mark)).bind(self.user.as_str()).bind(table.schema()).bind(table.table());
        mark.bind(pks).bind(deleted).execute(tx).await?;
        Ok(())
    }
}
