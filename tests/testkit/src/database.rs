//! A database of a test's own.

use std::env;
use std::str::FromStr;
use std::thread;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};

use crate::shared;

/// An empty database. Dropped, with whatever is still connected to it, when this is.
pub struct TestDatabase {
    server: PgConnectOptions,
    name: String,
    url: String,
}

impl TestDatabase {
    /// Where to connect to it.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Makes an empty database with a random name. Panics, saying what to install, if there is no server.
pub async fn postgres_database() -> TestDatabase {
    let server = match env::var("OUTRIGGER_TEST_POSTGRES_URL") {
        Ok(url) => url,
        Err(_) => tokio::task::spawn_blocking(shared::url).await.expect("the shared cluster is up"),
    };
    let server = PgConnectOptions::from_str(&server).expect("OUTRIGGER_TEST_POSTGRES_URL is a Postgres url");
    // Two processes that start at the same moment may draw the same letters: those come from the time alone.
    let suffix: String = std::iter::repeat_with(fastrand::lowercase).take(16).collect();
    let name = format!("outrigger_test_{}_{suffix}", std::process::id());
    // The one template that nobody can be connected to, in the one encoding that holds every text.
    execute(&server, format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'"))
        .await
        .expect("the test server lets its role create a database");
    let url = server.clone().database(&name).to_url_lossy().to_string();
    TestDatabase { server, name, url }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, statement) = (self.server.clone(), format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        // A thread of its own, since the test's runtime may be this one, or gone. If the server is gone so is the
        // database.
        let dropped = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(execute(&server, statement)).map_err(std::io::Error::other)
        });
        let _ = dropped.join();
    }
}

async fn execute(server: &PgConnectOptions, statement: String) -> Result<(), sqlx::Error> {
    let mut connection = server.connect().await?;
    connection.execute(AssertSqlSafe(statement)).await?;
    connection.close().await
}
