//! A Postgres that goes away and comes back under a running server, and one that is too slow for all who ask.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures::future::join_all;
use outrigger_testkit::{Cluster, Settings, TestDatabase, postgres_database};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};

use crate::raw::{ANSWER_MAX, Socket, head, upload};
use crate::server::{Client, Server};

/// What a server may take after its database is back.
const RECOVERY_MAX: Duration = Duration::from_secs(5);

fn start(folder: &tempfile::TempDir, url: &str, connections: &str) -> Server {
    Server::start(folder.path(), &[("DATABASE_URL", url), ("OUTRIGGER_POSTGRES__MAX_CONNECTIONS", connections)])
}

/// A status, and whether the answer says when to come again.
type Outcome = (u16, bool);

const OK: Outcome = (200, false);
const COME_AGAIN: Outcome = (503, true);

/// A device that remembers what it was told.
struct Device {
    client: Client,
    applied: Mutex<Vec<u32>>,
}

impl Device {
    async fn insert(&self, number: u32) -> Outcome {
        let body = json!({"changes": [user_change(number, "Alice")]});
        let answer = self.client.post("/sync/upload", &body).await;
        let outcome = outcome(&answer);
        if outcome == OK {
            let answer: Value = answer.json().await.unwrap();
            assert_eq!(answer["statuses"][0]["status"], "applied", "{answer}");
            self.applied.lock().unwrap().push(number);
        }
        outcome
    }

    async fn download(&self) -> Outcome {
        outcome(&self.client.send("/sync/download?include_self=true&limit=1").await)
    }
}

fn outcome(answer: &reqwest::Response) -> Outcome {
    (answer.status().as_u16(), answer.headers().contains_key("retry-after"))
}

async fn sign_in(server: &Server, users: usize) -> Vec<Device> {
    let device =
        async |n| Device { client: server.sign_in(&format!("user-{n}"), "phone").await, applied: Mutex::default() };
    join_all((0..users).map(device)).await
}

/// An upload and a download by everybody at once.
async fn ask(devices: &[Device], number: u32) -> Vec<Outcome> {
    let asked = devices.iter().map(async |device| {
        let both = async { tokio::join!(device.insert(number), device.download()) };
        let (upload, download) = tokio::time::timeout(ANSWER_MAX, both).await.expect("every request is answered");
        [upload, download]
    });
    join_all(asked).await.concat()
}

