//! What apps do to a library: transactions left open, locks held, several processes, other users.

use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::JoinHandle;

use outrigger_client::transport::Response;
use outrigger_client::{Client, Conflicts, Error, Event, Unsent};

use crate::world::{
    Device, Link, SCHEMA, Server, bare_config, config, conflicts, connect, contents, drained, pk, settle,
};

fn insert(n: u32) -> String {
    format!("INSERT INTO users (id, name) VALUES ('{}', 'user {n}');", pk(n))
}

#[tokio::test]
async fn a_transaction_that_the_app_has_open_is_let_be() {
    let server = Server::memory().await;
    let phone = server.device("phone");
    phone.sync().await;
    for (begin, end) in [
        ("BEGIN", "COMMIT"),
        ("BEGIN IMMEDIATE", "COMMIT"),
        ("SAVEPOINT a; SAVEPOINT b; SAVEPOINT c; DELETE FROM users; ROLLBACK TO c; RELEASE b", "RELEASE a"),
    ] {
        let n = u32::try_from(phone.contents().len()).unwrap();
        phone.execute(&format!("{begin}; {}", insert(n)));
        let done = phone.client.sync_once().await;
        assert!(matches!(done, Err(Error::Busy(_))), "{begin}: {done:?}");
        assert!(matches!(phone.client.close(), Err(Error::Busy(_))), "{begin}");
        phone.execute(end);
        assert_eq!(phone.sync().await.uploaded, 1, "{begin}");
    }
    let connection = connect(&phone.path, "BEGIN");
    assert!(matches!(Client::open(connection, config(phone.link.clone(), "phone")), Err(Error::Busy(_))));
}

#[tokio::test]
async fn a_lock_of_another_connection_s_is_an_error_that_passes() {
    let server = Server::memory().await;
    for journal in ["delete", "wal"] {
        let phone = server.device(journal);
        phone.execute(&format!("PRAGMA journal_mode = {journal}; PRAGMA busy_timeout = 20"));
        phone.sync().await;
        let other = phone.connection();
        other.execute_batch(&format!("BEGIN IMMEDIATE; {}", insert(u32::try_from(journal.len()).unwrap()))).unwrap();
        assert!(matches!(phone.client.sync_once().await, Err(Error::Busy(_))), "{journal}");
        // In the background it is nothing to tell anybody: it is tried again.
        let mut events = phone.client.events();
        phone.client.start();
        tokio::task::yield_now().await;
        other.execute_batch("COMMIT").unwrap();
        while phone.client.unsent().unwrap() > 0 {
            tokio::task::yield_now().await;
        }
        let told = drained(&mut events);
        assert!(!told.iter().any(|event| matches!(event, Event::Offline(_) | Event::Failed(_))), "{journal}: {told:?}");
        phone.client.stop();
    }
}

/// Two clients on one file, as an app and its extension have them. They send the same changes, read the same pages and
/// take each other's answers; nothing may conflict with itself.
#[tokio::test]
async fn two_clients_on_one_file_sync_it_at_the_same_time() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let server = Server::memory().await;
    let phone = server.device_with("phone", |config| config.conflicts(Conflicts::ServerWins));
    let twin = connect(&phone.path, "");
    let twin = Client::open(twin, config(phone.link.clone(), "phone").conflicts(Conflicts::ServerWins)).unwrap();
    let (laptop, mut events, mut of_twin) = (server.device("laptop"), phone.client.events(), twin.events());
    for round in 0..40 {
        let edit = |n: u32| {
            format!(
                "INSERT INTO users (id, age) VALUES ('{}', {round}) ON CONFLICT (id) DO UPDATE SET age = {round};",
                pk(n)
            )
        };
        phone.execute(&edit(rng.u32(1..6)));
        twin.with(|db| db.execute_batch(&edit(rng.u32(1..6)))).unwrap();
        laptop.execute(&format!("INSERT INTO posts (id, title) VALUES ('{}', 't')", pk(round + 100)));
        laptop.sync().await;
        phone.link.answers_lost.store(rng.usize(..3), Ordering::SeqCst);
        let (one, two) = tokio::join!(phone.client.sync_once(), twin.sync_once());
        for done in [one, two] {
            assert!(matches!(done, Ok(_) | Err(Error::Offline { .. } | Error::Busy(_))), "{done:?}");
        }
    }
    phone.link.answers_lost.store(0, Ordering::SeqCst);
    twin.sync_once().await.unwrap();
    let rows = settle(&[&phone, &laptop]).await;
    assert_eq!(contents(&twin), rows);
    assert_eq!((conflicts(&mut events), conflicts(&mut of_twin)), (0, 0));
}

