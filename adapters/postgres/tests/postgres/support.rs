//! A database with a store on it, and uploads in one line.

use std::sync::Arc;
use std::time::Duration;

use outrigger_application::{StoreError, SyncStore};
use outrigger_domain::limits::UploadLimits;
use outrigger_domain::plan::Verdict;
use outrigger_domain::{
    Change, Op, Payload, Plan, Planner, RowKey, RowVersion, SourceChangeId, SourceId, Submission, TableName, Upload,
    UserId, Wanted,
};
use outrigger_postgres::{PostgresOptions, PostgresStore};
use outrigger_testkit::{TestDatabase, postgres_database};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

pub(crate) struct Fixture {
    pub(crate) store: PostgresStore,
    pub(crate) database: TestDatabase,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with(PostgresOptions::default()).await
    }

    pub(crate) async fn with(options: PostgresOptions) -> Self {
        let database = postgres_database().await;
        let store = PostgresStore::connect(database.url(), options).await.unwrap();
        Self { store, database }
    }

    pub(crate) async fn sql(&self) -> PgConnection {
        PgConnection::connect(self.database.url()).await.unwrap()
    }

    pub(crate) async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&mut self.sql().await).await.unwrap();
    }

    /// Returns once a statement of the store waits for a lock.
    pub(crate) async fn wait_until_blocked(&self) {
        wait_until_blocked(&mut self.sql().await).await;
    }

    /// Commits a plan of alice's that has to wait for `other`, a statement of somebody else, and has lost when that is over:
    /// contention, and no trace of it.
    pub(crate) async fn loses_to(&self, waiting: Plan, other: &'static str) {
        let mut sql = self.sql().await;
        let mut tx = sql.begin().await.unwrap();
        sqlx::query(other).execute(&mut *tx).await.unwrap();
        let store = self.store.clone();
        let commit = tokio::spawn(async move { store.commit(&user("alice"), waiting).await });
        self.wait_until_blocked().await;
        tx.commit().await.unwrap();
        let before = self.contents().await;
        let answer = commit.await.unwrap();
        assert!(matches!(answer, Err(StoreError::Contention)), "after {other}: {answer:?}");
        assert_eq!(self.contents().await, before, "after {other}");
    }

    /// All that the sidecar holds, as text.
    pub(crate) async fn contents(&self) -> Vec<String> {
        let sql = "SELECT 'stream ' || to_json(t) FROM sync.user_stream t
                   UNION ALL SELECT 'meta ' || to_json(t) FROM sync.sync_row_meta t
                   UNION ALL SELECT 'state ' || to_json(t) FROM sync.sync_state t
                   UNION ALL SELECT 'log ' || to_json(t) FROM sync.server_change_log t
                   ORDER BY 1";
        sqlx::query_scalar(sql).fetch_all(&mut self.sql().await).await.unwrap()
    }
}

/// Returns once a statement of a store on this database waits for a lock.
pub(crate) async fn wait_until_blocked(sql: &mut PgConnection) {
    wait_until_so_many_are_blocked(sql, 1).await;
}

/// Returns once so many statements of a store on this database wait for locks.
pub(crate) async fn wait_until_so_many_are_blocked(sql: &mut PgConnection, count: i64) {
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                   AND application_name = 'outrigger' AND wait_event_type = 'Lock'";
    let waiting = async {
        while sqlx::query_scalar::<_, i64>(blocked).fetch_one(&mut *sql).await.unwrap() < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .unwrap_or_else(|_| panic!("{count} statements wait for locks"));
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

pub(crate) fn payload(json: &str) -> Payload {
    Payload::from_text(json.to_owned()).unwrap()
}

pub(crate) fn row(n: u128) -> RowKey {
    RowKey { table: TableName::parse(None, "notes").unwrap(), pk: Uuid::from_u128(n) }
}

/// One change: its number, the number of its row, the version it was made on, and what it does.
pub(crate) fn change(number: i64, n: u128, base: i64, op: Op) -> Change {
    Change { source_change_id: SourceChangeId(number), row: row(n), base: RowVersion(base), op, parents: Vec::new() }
}

pub(crate) fn insert(number: i64, n: u128) -> Change {
    change(number, n, 0, Op::Insert(payload(r#"{"text":"new"}"#)))
}

pub(crate) fn upload_of(source: &str, changes: impl IntoIterator<Item = Change>) -> Upload {
    let submit =
        |change: Change| Submission { source_change_id: change.source_change_id.0, change: Ok(Arc::new(change)) };
    Upload {
        source: SourceId::parse(source).unwrap(),
        submissions: changes.into_iter().map(submit).collect(),
        atomic: false,
        epoch: None,
    }
}

/// Loads and decides, but does not write.
pub(crate) async fn plan(store: &PostgresStore, user: &UserId, upload: &Upload) -> (Plan, Verdict) {
    let snapshot = store.load(user, &Wanted::of([upload])).await.unwrap();
    let mut planner = Planner::new(snapshot, UploadLimits::default());
    let verdict = planner.decide(upload).unwrap();
    (planner.finish("2025-08-08T07:01:00.123456Z".parse().unwrap()), verdict)
}

/// Uploads and expects every change to be applied.
pub(crate) async fn apply(
    store: &PostgresStore,
    user: &UserId,
    source: &str,
    changes: impl IntoIterator<Item = Change>,
) -> Result<(), StoreError> {
    let (plan, verdict) = plan(store, user, &upload_of(source, changes)).await;
    assert!(verdict.decisions.iter().all(|decision| decision.is_applied()), "{verdict:?}");
    store.commit(user, plan).await
}
