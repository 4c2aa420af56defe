//! Three nodes on one database, and what holds their commits up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use outrigger_application::TableConfig;
use outrigger_domain::TableName;
use outrigger_postgres::{PostgresOptions, PostgresStore};
use outrigger_testkit::{TestDatabase, postgres_database};
use outrigger_testserver::{Options, Server};
use outrigger_torture::wire::Downloaded;
use reqwest::Client;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres, Transaction};

use crate::devices::{Device, Manner, Reader, SOON, page, until};
use crate::points::{End, Hold, Point};

const ALICE: &str = "alice";
/// Where a projection that waits for a lock gives up after an eighth of it.
const PROJECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// The first commit of a user that comes by waits. The others pass, and wait behind it or do not: that is the point.
const STALL: &str = "
CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    -- A whole statement has no user: the first one that comes by is the one that is waited for.
    owner text := TG_ARGV[0];
BEGIN
    IF TG_LEVEL = 'ROW' AND TG_OP = 'DELETE' THEN
        owner := OLD.user_id;
    ELSIF TG_LEVEL = 'ROW' THEN
        owner := NEW.user_id;
    END IF;
    IF owner = TG_ARGV[0] AND pg_try_advisory_xact_lock(1) THEN
        PERFORM pg_advisory_xact_lock_shared(2);
    END IF;
    IF TG_OP = 'DELETE' THEN RETURN OLD; ELSE RETURN NEW; END IF;
END $$";
const HOLD: &str = "SELECT pg_advisory_xact_lock(2)";

pub(crate) struct Scene {
    nodes: Vec<Server>,
    http: Client,
    sql: PgConnection,
    alices: Vec<Device>,
    bobs: Vec<Device>,
    projecting: bool,
    users: usize,
    // Behind the nodes, which are connected to it.
    database: TestDatabase,
}

impl Scene {
    pub(crate) async fn start(projecting: bool) -> Self {
        let database = postgres_database().await;
        let mut sql = PgConnection::connect(database.url()).await.expect("the database is there");
        let notes = "CREATE TABLE notes (id uuid PRIMARY KEY, user_id text NOT NULL, text text NOT NULL)";
        sqlx::raw_sql(notes).execute(&mut sql).await.expect("the database is empty");
        sqlx::raw_sql(STALL).execute(&mut sql).await.expect("the function is well-formed");
        let name = TableName::parse_qualified("notes").expect("it is a name");
        let tables = vec![TableConfig { owner_column: Some("user_id".into()), ..TableConfig::new(name) }];
        let tables = if projecting { tables } else { Vec::new() };
        let options = PostgresOptions {
            max_connections: 6,
            tables,
            projection_timeout: PROJECTION_TIMEOUT,
            // What is held up is to stay so until the test ends it.
            statement_timeout: SOON,
            ..PostgresOptions::default()
        };
        let mut nodes = Vec::new();
        for _ in 0..3 {
            let store = PostgresStore::connect(database.url(), options.clone()).await.expect("the store opens");
            nodes.push(Server::with(Arc::new(store), &Options::of(&["notes"])).await);
        }
        let mut scene = Self {
            nodes,
            http: Client::new(),
            sql,
            alices: Vec::new(),
            bobs: Vec::new(),
            projecting,
            users: 0,
            database,
        };
        (scene.alices, scene.bobs) = (scene.devices(ALICE), scene.devices("bob"));
        scene
    }

    /// One device on every node.
    fn devices(&self, user: &str) -> Vec<Device> {
        let device = |(n, node): (usize, &Server)| Device::new(&self.http, &node.url, user, &format!("device-{n}"));
        self.nodes.iter().enumerate().map(device).collect()
    }

    /// A device of the user that reads in its own way.
    pub(crate) fn read(&self, rng: &mut fastrand::Rng, n: usize) -> Reader {
        let node = self.nodes[n % self.nodes.len()].url.clone();
        let (user, source) = (ALICE.into(), format!("device-{n}"));
        let manner = Manner { node, user, limit: rng.u32(1..4), source, all: n != 1, windows: n == 2 };
        Reader::start(&self.http, manner)
    }