/// The slower of two clients gets its answer when the faster one has long sent the next edit of the row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_another_client_has_taken_is_passed_over() {
    let server = Server::memory().await;
    let phone = server.device_with("phone", |config| config.conflicts(Conflicts::ServerWins));
    let mut events = phone.client.events();
    phone.execute(&insert(1));
    phone.sync().await;
    phone.execute("UPDATE users SET age = 1");
    let (path, url, mut is_first) = (phone.path.clone(), server.url.clone(), true);
    phone.link.tamper(move |request, real| {
        if request.path == "/sync/upload" && std::mem::take(&mut is_first) {
            let (path, url) = (path.clone(), url.clone());
            let faster = async move {
                let twin = Client::open(connect(&path, ""), config(Link::new(&url), "phone")).unwrap();
                twin.sync_once().await.unwrap();
                twin.with(|db| db.execute_batch("UPDATE users SET age = 2")).unwrap();
                twin.sync_once().await.unwrap();
                twin.with(|db| db.execute_batch("UPDATE users SET age = 3")).unwrap();
            };
            on_a_thread(faster).join().unwrap();
        }
        real
    });
    phone.sync().await;
    let laptop = server.device("laptop");
    assert!(settle(&[&phone, &laptop]).await[0].contains("integer:3"));
    assert_eq!(conflicts(&mut events), 0);
}

/// What another client does while this one waits for an answer.
fn on_a_thread(what: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::spawn(move || runtime.block_on(what))
}

/// What a client that starts has fetched is no longer true when another one of the same file has started and gone on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_another_client_has_outrun_are_not_applied() {
    let server = Server::memory().await;
    let phone = server.device_with("phone", |config| config.conflicts(Conflicts::ServerWins));
    phone.execute(&insert(1));
    let (mut events, path, url) = (phone.client.events(), phone.path.clone(), server.url.clone());
    let mut outrun = Some(async move {
        let twin = Client::open(connect(&path, ""), config(Link::new(&url), "phone")).unwrap();
        twin.with(|db| db.execute_batch("UPDATE users SET age = 1")).unwrap();
        twin.sync_once().await.unwrap();
    });
    phone.link.tamper(move |request, real| {
        if request.path.starts_with("/sync/snapshot")
            && let Some(outrun) = outrun.take()
        {
            on_a_thread(outrun).join().unwrap();
        }
        real
    });
    phone.sync().await;
    assert_eq!(phone.rows("SELECT 'age ' || age FROM users"), ["age 1"]);
    phone.execute("UPDATE users SET age = 2");
    phone.sync().await;
    let laptop = server.device("laptop");
    assert!(settle(&[&phone, &laptop]).await[0].contains("integer:2"));
    assert_eq!(conflicts(&mut events), 0);
}

/// Another client of the file starts over while this one uploads: the rows that it has fetched are those from before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_a_start_has_missed_is_settled_again() {
    let server = Server::memory().await;
    let phone = server.device_with("phone", |config| config.conflicts(Conflicts::ServerWins));
    phone.execute(&insert(1));
    phone.sync().await;
    phone.execute("UPDATE users SET age = 1");
    let ((fetched, is_fetched), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel());
    let (path, url, app) = (phone.path.clone(), server.url.clone(), phone.connection());
    let mut start_over = Some(async move {
        let link = Link::new(&url);
        link.tamper(move |request, real| {
            if request.path.starts_with("/sync/snapshot") {
                fetched.send(()).unwrap();
                may_go_on.recv().unwrap();
            }
            real
        });
        let twin = Client::open(connect(&path, ""), config(link, "phone")).unwrap();
        // As if the server had pruned what it has not read.
        twin.with(|db| db.execute_batch("DELETE FROM _outrigger_state WHERE key = 'cursor'")).unwrap();
        twin.sync_once().await.unwrap();
    });
    let (started, twin) = mpsc::channel();
    phone.link.tamper(move |request, real| {
        if request.path == "/sync/upload"
            && let Some(start_over) = start_over.take()
        {
            // Another change for the same push, behind the rows that the twin fetches.
            app.execute_batch("UPDATE users SET age = 2").unwrap();
            started.send(on_a_thread(start_over)).unwrap();
            is_fetched.recv().unwrap();
        }
        real
    });
    let done = phone.client.sync_once().await;
    go_on.send(()).unwrap();
    twin.recv().unwrap().join().unwrap();
    assert!(matches!(done, Err(Error::Busy(_))), "{done:?}");
    let laptop = server.device("laptop");
    assert!(settle(&[&phone, &laptop]).await[0].contains("integer:2"));
}

