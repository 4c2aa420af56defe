//! Watching against mocks of the store, on a clock of the test's.

use std::sync::atomic::{AtomicI64, Ordering};

use futures::FutureExt;
use outrigger_domain::window::Slice;
use outrigger_domain::{Kept, StreamHead};

use super::*;
use crate::ports::clock::MockClock;
use crate::ports::notifier::{News, Notifier};
use crate::ports::store::MockSyncStore;

fn caller(expires_at: i64) -> Caller {
    let (user, source) = (UserId::parse("alice").unwrap(), SourceId::parse("phone").unwrap());
    Caller { user, source, expires_at: Timestamp::from_second(expires_at).unwrap(), is_admin: false }
}

fn head(seq: i64) -> StreamHead {
    StreamHead { seq: ServerSeq(seq), ..StreamHead::default() }
}

fn watch(store: MockSyncStore) -> (Watch, Hub, Drain) {
    let mut clock = MockClock::new();
    clock.expect_now().returning(|| Timestamp::from_second(1_000).unwrap());
    let (hub, drain) = (Hub::default(), Drain::default());
    (Watch::new(Arc::new(store), Arc::new(clock), hub.clone(), drain.clone()), hub, drain)
}

fn at(seq: i64) -> (Watch, Hub, Drain) {
    let mut store = MockSyncStore::new();
    store.expect_head().returning(move |_| Ok((head(seq), Kept { floor: ServerSeq(3), moved_at: ServerSeq(4) })));
    watch(store)
}

fn news(hub: &Hub, seq: i64, source: Option<&str>) {
    let only = source.map(|source| SourceId::parse(source).unwrap());
    hub.announce(News { user: caller(0).user, after: ServerSeq(seq - 1), head: ServerSeq(seq), only });
}

const EVERYTHING: WatchQuery = WatchQuery { after: None, epoch: None, include_self: false };