    /// Everybody uploads, and nothing is held up.
    pub(crate) async fn quiet_round(&mut self) {
        let mut devices = [std::mem::take(&mut self.alices), std::mem::take(&mut self.bobs)].concat();
        let bodies: Vec<_> = devices.iter_mut().map(Device::next).collect();
        join_all(devices.iter().zip(&bodies).map(|(device, body)| device.upload(body))).await;
        self.bobs = devices.split_off(self.nodes.len());
        self.alices = devices;
    }

    /// A commit of one user is held up at that point, while everybody else goes on.
    pub(crate) async fn round(&mut self, point: Point, end: End, readers: &[Reader]) {
        self.users += 1;
        let user = if point.first { format!("new-{}", self.users) } else { ALICE.into() };
        let mut devices = if point.first { self.devices(&user) } else { self.alices.clone() };
        let bodies: Vec<_> = devices.iter_mut().map(Device::next).collect();
        if !point.first {
            self.alices.clone_from(&devices);
        }
        self.set_trap(point, &user).await;
        let mut holder = PgConnection::connect(self.database.url()).await.expect("the database takes connections");
        let holder_pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut holder).await.expect("it says");
        let held = hold(&mut holder, point, &user).await;

        let uploads = devices.iter().cloned().zip(bodies.clone());
        let mut uploads: Vec<_> =
            uploads.map(|(device, body)| tokio::spawn(async move { device.upload(&body).await })).collect();
        until("a commit is held up", async || !self.held_up_by(holder_pid).await.is_empty()).await;
        if point.others_pass {
            until("another one passes", async || uploads.iter().any(|upload| upload.is_finished())).await;
        }
        self.others_go_on(readers).await;
        if !point.business {
            until("it is still held up", async || !self.held_up_by(holder_pid).await.is_empty()).await;
        }

