//! A database with business tables, and users who upload to it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outrigger_application::ports::projection::{Failure, FailureFilter};
use outrigger_application::{
    Hub, ProjectionStore, SharedCatalog, SystemClock, TableConfig, UploadPorts, UploadService, tables as configured,
};
use outrigger_domain::limits::UploadLimits;
use outrigger_domain::{Decision, RawChange, SourceId, TableName, Upload, UserId};
use outrigger_sqlite::{OpenError, SqliteOptions, SqliteStore};
use rusqlite::Connection;
use serde_json::value::RawValue;
use uuid::Uuid;

pub(crate) type Change<'a> = (&'a str, &'a str, u128, &'a str);

pub(crate) fn name(text: &str) -> TableName {
    TableName::parse_qualified(text).unwrap()
}

pub(crate) fn user(text: &str) -> UserId {
    UserId::parse(text).unwrap()
}

pub(crate) fn tables(names: &[&str]) -> Vec<TableConfig> {
    names.iter().map(|text| TableConfig::new(name(text))).collect()
}

pub(crate) struct World {
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) shell: Connection,
    folder: tempfile::TempDir,
    tables: Vec<TableConfig>,
    catalog: SharedCatalog,
    uploads: UploadService,
    ids: AtomicI64,
    versions: Mutex<HashMap<(String, String, u128), i64>>,
}

impl World {
    pub(crate) fn new(sql: &str, names: &[&str]) -> Self {
        Self::with(sql, SqliteOptions { tables: tables(names), ..SqliteOptions::default() }).unwrap()
    }

    pub(crate) fn with(sql: &str, options: SqliteOptions) -> Result<Self, OpenError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let shell = Connection::open(&path).unwrap();
        shell.busy_timeout(Duration::from_secs(10)).unwrap();
        shell.execute_batch(sql).unwrap();
        let tables = options.tables.clone();
        let store = Arc::new(SqliteStore::open(&path, options)?);
        let catalog = SharedCatalog::new(configured::catalog(&tables, &[]));
        let ports =
            UploadPorts { store: store.clone(), clock: Arc::new(SystemClock), notifier: Arc::new(Hub::default()) };
        let uploads = UploadService::new(ports, catalog.clone(), UploadLimits::default());
        let (ids, versions) = (AtomicI64::new(1), Mutex::default());
        Ok(Self { store, shell, folder, tables, catalog, uploads, ids, versions })
    }

    /// Puts the foreign keys of the database in force, as a server does all the time.
    pub(crate) async fn refresh(&self) {
        let found = self.store.refresh_catalog().await.unwrap();
        self.catalog.replace(configured::catalog(&self.tables, &found));
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("app.db")
    }

    /// Uploads changes, each at the version that its row has; all apply.
    pub(crate) async fn up(&self, who: &str, changes: &[Change<'_>]) {
        for decision in &self.try_up(who, changes).await {
            assert!(matches!(decision, Decision::Applied { .. }), "{decision:?}");
        }
    }

    /// Uploads changes, each at the version that its row has, and gives what became of them.
    pub(crate) async fn try_up(&self, who: &str, changes: &[Change<'_>]) -> Vec<Decision> {
        let submissions = changes.iter().map(|change| self.submission(who, change)).collect();
        let upload = Upload { source: SourceId::parse("phone").unwrap(), submissions, atomic: false, epoch: None };
        self.uploads.upload(&user(who), upload).await.unwrap().decisions
    }

    /// Uploads changes of which some may be refused, and remembers the versions as they are then.
    pub(crate) async fn settle(&self, who: &str, changes: &[Change<'_>]) {
        let decisions = self.try_up(who, changes).await;
        if decisions.iter().all(|decision| matches!(decision, Decision::Applied { version: Some(_) })) {
            return;
        }
        let known = "SELECT table_name, pk_uuid, server_version FROM sync_row_meta WHERE user_id = ?1";
        let mut known = self.shell.prepare(known).unwrap();
        let row = |row: &rusqlite::Row<'_>| {
            let pk: Uuid = row.get::<_, String>(1)?.parse().unwrap();
            Ok(((who.to_owned(), row.get(0)?, pk.as_u128()), row.get(2)?))
        };
        let known: HashMap<_, i64> = known.query_map([who], row).unwrap().map(Result::unwrap).collect();
        let mut versions = self.versions.lock().unwrap();
        versions.retain(|(user, ..), _| user != who);
        versions.extend(known);
    }

    fn submission(&self, who: &str, (op, table, pk, payload): &Change<'_>) -> outrigger_domain::Submission {
        let mut versions = self.versions.lock().unwrap();
        let version = versions.entry((who.to_owned(), (*table).to_owned(), *pk)).or_default();
        let payload = (*op != "DELETE").then(|| RawValue::from_string((*payload).to_owned()).unwrap());
        let submission = self.uploads.admit(RawChange {
            source_change_id: self.ids.fetch_add(1, Ordering::Relaxed),
            schema: table.split_once('.').map(|(schema, _)| schema),
            table: table.split_once('.').map_or(*table, |(_, table)| table),
            op,
            pk: &Uuid::from_u128(*pk).to_string(),
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

    /// One row's columns as SQLite writes them.
    pub(crate) fn row(&self, sql: &str) -> String {
        self.rows(sql).join("; ")
    }

    /// The first column of every row.
    pub(crate) fn rows(&self, sql: &str) -> Vec<String> {
        let mut statement = self.shell.prepare(sql).unwrap();
        statement.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap).collect()
    }
}
