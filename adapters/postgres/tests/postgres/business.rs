//! A database with business tables, and users who upload to it as devices do.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use outrigger_application::ports::projection::{Failure, FailureFilter};
use outrigger_application::{
    Hub, ProjectionStore, SharedCatalog, SystemClock, TableConfig, UploadPorts, UploadService, tables,
};
use outrigger_domain::limits::UploadLimits;
use outrigger_domain::{Decision, RawChange, SourceId, Submission, TableName, Upload};
use outrigger_postgres::{PostgresOptions, PostgresStore};
use outrigger_testkit::{TestDatabase, postgres_database};
use serde_json::value::RawValue;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::support::user;

/// Op, table, key and payload of a change.
pub(crate) type Row<'a> = (&'a str, &'a str, u128, &'a str);

pub(crate) struct World {
    pub(crate) store: PostgresStore,
    pub(crate) database: TestDatabase,
    uploads: UploadService,
    ids: AtomicI64,
    versions: Mutex<HashMap<(String, String, u128), i64>>,
}

pub(crate) fn table(name: &str) -> TableConfig {
    TableConfig::new(TableName::parse_qualified(name).unwrap())
}

impl World {
    pub(crate) async fn new(sql: &'static str, tables: Vec<TableConfig>) -> Self {
        Self::with(sql, PostgresOptions { tables, ..PostgresOptions::default() }).await
    }

    pub(crate) async fn with(sql: &'static str, options: PostgresOptions) -> Self {
        let database = postgres_database().await;
        let mut shell = PgConnection::connect(database.url()).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut shell).await.unwrap();
        let url = database.url().to_owned();
        Self::on(database, &url, options).await
    }

    /// With a store that connects by another url than the shells do.
    pub(crate) async fn on(database: TestDatabase, url: &str, options: PostgresOptions) -> Self {
        let store = PostgresStore::connect(url, options.clone()).await.unwrap();
        let found = store.refresh_catalog().await.unwrap();
        let catalog = SharedCatalog::new(tables::catalog(&options.tables, &found));
        let limits = UploadLimits::default();
        let (clock, notifier) = (Arc::new(SystemClock), Arc::new(Hub::default()));
        let ports = UploadPorts { store: Arc::new(store.clone()), clock, notifier };
        let uploads = UploadService::new(ports, catalog, limits);
        Self { store, database, uploads, ids: AtomicI64::new(1), versions: Mutex::default() }
    }

    /// Uploads changes, each at the version that its row has, and gives what became of them.
    pub(crate) async fn try_up(&self, who: &str, changes: &[Row<'_>]) -> Vec<Decision> {
        let submissions = changes.iter().map(|change| self.submission(who, change)).collect();
        let upload = Upload { source: SourceId::parse("phone").unwrap(), submissions, atomic: false, epoch: None };
        self.uploads.upload(&user(who), upload).await.unwrap().decisions
    }

    /// Uploads changes that all apply.
    pub(crate) async fn up(&self, who: &str, changes: &[Row<'_>]) {
        let decisions = self.try_up(who, changes).await;
        assert!(decisions.iter().all(Decision::is_applied), "{decisions:?}");
    }

    /// Uploads one change; if it is refused, its row is at the version that it was at.
    pub(crate) async fn settle(&self, who: &str, change: &Row<'_>) {
        self.settle_all(who, &[*change]).await;
    }

    /// Uploads changes of which some may be refused, and remembers the versions as they are then.
    pub(crate) async fn settle_all(&self, who: &str, changes: &[Row<'_>]) {
        let decisions = self.try_up(who, changes).await;
        if decisions.iter().all(|decision| matches!(decision, Decision::Applied { version: Some(_) })) {
            return;
        }
        let known = "SELECT table_name, pk_uuid, server_version FROM sync.sync_row_meta WHERE user_id = $1";
        let known: Vec<(String, Uuid, i64)> =
            sqlx::query_as(known).bind(who).fetch_all(&mut self.sql().await).await.unwrap();
        let mut versions = self.versions.lock().unwrap();
        versions.retain(|(user, ..), _| user != who);
        versions.extend(known.into_iter().map(|(table, pk, version)| ((who.to_owned(), table, pk.as_u128()), version)));
    }

    fn submission(&self, who: &str, &(op, table, pk, payload): &Row<'_>) -> Submission {
        let mut versions = self.versions.lock().unwrap();
        let version = versions.entry((who.to_owned(), table.to_owned(), pk)).or_default();
        let payload = (op != "DELETE").then(|| RawValue::from_string(payload.to_owned()).unwrap());
        let (schema, name) = table.split_once('.').map_or((None, table), |(schema, name)| (Some(schema), name));
        let submission = self.uploads.admit(RawChange {
            source_change_id: self.ids.fetch_add(1, Ordering::Relaxed),
            schema,
            table: name,
            op,
            pk: &Uuid::from_u128(pk).to_string(),
            server_version: *version,
            payload: payload.as_deref(),
        });
        *version += 1;
        submission
    }

    pub(crate) async fn failures(&self, who: &str) -> Vec<Failure> {
        self.store.failures(&user(who), &FailureFilter::default(), 0, 10_000).await.unwrap()
    }

    pub(crate) async fn errors(&self, who: &str) -> Vec<String> {
        self.failures(who).await.into_iter().map(|failure| failure.error).collect()
    }

    pub(crate) async fn execute(&self, sql: impl Into<String>) {
        sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(&mut self.sql().await).await.unwrap();
    }

    pub(crate) async fn sql(&self) -> PgConnection {
        PgConnection::connect(self.database.url()).await.unwrap()
    }

    /// The first column of every row, as text.
    pub(crate) async fn rows(&self, query: impl Into<String>) -> Vec<String> {
        sqlx::query_scalar(AssertSqlSafe(query.into())).fetch_all(&mut self.sql().await).await.unwrap()
    }
}