/// What is edited when the server has answered, and the answer is on its way.
#[tokio::test]
async fn edits_made_while_a_batch_is_in_flight_are_not_lost() {
    for (before, meanwhile, expected) in [
        ("UPDATE users SET name = 'sent'", "UPDATE users SET name = 'later'", vec!["later"]),
        ("UPDATE users SET name = 'sent'", "DELETE FROM users", vec![]),
        (
            "DELETE FROM users",
            "INSERT INTO users (id, name) VALUES ('00000000-0000-4000-8000-000000000001', 'again')",
            vec!["again"],
        ),
        (
            "UPDATE users SET name = 'sent'",
            "DELETE FROM users; INSERT INTO users (id, name) VALUES ('00000000-0000-4000-8000-000000000001', 'again')",
            vec!["again"],
        ),
        (
            "UPDATE users SET name = 'sent'",
            "UPDATE users SET name = 'other'; UPDATE users SET name = 'sent'",
            vec!["sent"],
        ),
        (
            "INSERT INTO users (id, name) VALUES ('00000000-0000-4000-8000-000000000002', 'new')",
            "UPDATE users SET name = name || '!'",
            vec!["new!", "user 1!"],
        ),
    ] {
        let server = Server::memory().await;
        let (phone, laptop) =
            (server.device_with("phone", |config| config.conflicts(Conflicts::ServerWins)), server.device("laptop"));
        phone.execute(&insert(1));
        settle(&[&phone, &laptop]).await;
        phone.execute(before);
        let (other, mut times) = (phone.connection(), 0);
        phone.link.tamper(move |request, real| {
            if request.path == "/sync/upload" {
                times += 1;
                if times == 1 {
                    other.execute_batch(meanwhile).unwrap();
                }
            }
            real
        });
        let mut events = phone.client.events();
        settle(&[&phone, &laptop]).await;
        assert_eq!(laptop.rows("SELECT name FROM users ORDER BY 1"), expected, "{before}, then {meanwhile}");
        assert_eq!(conflicts(&mut events), 0, "{before}, then {meanwhile}");
    }
}

/// What is edited when the server has answered a download: the row that comes down is a conflict.
#[tokio::test]
async fn a_row_that_is_edited_while_it_comes_down_is_not_overwritten() {
    for policy in [Conflicts::MergeFields, Conflicts::ClientWins, Conflicts::ServerWins] {
        let server = Server::memory().await;
        let (phone, laptop) =
            (server.device_with("phone", |config| config.conflicts(policy.clone())), server.device("laptop"));
        phone.execute(&insert(1));
        settle(&[&phone, &laptop]).await;
        laptop.execute("UPDATE users SET name = 'theirs'");
        laptop.sync().await;
        let (other, mut times) = (phone.connection(), 0);
        phone.link.tamper(move |request, real| {
            times += usize::from(request.path.starts_with("/sync/download"));
            if times == 1 {
                other.execute_batch("UPDATE users SET age = 7").unwrap();
                times += 1;
            }
            real
        });
        let mut events = phone.client.events();
        settle(&[&phone, &laptop]).await;
        let expected = match policy {
            Conflicts::ClientWins => "user 1 7",
            Conflicts::ServerWins => "theirs -",
            _ => "theirs 7",
        };
        assert_eq!(laptop.rows("SELECT name || ' ' || coalesce(age, '-') FROM users"), [expected], "{policy:?}");
        assert_eq!(conflicts(&mut events), 1, "{policy:?}");
        // The cursor stands where the stream does.
        let end = if matches!(policy, Conflicts::ServerWins) { 2 } else { 3 };
        assert_eq!(cursor(&phone)[0], format!("cursor{end}"), "{policy:?}");
    }
}

#[tokio::test]
async fn a_sign_out_says_what_is_unsent() {
    let server = Server::memory().await;
    let phone = server.device("phone");
    phone.execute(&insert(1));
    phone.sync().await;
    phone.execute("DELETE FROM users; INSERT INTO users (id) VALUES ('no key')");
    phone.sync().await;
    phone.execute(&format!("{} INSERT INTO files (id) VALUES (x'00112233445566778899aabbccddeeff')", insert(2)));
    let out = phone.client.sign_out().unwrap();
    let unsent = |table: &str, pk: &str| Unsent { table: table.into(), pk: pk.into() };
    assert_eq!(out.unsent, [unsent("files", "00112233-4455-6677-8899-aabbccddeeff"), unsent("users", &pk(2))]);
    assert_eq!(out.aside.iter().map(|aside| &*aside.pk).collect::<Vec<_>>(), ["no key"]);
}

fn cursor(device: &Device) -> Vec<String> {
    device.rows("SELECT key || value FROM _outrigger_state WHERE key IN ('cursor', 'user', 'epoch') ORDER BY 1")
}

