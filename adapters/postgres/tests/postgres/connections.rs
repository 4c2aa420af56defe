//! How connections are opened, kept and closed.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use outrigger_application::{ProjectionStore, StoreError, SyncStore};
use outrigger_domain::Op;
use outrigger_postgres::{PoolUse, PostgresOptions, PostgresStore};
use outrigger_testkit::{Cluster, Settings, postgres_database};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::support::{Fixture, apply, change, insert, payload, plan, upload_of, user, wait_until_blocked};

/// The backends of the store, once there are `count` of them.
async fn backends(sql: &mut PgConnection, count: usize) -> Vec<i32> {
    let open = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'outrigger'
                ORDER BY pid";
    let waiting = async {
        loop {
            let pids: Vec<i32> = sqlx::query_scalar(open).fetch_all(&mut *sql).await.unwrap();
            if pids.len() == count {
                break pids;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("there are not {count}"))
}

/// Lets that much time pass for the store at once; the database does not notice.
async fn pass(minutes: f64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs_f64(60.0 * minutes)).await;
    // What has become due runs before the clock goes on.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    tokio::time::resume();
}

async fn look(store: &PostgresStore) {
    store.head(&user("alice")).await.unwrap();
}

/// Where the store is to connect to in place of the database, and the url of that.
async fn in_between(url: &str, target: &PgConnectOptions) -> (Arc<TcpListener>, String) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let there = format!(":{}/", listener.local_addr().unwrap().port());
    let through = url.replacen(&format!(":{}/", target.get_port()), &there, 1);
    assert_ne!(url, through);
    (Arc::new(listener), through)
}

/// Passes the database's answers back to the store; what is left to do is to pass on what the store sends.
async fn with_answers(store: TcpStream, target: &PgConnectOptions) -> (OwnedReadHalf, OwnedWriteHalf) {
    let (from, mut back) = store.into_split();
    let server = TcpStream::connect((target.get_host(), target.get_port())).await.unwrap();
    let (mut answers, to) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
    (from, to)
}

/// Passes on what the store sends, one connection for each of its own, and counts its requests for an answer.
fn counting(listener: Arc<TcpListener>, target: PgConnectOptions) -> Arc<AtomicUsize> {
    let syncs = Arc::<AtomicUsize>::default();
    let counter = Arc::clone(&syncs);
    tokio::spawn(async move {
        while let Ok((store, _)) = listener.accept().await {
            let (mut from, mut to) = with_answers(store, &target).await;
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                // Only the first message has no type.
                let mut is_first = true;
                loop {
                    let kind = if is_first { None } else { Some(from.read_u8().await?) };
                    let length = from.read_u32().await?;
                    let mut rest = vec![0; length as usize - 4];
                    from.read_exact(&mut rest).await?;
                    if matches!(kind, Some(b'S' | b'Q')) {
                        counter.fetch_add(1, Ordering::SeqCst);
                    }
                    is_first = false;
                    let message = [kind.as_slice(), &length.to_be_bytes(), &rest].concat();
                    to.write_all(&message).await?;
                }
                #[expect(unreachable_code, reason = "says what the errors above are")]
                Ok::<_, io::Error>(())
            });
        }
    });
    syncs
}

#[tokio::test]
async fn a_call_is_one_round_trip() {
    let database = postgres_database().await;
    let target: PgConnectOptions = database.url().parse().unwrap();
    let (listener, url) = in_between(database.url(), &target).await;
    let round_trips = counting(listener, target);
    let url = format!("{url}{}sslmode=disable", if url.contains('?') { '&' } else { '?' });
    let options = PostgresOptions { max_connections: 1, ..PostgresOptions::default() };
    let store = PostgresStore::connect(&url, options).await.unwrap();
    let alice = user("alice");
    let upload = async |number: i64| {
        let (next, _) = plan(&store, &alice, &upload_of("phone", [insert(number, number as u128)])).await;
        store.commit(&alice, next).await.unwrap();
    };
    // What is asked for the first time is prepared, and the first entry of a stream is another statement.
    for number in 1..=2 {
        upload(number).await;
    }
    let before = round_trips.load(Ordering::SeqCst);
    assert!(before > 4, "the messages are counted: {before}");
    for number in 3..=7 {
        upload(number).await;
    }
    assert_eq!(round_trips.load(Ordering::SeqCst) - before, 10, "five looks and five commits");
}