        match end {
            End::Release => {}
            End::Cancel => self.signal("SELECT pg_cancel_backend($1)", holder_pid).await,
            End::Terminate => self.signal("SELECT pg_terminate_backend($1)", holder_pid).await,
            End::HangUp => uploads.drain(..).for_each(|upload| upload.abort()),
        }
        held.rollback().await.expect("it holds nothing but locks");
        for upload in uploads {
            tokio::time::timeout(SOON, upload).await.expect("the commit goes on").expect("all is applied");
        }
        // Those that hung up ask again, and the others' retries are told what they were told before.
        let again = join_all(devices.iter().zip(&bodies).map(|(device, body)| device.upload(body)));
        tokio::time::timeout(SOON, again).await.expect("the commit goes on");
        self.clear_trap(point).await;
    }

    /// Other users write and read on every node, and the user's readers read.
    async fn others_go_on(&mut self, readers: &[Reader]) {
        let bodies: Vec<_> = self.bobs.iter_mut().map(Device::next).collect();
        let uploads = join_all(self.bobs.iter().zip(&bodies).map(|(bob, body)| bob.upload(body)));
        tokio::time::timeout(SOON, uploads).await.expect("another user does not wait");
        for reader in readers {
            reader.goes_on().await;
        }
    }

    async fn set_trap(&mut self, point: Point, user: &str) {
        if let Hold::Trigger(definition) = point.hold {
            let kind = if definition.contains("DEFERRABLE") { "CONSTRAINT " } else { "" };
            let create = format!("CREATE {kind}TRIGGER stall {definition} EXECUTE FUNCTION stall('{user}')");
            sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut self.sql).await.expect("the trigger is well-formed");
        }
    }

    async fn clear_trap(&mut self, point: Point) {
        if let Hold::Trigger(definition) = point.hold {
            let table = definition.split(" ON ").nth(1).and_then(|rest| rest.split(' ').next());
            let drop = format!("DROP TRIGGER stall ON {}", table.expect("it is on a table"));
            sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut self.sql).await.expect("the trigger is there");
        }
    }

    /// The sessions that wait for this one.
    async fn held_up_by(&mut self, pid: i32) -> Vec<i32> {
        let waiting = "SELECT pid FROM pg_stat_activity
                       WHERE datname = current_database() AND $1 = ANY (pg_blocking_pids(pid))";
        sqlx::query_scalar(waiting).bind(pid).fetch_all(&mut self.sql).await.expect("the database answers")
    }

    async fn signal(&mut self, how: &'static str, holder: i32) {
        for pid in self.held_up_by(holder).await {
            sqlx::query(how).bind(pid).execute(&mut self.sql).await.expect("the role may do so");
        }
    }

    /// All that one user's devices have done, in the order of the stream.
    pub(crate) async fn whole_stream(&self) -> Vec<Downloaded> {
        let (node, user, source) = (self.nodes[0].url.clone(), ALICE.into(), "another".into());
        let manner = Manner { node, user, limit: 1_000, source, all: true, windows: false };
        let whole = page(&self.http, &manner, 0, 0).await;
        assert!(!whole.has_more, "the stream is longer than a page");
        whole.changes
    }

    /// The stream has everything that was sent, once and in order; and the tables say the same.
    pub(crate) async fn check(mut self, stream: &[Downloaded]) {
        let numbers: Vec<i64> = stream.iter().map(|change| change.server_id).collect();
        assert!(numbers.iter().copied().eq(1..=numbers.len() as i64), "{numbers:?}");
        for device in &self.alices {
            let own = stream.iter().filter(|change| change.source_id == device.source);
            assert!(own.map(|change| change.source_change_id).eq(1..=device.last), "{}: {stream:?}", device.source);
        }
        let mut versions = HashMap::new();
        for change in stream {
            let version = versions.entry(&change.pk).or_insert(0);
            *version += 1;
            assert_eq!(change.server_version, *version, "{change:?}");
        }
        self.check_tables().await;
        drop(self.nodes);
    }

    async fn check_tables(&mut self) {
        let wrong = [
            (
                "the log is not as long as the counter says",
                "
             SELECT count(*) FROM sync.user_stream u WHERE last_server_id <>
                 (SELECT count(*) FROM sync.server_change_log l WHERE l.user_id = u.user_id)",
            ),
            (
                "a row's version is not the one of its last change",
                "
             SELECT count(*) FROM sync.sync_row_meta m WHERE server_version <>
                 (SELECT count(*) FROM sync.server_change_log l WHERE l.user_id = m.user_id AND l.pk_uuid = m.pk_uuid)",
            ),
            (
                "a deleted row has a state, or one that is there has none",
                "
             SELECT count(*) FROM sync.sync_row_meta m WHERE deleted =
                 EXISTS (SELECT FROM sync.sync_state s WHERE s.user_id = m.user_id AND s.pk_uuid = m.pk_uuid)",
            ),
            (
                "a connection stays in a transaction",
                "
             SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'outrigger' AND state LIKE 'idle in trans%'",
            ),
        ];
        let projected = (
            "a business row differs though no failure says so",
            "
             SELECT count(*) FROM sync.sync_row_meta m LEFT JOIN sync.sync_state s USING (user_id, pk_uuid)
             WHERE NOT EXISTS (SELECT FROM sync.materialize_failures f WHERE f.pk_uuid = m.pk_uuid)
               AND (s.payload ->> 'text') IS DISTINCT FROM (SELECT n.text FROM notes n WHERE n.id = m.pk_uuid)",
        );
        for (what, sql) in wrong.into_iter().chain(self.projecting.then_some(projected)) {
            let found: i64 = sqlx::query_scalar(sql).fetch_one(&mut self.sql).await.expect("the query is well-formed");
            assert_eq!(found, 0, "{what}");
        }
    }
}

/// Does what the point says, in a transaction.
async fn hold<'c>(holder: &'c mut PgConnection, point: Point, user: &str) -> Transaction<'c, Postgres> {
    let mut held = holder.begin().await.expect("the database answers");
    let done = match point.hold {
        Hold::Trigger(_) => sqlx::query(HOLD).execute(&mut *held).await,
        Hold::Transaction(sql) => sqlx::query(sql).bind(user).execute(&mut *held).await,
    };
    done.expect("nobody else is at work");
    held
}