#[tokio::test]
async fn another_user_is_refused_until_the_first_one_is_signed_out() {
    let server = Server::memory().await;
    let mut phone = server.device("phone");
    phone.execute(&insert(1));
    phone.sync().await;
    phone.execute(&insert(2));
    let before = (phone.contents(), cursor(&phone));
    let bob = |device: &Device| bare_config(device.link.clone(), "bob/phone").table("users");
    phone.reopen_as(SCHEMA, bob(&phone)).unwrap();
    let asked = phone.link.asked.lock().unwrap().len();
    match phone.client.sync_once().await {
        Err(Error::OtherUser { was, is }) => assert_eq!((&*was, &*is), ("alice", "bob")),
        other => panic!("{other:?}"),
    }
    assert_eq!(phone.link.asked.lock().unwrap()[asked..], ["/sync/source"]);
    assert_eq!((phone.contents(), cursor(&phone)), before);
    // Alice again.
    phone.reopen(|config| config);
    assert_eq!(phone.sync().await.uploaded, 1);
    // She signs out, the app removes her rows, and bob signs in.
    let out = phone.client.sign_out().unwrap();
    out.connection.execute_batch("DELETE FROM users").unwrap();
    drop(out);
    phone.reopen_as(SCHEMA, bob(&phone)).unwrap();
    phone.sync().await;
    assert_eq!(phone.contents().len(), 0);
    phone.execute(&insert(3));
    phone.sync().await;
    let laptop = server.device("laptop");
    laptop.sync().await;
    assert_eq!(laptop.contents().len(), 2, "alice's, and not bob's");
}

/// The token ends in the middle of a sync, and the app's next one is bob's.
#[tokio::test]
async fn a_refreshed_token_of_another_user_is_refused_too() {
    let server = Server::memory().await;
    let tokens = std::sync::Arc::new(std::sync::Mutex::new(vec!["bob/phone", "alice/phone"]));
    let link = Link::new(&server.url);
    let given = tokens.clone();
    let token = move || {
        let token = given.lock().unwrap().pop().unwrap();
        async move { Ok(token.to_owned()) }
    };
    let config = outrigger_client::Config::over(link.clone(), token).table("users");
    let folder = tempfile::tempdir().unwrap();
    let client = crate::world::open(&folder.path().join("a.db"), config);
    client.with(|db| db.execute_batch(&insert(1))).unwrap();
    link.tamper(|request, real| match &*request.path {
        "/sync/upload" if request.token == "alice/phone" => Response { status: 401, ..real },
        _ => real,
    });
    assert!(matches!(client.sync_once().await, Err(Error::OtherUser { .. })));
    assert_eq!(link.count("/sync/upload"), 1);
    assert_eq!(client.unsent().unwrap(), 1);
    assert_eq!(*tokens.lock().unwrap(), [""; 0]);
}

#[tokio::test]
async fn the_same_user_under_another_source_goes_on() {
    let server = Server::memory().await;
    let (mut phone, laptop) = (server.device("phone"), server.device("laptop"));
    let tablet = server.device("tablet");
    tablet.execute(&(1..20).map(insert).collect::<String>());
    tablet.sync().await;
    settle(&[&phone, &laptop]).await;
    phone.execute("UPDATE users SET age = 4 WHERE name = 'user 1'");
    // The numbers of that source are higher.
    phone.reopen_as(SCHEMA, config(phone.link.clone(), "tablet")).unwrap();
    assert_eq!(phone.sync().await.uploaded, 1);
    assert_eq!(phone.link.count("/sync/upload"), 1);
    phone.execute("UPDATE users SET age = 5");
    settle(&[&phone, &laptop]).await;
    assert_eq!(cursor(&phone)[2], "useralice");
}

/// A resolver that fails takes down the sync, and nothing else.
#[tokio::test]
async fn a_resolver_that_panics_leaves_the_database_as_it_was() {
    let server = Server::memory().await;
    let phone = server.device_with("phone", |config| config.conflicts(Conflicts::custom(|_| panic!("the app's own"))));
    let laptop = server.device("laptop");
    phone.execute(&insert(1));
    settle(&[&phone, &laptop]).await;
    for device in [&laptop, &phone] {
        device.execute(&format!("UPDATE users SET name = '{}'", device.name));
    }
    laptop.sync().await;
    let client = phone.client.clone();
    let failed = tokio::spawn(async move { client.sync_once().await }).await;
    assert!(failed.unwrap_err().is_panic());
    assert_eq!((phone.rows("SELECT name FROM users"), phone.client.unsent().unwrap()), (vec!["phone".into()], 1));
}