#[tokio::test]
async fn connections_that_nobody_needs_are_closed() {
    let fixture = Fixture::with(PostgresOptions { max_connections: 4, ..PostgresOptions::default() }).await;
    let mut sql = fixture.sql().await;
    // At once, so that each has one of its own.
    join_all((0..3).map(|_| look(&fixture.store))).await;
    let opened = backends(&mut sql, 3).await;
    pass(9.0).await;
    for _ in 0..6 {
        look(&fixture.store).await;
    }
    assert_eq!(backends(&mut sql, 3).await, opened);
    // One of them did for all that was asked two minutes ago.
    pass(2.0).await;
    let kept = backends(&mut sql, 1).await;
    assert!(opened.contains(&kept[0]));
    let [(_, plain), _] = fixture.store.connections();
    assert_eq!((plain.idle, plain.busy, plain.max), (1, 0, 4));
    pass(11.0).await;
    backends(&mut sql, 0).await;
    look(&fixture.store).await;
    backends(&mut sql, 1).await;
}

#[tokio::test]
async fn a_connection_is_replaced_in_time_however_much_it_is_used() {
    let fixture = Fixture::with(PostgresOptions { max_connections: 1, ..PostgresOptions::default() }).await;
    let mut sql = fixture.sql().await;
    look(&fixture.store).await;
    let first = backends(&mut sql, 1).await;
    for _ in 0..4 {
        pass(7.0).await;
        look(&fixture.store).await;
    }
    assert_eq!(backends(&mut sql, 1).await, first);
    pass(3.0).await;
    look(&fixture.store).await;
    look(&fixture.store).await;
    assert_ne!(backends(&mut sql, 1).await, first);
}

#[tokio::test]
async fn a_connection_that_was_cut_while_nobody_used_it_fails_no_call() {
    let fixture = Fixture::with(PostgresOptions { max_connections: 1, ..PostgresOptions::default() }).await;
    let mut sql = fixture.sql().await;
    look(&fixture.store).await;
    let [first] = backends(&mut sql, 1).await[..] else { unreachable!("there is one") };
    sqlx::query("SELECT pg_terminate_backend($1)").bind(first).execute(&mut sql).await.unwrap();
    backends(&mut sql, 0).await;
    pass(0.05).await;
    look(&fixture.store).await;
}

#[tokio::test]
async fn a_call_waits_for_a_database_that_is_starting() {
    let cluster = Cluster::start(&Settings::default());
    let options = PostgresOptions { acquire_timeout: Duration::from_secs(60), ..PostgresOptions::default() };
    let store = PostgresStore::connect(&cluster.url("postgres"), options).await.unwrap();
    cluster.stop();
    let early = store.clone();
    let call = tokio::spawn(async move { look(&early).await });
    // Nothing listens, so the first attempt is refused.
    tokio::task::yield_now().await;
    cluster.restart();
    call.await.unwrap();
}

#[tokio::test]
async fn a_server_that_hangs_up_at_the_first_word_fails_no_call() {
    let database = postgres_database().await;
    let target: PgConnectOptions = database.url().parse().unwrap();
    let (listener, url) = in_between(database.url(), &target).await;
    let hang_ups = Arc::<AtomicUsize>::default();
    let left = Arc::clone(&hang_ups);
    tokio::spawn(async move {
        while let Ok((mut store, _)) = listener.accept().await {
            if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
                // It is about a word, so one is read: what is unread would make it a reset.
                store.read_u64().await.unwrap();
                continue;
            }
            let mut server = TcpStream::connect((target.get_host(), target.get_port())).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut store, &mut server).await });
        }
    });
    let store = PostgresStore::connect(&url, PostgresOptions::default()).await.unwrap();
    hang_ups.store(2, Ordering::SeqCst);
    look(&store).await;
    assert_eq!(hang_ups.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_call_that_waits_for_the_database_counts_as_busy_and_is_let_go_by_closing() {
    let cluster = Cluster::start(&Settings::default());
    let options =
        PostgresOptions { max_connections: 2, acquire_timeout: Duration::from_secs(600), ..PostgresOptions::default() };
    let store = PostgresStore::connect(&cluster.url("postgres"), options).await.unwrap();
    cluster.stop();
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.head(&user("alice")).await })
        })
        .collect();
    let used_up = async {
        while store.connections()[0].1.busy < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), used_up).await.expect("both connections are being opened");
    tokio::time::timeout(Duration::from_secs(10), store.close()).await.expect("they need not wait any longer");
    cluster.restart();
    for call in calls {
        let answer = call.await.unwrap();
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    }
}