fn assert_all(answers: &[Outcome], expected: &[Outcome], when: &str) {
    let other: Vec<_> = answers.iter().filter(|answer| !expected.contains(answer)).collect();
    assert!(other.is_empty(), "{when}: {other:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_serves_again_within_five_seconds_of_its_databases_return() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(&Settings::default());
    let server = start(&folder, &cluster.url("postgres"), "8");
    let devices = sign_in(&server, 8).await;
    let endings: [fn(&Cluster); 3] = [Cluster::stop, Cluster::shut_down, Cluster::kill];
    for (number, end) in (1..).zip(endings) {
        // Everybody at once, so that all connections are open.
        assert_all(&ask(&devices, 10 * number).await, &[OK], "before");
        end(&cluster);
        assert_all(&ask(&devices, 10 * number + 1).await, &[COME_AGAIN], "while it is gone");
        assert_eq!(devices[0].client.get("/health").await.0, 200, "the process is up");
        assert_eq!(devices[0].client.get("/ready").await, (503, json!("unavailable")));
        cluster.restart();
        assert_all(&ask_after(RECOVERY_MAX, &devices, 10 * number + 2).await, &[OK], "after");
    }
    assert_nothing_is_lost(&devices).await;
    assert_no_transaction_is_open(&cluster.url("postgres")).await;
}

/// Nobody asks anything until the time is up: a server that only recovers at the expense of requests has not.
async fn ask_after(time: Duration, devices: &[Device], number: u32) -> Vec<Outcome> {
    tokio::time::sleep_until((Instant::now() + time).into()).await;
    ask(devices, number).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_cost_nobody_more_than_another_try() {
    let folder = tempfile::tempdir().unwrap();
    let database = postgres_database().await;
    let server = start(&folder, database.url(), "6");
    let devices = sign_in(&server, 6).await;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'outrigger'";
    let mut sql = PgConnection::connect(database.url()).await.unwrap();
    for number in 1..=10 {
        let (answers, cut) = tokio::join!(ask(&devices, number), sqlx::query(cut).execute(&mut sql));
        assert!(cut.unwrap().rows_affected() > 0, "there is something to cut");
        assert_all(&answers, &[OK, COME_AGAIN], "while connections are cut");
    }
    assert_all(&ask_after(RECOVERY_MAX, &devices, 11).await, &[OK], "after");
    assert_nothing_is_lost(&devices).await;
    assert_no_transaction_is_open(database.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_connections_are_told_to_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let database = postgres_database().await;
    let server = start(&folder, database.url(), "4");
    let devices = sign_in(&server, 20).await;
    let mut sql = PgConnection::connect(database.url()).await.unwrap();
    sql.execute("BEGIN; LOCK TABLE sync.server_change_log, sync.user_stream").await.unwrap();
    let answers = ask(&devices, 1).await;
    assert_all(&answers, &[COME_AGAIN], "while no statement comes to its end");
    sql.execute("ROLLBACK").await.unwrap();
    assert_all(&ask(&devices, 2).await, &[OK], "after");
    assert_nothing_is_lost(&devices).await;
    assert_no_transaction_is_open(database.url()).await;
}

/// Where a device hangs up.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Head,
    Body,
    /// The server looks up what the upload needs.
    Loading,
    /// It writes, behind the counter.
    Writing,
    /// It writes to the business table.
    Projecting,
    /// It has written, and commits.
    Committing,
    /// It looks up a page.
    Reading,
    /// It sends the page.
    Answering,
    /// It sends the rows as they are, as one stream.
    Streaming,
    /// It holds the request until there is something to download.
    Waiting,
    /// It tells of changes.
    Watching,
}

impl Stage {
    /// What holds the server up there.
    fn hold(self) -> Option<&'static str> {
        match self {
            Self::Head | Self::Body | Self::Answering | Self::Streaming | Self::Waiting | Self::Watching => None,
            Self::Loading | Self::Reading => Some("LOCK TABLE sync.server_change_log"),
            Self::Writing => Some("SELECT pg_advisory_xact_lock(1)"),
            Self::Projecting => Some("SELECT pg_advisory_xact_lock(2)"),
            Self::Committing => Some("SELECT pg_advisory_xact_lock(3)"),
        }
    }
}

/// Waits inside of every upload, as long as somebody holds the lock of that number.
const STALLS: &str = "
CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(TG_ARGV[0]::int8);
    RETURN NEW;
END $$;
CREATE TRIGGER stall_1 BEFORE INSERT ON sync.sync_row_meta FOR EACH ROW EXECUTE FUNCTION stall(1);
CREATE TRIGGER stall_2 BEFORE INSERT ON public.users FOR EACH ROW EXECUTE FUNCTION stall(2);
CREATE CONSTRAINT TRIGGER stall_3 AFTER INSERT ON sync.server_change_log DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION stall(3)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_hangs_up_leaves_nothing_behind_at_any_stage() {
    let folder = tempfile::tempdir().unwrap();
    let database = postgres_database().await;
    let server = start(&folder, database.url(), "4");
    let reader = server.sign_in("user-0", "reader").await;
    // An answer that does not fit into the buffers of a connection.
    for number in 1..=8 {
        let text = "x".repeat(1_000_000);
        assert_eq!(reader.change(user_change(1_000 + number, &text)).await.unwrap()["status"], "applied");
    }
    sqlx::raw_sql(STALLS).execute(&mut PgConnection::connect(database.url()).await.unwrap()).await.unwrap();
    let stages = [
        Stage::Head,
        Stage::Body,
        Stage::Loading,
        Stage::Writing,
        Stage::Projecting,
        Stage::Committing,
        Stage::Reading,
        Stage::Answering,
        Stage::Streaming,
        Stage::Waiting,
        Stage::Watching,
    ];
    for (stage, in_order) in stages.into_iter().flat_map(|stage| [(stage, true), (stage, false)]) {
        println!("{stage:?}, in order: {in_order}");
        hang_up_at(stage, in_order, (&server, &database)).await;
        // More at once than there are connections.
        let devices = sign_in(&server, 8).await;
        assert_all(&ask(&devices, 1).await, &[OK], "after");
        assert_no_transaction_is_open(database.url()).await;
    }
    assert_nothing_is_lost(&sign_in(&server, 8).await).await;
    assert_nobody_is_served(&reader).await;
}

/// Nothing is kept up for devices that have left: the only request is the one that asks.
async fn assert_nobody_is_served(client: &Client) {
    let quiet = async {
        loop {
            let counted = client.send("/metrics").await.text().await.unwrap();
            let is = |line: &str| counted.lines().any(|counted| counted == line);
            if is("outrigger_watchers 0") && is("outrigger_http_requests_in_flight 1") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), quiet).await.expect("devices that have left are let go of");
}

fn user_change(number: u32, text: &str) -> Value {
    json!({"source_change_id": number, "table": "users", "op": "INSERT", "server_version": 0,
           "pk": format!("00000000-0000-4000-8000-{number:012}"), "payload": {"name": text}})
}

/// Three devices ask, come as far as that stage, and hang up.
async fn hang_up_at(stage: Stage, in_order: bool, (server, database): (&Server, &TestDatabase)) {
    let mut sql = PgConnection::connect(database.url()).await.unwrap();
    if let Some(hold) = stage.hold() {
        sql.execute("BEGIN").await.unwrap();
        sql.execute(hold).await.unwrap();
    }
    let mut sockets = Vec::new();
    for n in 0..3_u32 {
        let is_large = matches!(stage, Stage::Answering | Stage::Streaming);
        let user = if is_large { "user-0".into() } else { format!("{stage:?}-{in_order}-{n}") };
        let token = server.sign_in(&user, "phone").await.token().to_owned();
        let body = json!({"changes": [user_change(1, "Alice")]}).to_string();
        let upload = upload(server, &token, body.as_bytes());
        let get = match stage {
            Stage::Streaming => "GET /sync/snapshot",
            Stage::Waiting => "GET /sync/download?wait=60",
            Stage::Watching => "GET /sync/watch",
            _ => "GET /sync/download?include_self=true",
        };
        let get = head(server, get, &token) + "Accept: application/x-ndjson, */*\r\n\r\n";
        let mut socket = Socket::open(server);
        match stage {
            Stage::Head => socket.send(&upload[..40]),
            Stage::Body => socket.send(&upload[..upload.len() - 40]),
            Stage::Loading | Stage::Writing | Stage::Projecting | Stage::Committing => socket.send(&upload),
            _ => socket.send(get.as_bytes()),
        }
        if matches!(stage, Stage::Answering | Stage::Streaming | Stage::Watching) {
            let begin = if stage == Stage::Watching { 100 } else { 1_000 };
            assert!(socket.receive(begin).starts_with(b"HTTP/1.1 200"));
        }
        sockets.push(socket);
    }
    if stage.hold().is_some() {
        wait_until_blocked(&mut sql).await;
    }
    sockets.into_iter().for_each(|socket| socket.hang_up(in_order));
    if stage == Stage::Reading {
        // Nobody waits for these: their connections are free for others long before the lock is.
        wait_until_unblocked(&mut sql).await;
    }
    if stage.hold().is_some() {
        sql.execute("ROLLBACK").await.unwrap();
    }
    for n in 0..3 {
        let again = server.sign_in(&format!("{stage:?}-{in_order}-{n}"), "phone").await;
        let status = again.change(user_change(1, "Alice")).await.expect("it is answered");
        assert_eq!(status, json!({"source_change_id": 1, "status": "applied", "new_server_version": 1}));
        assert_eq!(again.download().await.len(), 1, "applied once");
    }
}

const BLOCKED: &str = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND pg_backend_pid() = ANY (pg_blocking_pids(pid))";

async fn wait_until_blocked(sql: &mut PgConnection) {
    wait_until(sql, "statements wait", |blocked| blocked > 0).await;
}

async fn wait_until_unblocked(sql: &mut PgConnection) {
    wait_until(sql, "no statement waits", |blocked| blocked == 0).await;
}

async fn wait_until(sql: &mut PgConnection, what: &str, is_so: impl Fn(i64) -> bool) {
    let waiting = async {
        while !is_so(sqlx::query_scalar::<_, i64>(BLOCKED).fetch_one(&mut *sql).await.unwrap()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap_or_else(|_| panic!("not so: {what}"));
}

/// Everything that was tried is applied by now or can be, once, and every stream is whole.
async fn assert_nothing_is_lost(devices: &[Device]) {
    for device in devices {
        let stream = device.client.download().await;
        let numbers: Vec<i64> = stream.iter().map(|change| change["server_id"].as_i64().unwrap()).collect();
        assert!(numbers.iter().copied().eq(1..=numbers.len() as i64), "{numbers:?}");
        for number in &*device.applied.lock().unwrap() {
            let found = stream.iter().filter(|change| change["source_change_id"] == *number).count();
            assert_eq!(found, 1, "what was answered is there once: {number}");
        }
    }
}

async fn assert_no_transaction_is_open(url: &str) {
    let mut sql = PgConnection::connect(url).await.unwrap();
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                AND application_name = 'outrigger' AND state LIKE 'idle in transaction%'";
    let quiet = async {
        // A connection that was closed in the middle is rolled back as soon as Postgres notices.
        while sqlx::query_scalar::<_, i64>(open).fetch_one(&mut sql).await.unwrap() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), quiet).await.expect("no transaction stays open");
}
