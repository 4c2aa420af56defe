//! A database with business tables, and users who upload to it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outrigger_application::ports::projection::{Failure, FailureFilter};
use outrigger_application::{
    Hub, ProjectionStore, SharedCatalog, SystemClock, TableConfig, UploadPorts, UploadService,
};
use outrigger_domain::limits::UploadLimits;
use outrigger_domain::{Catalog, Decision, RawChange, SourceId, TableName, Upload, UserId};
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
        let catalog = Catalog::new(options.tables.iter().map(|config| config.table.clone()));
        let store = Arc::new(SqliteStore::open(&path, options)?);
        let catalog = SharedCatalog::new(catalog);
        let ports =
            UploadPorts { store: store.clone(), clock: Arc::new(SystemClock), notifier: Arc::new(Hub::default()) };
        let uploads = UploadService::new(ports, catalog, UploadLimits::default());
        Ok(Self { store, shell, folder, uploads, ids: AtomicI64::new(1), versions: Mutex::default() })
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("app.db")
    }

    /// Uploads changes, each at the version that its row has; all apply.
    pub(crate) async fn up(&self, who: &str, changes: &[Change<'_>]) {
        let submissions = changes.iter().map(|change| self.submission(who, change)).collect();
        let upload = Upload { source: SourceId::parse("phone").unwrap(), submissions, atomic: false, epoch: None };
        let verdict = self.uploads.upload(&user(who), upload).await.unwrap();
        for decision in &verdict.decisions {
            assert!(matches!(decision, Decision::Applied { .. }), "{decision:?}");
        }
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