#[tokio::test]
async fn a_connection_has_its_place_until_it_is_closed() {
    let database = postgres_database().await;
    let target: PgConnectOptions = database.url().parse().unwrap();
    let (listener, url) = in_between(database.url(), &target).await;
    let (is_stuck, stuck) = (Arc::<AtomicBool>::default(), Arc::<Notify>::default());
    let shared = (Arc::clone(&is_stuck), Arc::clone(&stuck));
    tokio::spawn(async move {
        while let Ok((store, _)) = listener.accept().await {
            let (mut from, mut to) = with_answers(store, &target).await;
            let (is_stuck, stuck) = shared.clone();
            tokio::spawn(async move {
                let mut some = vec![0; 16 * 1024];
                while let Ok(read @ 1..) = from.read(&mut some).await {
                    // The statement may yet be prepared. What it is to be run with stays in the sockets, and with the store.
                    while read == some.len() && is_stuck.load(Ordering::SeqCst) {
                        stuck.notify_one();
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    to.write_all(&some[..read]).await.unwrap();
                }
            });
        }
    });
    let options = PostgresOptions {
        max_connections: 1,
        acquire_timeout: Duration::from_millis(100),
        ..PostgresOptions::default()
    };
    let store = PostgresStore::connect(&url, options).await.unwrap();
    let alice = user("alice");
    apply(&store, &alice, "phone", [insert(1, 1)]).await.unwrap();
    // More than sockets take.
    let large = |n: i64| {
        let text = format!(r#"{{"text":"{}"}}"#, "x".repeat(12_000_000));
        change(n, n as u128, 0, Op::Insert(payload(&text)))
    };
    let (next, _) = plan(&store, &alice, &upload_of("phone", (2..6).map(large))).await;
    is_stuck.store(true, Ordering::SeqCst);
    let early = store.clone();
    let call = tokio::spawn(async move { early.commit(&user("alice"), next).await });
    stuck.notified().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    let PoolUse { idle, busy, .. } = store.connections()[0].1;
    assert_eq!((idle, busy), (0, 1), "it is being closed, which it cannot say");
    let answer = store.head(&alice).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    // There is an end to that, too.
    is_stuck.store(false, Ordering::SeqCst);
    let free = async { while store.head(&alice).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(20), free).await.expect("its place is free again");
}

/// Lets the first of the polls from that one on come late, as on a machine that stood still.
async fn late<F: Future>(poll: usize, by: Duration, future: F) -> F::Output {
    let (mut future, mut polls) = (pin!(future), 0);
    poll_fn(move |context| {
        if polls == poll {
            std::thread::sleep(by);
        }
        polls += 1;
        future.as_mut().poll(context)
    })
    .await
}

#[tokio::test]
async fn a_connection_that_the_server_has_ended_is_not_lent_out_again() {
    for poll in 0..14 {
        let options = PostgresOptions {
            max_connections: 1,
            statement_timeout: Duration::from_millis(100),
            ..PostgresOptions::default()
        };
        let fixture = Fixture::with(options).await;
        look(&fixture.store).await;
        // A transaction of several statements, in one of whose pauses the server gives up.
        let _ = late(poll, Duration::from_millis(250), fixture.store.refresh_catalog()).await;
        look(&fixture.store).await;
    }
}

#[tokio::test]
async fn closing_waits_for_the_calls_that_are_under_way_and_later_ones_fail() {
    let fixture = Fixture::with(PostgresOptions { max_connections: 2, ..PostgresOptions::default() }).await;
    let (alice, mut sql) = (user("alice"), fixture.sql().await);
    join_all((0..2).map(|_| look(&fixture.store))).await;
    apply(&fixture.store, &alice, "phone", [insert(1, 1)]).await.unwrap();
    let (next, _) = plan(&fixture.store, &alice, &upload_of("phone", [insert(2, 2)])).await;
    sqlx::raw_sql("BEGIN; SELECT FROM sync.user_stream FOR UPDATE").execute(&mut sql).await.unwrap();
    let store = fixture.store.clone();
    let commit = tokio::spawn(async move { store.commit(&user("alice"), next).await });
    let mut watching = fixture.sql().await;
    wait_until_blocked(&mut watching).await;
    watching.close().await.unwrap();
    let store = fixture.store.clone();
    let closing = tokio::spawn(async move { store.close().await });
    tokio::task::yield_now().await;
    let late = fixture.store.head(&alice).await;
    assert!(matches!(late, Err(StoreError::Unavailable(_))), "{late:?}");
    assert!(!closing.is_finished() && !commit.is_finished());
    sqlx::raw_sql("COMMIT").execute(&mut sql).await.unwrap();
    commit.await.unwrap().unwrap();
    closing.await.unwrap();
    backends(&mut sql, 0).await;
    // None had to find out by itself that its client is gone.
    let abandoned = "SELECT sessions_abandoned FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(sqlx::query_scalar::<_, i64>(abandoned).fetch_one(&mut sql).await.unwrap(), 0);
}
