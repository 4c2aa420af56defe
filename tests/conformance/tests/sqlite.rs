//! The contract, run by the store in a SQLite file; every node opens the file anew.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use outrigger_application::{ContactStore, ProjectionStore, RetentionStore, SyncStore, TableConfig, UserStore};
use outrigger_conformance::{Backend, LongLived, Projecting};
use outrigger_domain::TableName;
use outrigger_sqlite::{SqliteOptions, SqliteStore};
use rusqlite::{Connection, OptionalExtension};
use tempfile::TempDir;
use uuid::Uuid;

const BUSINESS: &str = "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT);
                        CREATE TABLE posts (id TEXT PRIMARY KEY, name TEXT);";

struct Sqlite(TempDir);

impl Sqlite {
    fn path(&self) -> PathBuf {
        self.0.path().join("outrigger.db")
    }

    fn open(&self) -> Arc<SqliteStore> {
        let table = |name| TableConfig::new(TableName::parse_qualified(name).expect("a good name"));
        let options = SqliteOptions { tables: ["users", "posts"].map(table).into(), ..SqliteOptions::default() };
        Arc::new(SqliteStore::open(&self.path(), options).expect("the file opens"))
    }
}

#[async_trait]
impl Backend for Sqlite {
    async fn start() -> Self {
        let backend = Self(tempfile::tempdir().expect("a temporary folder"));
        let connection = Connection::open(backend.path()).expect("the file opens");
        connection.execute_batch(BUSINESS).expect("the file is empty");
        backend
    }

    async fn node(&self) -> Arc<dyn SyncStore> {
        self.open()
    }
}

#[async_trait]
impl Projecting for Sqlite {
    async fn projection(&self) -> Arc<dyn ProjectionStore> {
        self.open()
    }

    async fn business_name(&self, table: &str, pk: Uuid) -> Option<String> {
        let connection = Connection::open(self.path()).expect("the file opens");
        let query = format!("SELECT name FROM {table} WHERE id = ?1");
        let name = connection.query_row(&query, [pk.to_string()], |row| row.get(0));
        name.optional().expect("the table is there").flatten()
    }
}

#[async_trait]
impl LongLived for Sqlite {
    async fn retention(&self) -> Arc<dyn RetentionStore> {
        self.open()
    }

    async fn contacts(&self) -> Arc<dyn ContactStore> {
        self.open()
    }

    async fn users(&self) -> Arc<dyn UserStore> {
        self.open()
    }
}

outrigger_conformance::suite!(Sqlite);
outrigger_conformance::projection_suite!(Sqlite);
outrigger_conformance::long_lived_suite!(Sqlite);
outrigger_conformance::users_suite!(Sqlite);