#[tokio::test(start_paused = true)]
async fn a_watcher_is_told_at_once_and_of_what_others_change() {
    let (watch, hub, _) = at(5);
    let mut watcher = watch.open(&caller(2_000), &EVERYTHING).await.unwrap();
    assert_eq!(watcher.next().await, Some(ServerSeq(5)));
    news(&hub, 6, Some("phone"));
    assert_eq!(watcher.next().now_or_never(), None);
    news(&hub, 7, Some("tablet"));
    news(&hub, 8, Some("phone"));
    assert_eq!(watcher.next().await, Some(ServerSeq(8)));
    assert_eq!(watcher.next().now_or_never(), None);
    let mut all = watch.open(&caller(2_000), &WatchQuery { include_self: true, ..EVERYTHING }).await.unwrap();
    assert_eq!(all.next().await, Some(ServerSeq(5)));
    news(&hub, 9, Some("phone"));
    assert_eq!(all.next().await, Some(ServerSeq(9)));
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_with_the_credentials() {
    let (watch, ..) = at(5);
    let began = Instant::now();
    let mut watcher = watch.open(&caller(1_060), &EVERYTHING).await.unwrap();
    assert_eq!(watcher.next().await, Some(ServerSeq(5)));
    assert_eq!(watcher.next().await, None);
    assert_eq!(began.elapsed().as_secs(), 60);
    let mut late = watch.open(&caller(900), &EVERYTHING).await.unwrap();
    assert_eq!((late.next().await, late.next().await), (Some(ServerSeq(5)), None));
    let mut for_ever = watch.open(&Caller { expires_at: Timestamp::MAX, ..caller(0) }, &EVERYTHING).await.unwrap();
    for_ever.next().await;
    assert!(for_ever.next().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_when_the_server_stops() {
    let (watch, hub, drain) = at(5);
    let mut watcher = watch.open(&caller(2_000), &EVERYTHING).await.unwrap();
    watcher.next().await;
    drain.begin();
    news(&hub, 6, None);
    assert_eq!(watcher.next().await, None);
}

#[tokio::test]
async fn a_device_that_cannot_go_on_is_told_so() {
    let (watch, ..) = at(5);
    let open = async |after, epoch: Option<u128>| {
        let epoch = epoch.map(|epoch| Epoch(uuid::Uuid::from_u128(epoch)));
        let query = WatchQuery { after: Some(ServerSeq(after)), epoch, include_self: false };
        match watch.open(&caller(2_000), &query).await {
            Ok(_) => None,
            Err(SyncError::Reset(reset)) => Some(reset),
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(open(6, None).await, Some(Reset::CursorAhead { head: ServerSeq(5) }));
    assert_eq!(open(2, None).await, Some(Reset::HistoryPruned { floor: ServerSeq(3) }));
    assert_eq!(open(5, Some(1)).await, Some(Reset::EpochChanged { epoch: Epoch::default() }));
    assert_eq!(open(3, Some(0)).await, None);
}

/// A store whose stream is as long as the number says; all of it is another device's.
fn growing() -> (MockSyncStore, Arc<AtomicI64>) {
    let length = Arc::new(AtomicI64::new(0));
    let (mut store, seen) = (MockSyncStore::new(), Arc::clone(&length));
    store.expect_page().returning(move |_, query| {
        let end = seen.load(Ordering::SeqCst);
        let changes = (query.after.0 + 1..=end).map(change).collect();
        Ok(Slice { head: head(end), changes, ..Slice::default() })
    });
    (store, length)
}

fn change(seq: i64) -> outrigger_domain::stream::StreamChange {
    outrigger_domain::stream::StreamChange {
        server_id: ServerSeq(seq),
        row: outrigger_domain::RowKey {
            table: outrigger_domain::TableName::parse(None, "users").unwrap(),
            pk: uuid::Uuid::nil(),
        },
        op: outrigger_domain::change::OpKind::Delete,
        payload: None,
        version: outrigger_domain::RowVersion(1),
        source: SourceId::parse("tablet").unwrap(),
        source_change_id: outrigger_domain::SourceChangeId(seq),
        at: Timestamp::UNIX_EPOCH,
    }
}

fn query(until: Option<i64>) -> PageQuery {
    let (after, until, exclude) = (ServerSeq(0), until.map(ServerSeq), Some(caller(0).source));
    PageQuery { after, until, limit: 10, schema: None, exclude, epoch: None }
}

#[tokio::test(start_paused = true)]
async fn a_page_is_held_until_there_is_something_in_it() {
    let (store, length) = growing();
    let (watch, hub, _) = watch(store);
    let (user, query) = (caller(0).user, query(None));
    let mut held = std::pin::pin!(watch.page(&user, &query, Duration::from_secs(30)));
    assert!(held.as_mut().now_or_never().is_none());
    // News of what is not in the page, for nobody's own changes are.
    news(&hub, 1, None);
    assert!(held.as_mut().now_or_never().is_none());
    length.store(2, Ordering::SeqCst);
    news(&hub, 2, Some("tablet"));
    assert_eq!(held.await.unwrap().changes.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_page_is_not_held_longer_than_asked_for_nor_by_a_server_that_stops() {
    let (store, _) = growing();
    let (watch, _, drain) = watch(store);
    let user = caller(0).user;
    let began = Instant::now();
    let page = watch.page(&user, &query(None), Duration::from_secs(30)).await.unwrap();
    assert_eq!((page.changes.len(), began.elapsed().as_secs()), (0, 30));
    // A frozen window does not grow.
    watch.page(&user, &query(Some(0)), Duration::from_secs(30)).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 30);
    // Who waits is let go, who comes later waits until nothing new comes, and then nobody does.
    for (tell, held_s) in [(Drain::begin as fn(&Drain), 5), (Drain::close, 5), (Drain::close, 0)] {
        let before = began.elapsed();
        let telling = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            tell(&drain);
        };
        let page = async {
            watch.page(&user, &query(None), Duration::from_secs(30)).await.unwrap();
            (began.elapsed() - before).as_secs()
        };
        assert_eq!(tokio::join!(page, telling).0, held_s);
    }
}

#[tokio::test(start_paused = true)]
async fn news_of_what_the_store_does_not_have_is_looked_for_once() {
    let (mut store, looks) = (MockSyncStore::new(), Arc::new(AtomicI64::new(0)));
    let seen = Arc::clone(&looks);
    store.expect_page().returning(move |_, _| {
        assert!(seen.fetch_add(1, Ordering::SeqCst) < 10, "it looks again and again");
        Ok(Slice { head: head(0), ..Slice::default() })
    });
    let (watch, hub, _) = watch(store);
    let (user, query) = (caller(0).user, query(None));
    let mut held = std::pin::pin!(watch.page(&user, &query, Duration::from_secs(30)));
    assert!(held.as_mut().now_or_never().is_none());
    // As from a database that has fallen back to a copy which lacks the last commits.
    news(&hub, 9, None);
    assert!(held.await.unwrap().changes.is_empty());
    assert_eq!(looks.load(Ordering::SeqCst), 2);
}
