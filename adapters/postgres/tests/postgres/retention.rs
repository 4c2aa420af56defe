//! Rows that are forgotten while something else is written of them.

use outrigger_application::StoreError;
use outrigger_application::ports::retention::RetentionStore;
use outrigger_domain::retention::Cutoffs;
use outrigger_domain::{Op, ServerSeq};
use sqlx::Connection;

use crate::support::{Fixture, apply, change, insert, user};

const FAILURE: &str = "
WITH counted AS (UPDATE sync.user_stream SET last_failure_id = last_failure_id + 1 RETURNING user_id, last_failure_id)
INSERT INTO sync.materialize_failures (
    user_id, id, schema_name, table_name, pk_uuid, attempted_version, op, error, first_seen
)
SELECT m.user_id, c.last_failure_id, m.schema_name, m.table_name, m.pk_uuid, m.server_version, 'DELETE', 'it is odd', now()
FROM sync.sync_row_meta m JOIN counted c USING (user_id)";

/// A new row has no failures, whatever its key was before: the commit does not look.
#[tokio::test]
async fn a_failure_that_is_recorded_while_its_row_is_forgotten_goes_with_it() {
    let fixture = Fixture::new().await;
    let alice = user("alice");
    apply(&fixture.store, &alice, "phone", [insert(1, 1)]).await.unwrap();
    apply(&fixture.store, &alice, "phone", [change(2, 1, 1, Op::Delete)]).await.unwrap();
    let later = "2100-01-01T00:00:00Z".parse().unwrap();
    let cutoffs = Cutoffs::new(later, later);
    // What is superseded goes first, so that the step has nothing but the deletion to forget.
    fixture.execute("DELETE FROM sync.server_change_log WHERE op = 'INSERT'").await;

    let mut sql = fixture.sql().await;
    let mut other = sql.begin().await.unwrap();
    sqlx::query(FAILURE).execute(&mut *other).await.unwrap();
    let (store, of) = (fixture.store.clone(), alice.clone());
    let prune = tokio::spawn(async move { store.prune(&of, cutoffs, ServerSeq(0), later).await });
    fixture.wait_until_blocked().await;
    other.commit().await.unwrap();

    assert!(matches!(prune.await.unwrap(), Err(StoreError::Contention)));
    assert_eq!(fixture.store.prune(&alice, cutoffs, ServerSeq(0), later).await.unwrap().tombstones, 1);
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sync.materialize_failures").fetch_one(&mut sql).await.unwrap();
    assert_eq!(left, 0);
}
