//! The use case against mocks: what is asked of the store, how often, and what must not be asked.

use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use mockall::Sequence;
use outrigger_domain::change::OpKind;
use outrigger_domain::{
    Catalog, Decision, Epoch, Plan, Reason, Reset, RowState, RowVersion, ServerSeq, Settled, Snapshot, SourceId,
    StreamHead, Table, TableName, Unlogged,
};
use tokio::sync::Notify;

use super::*;
use crate::hub::Hub;
use crate::ports::clock::MockClock;
use crate::ports::notifier::MockNotifier;
use crate::ports::store::MockSyncStore;

fn user() -> UserId {
    UserId::parse("alice").unwrap()
}

/// A store that assumes nothing.
fn mock() -> MockSyncStore {
    let mut store = MockSyncStore::new();
    store.expect_assume().returning(|_, _| None);
    store
}

fn service(store: impl SyncStore + 'static) -> UploadService {
    telling(store, Hub::default())
}

fn telling(store: impl SyncStore + 'static, notifier: impl Notifier + 'static) -> UploadService {
    let mut clock = MockClock::new();
    clock.expect_now().return_const(Timestamp::UNIX_EPOCH);
    let catalog = Catalog::new([Table::new(TableName::parse(None, "users").unwrap())]);
    let limits = UploadLimits { changes_max: 3, ..UploadLimits::default() };
    let ports = UploadPorts { store: Arc::new(store), clock: Arc::new(clock), notifier: Arc::new(notifier) };
    UploadService::new(ports, SharedCatalog::new(catalog), limits)
}

/// An upload of inserts with these numbers, each of a row of its own.
fn inserts(service: &UploadService, ids: impl IntoIterator<Item = i64>) -> Upload {
    let payload = serde_json::value::RawValue::from_string("{}".into()).unwrap();
    let submission = |id: i64| {
        service.admit(RawChange {
            source_change_id: id,
            schema: None,
            table: "users",
            op: "INSERT",
            pk: &format!("00000000-0000-0000-0000-{id:012}"),
            server_version: 0,
            payload: Some(&payload),
        })
    };
    let submissions = ids.into_iter().map(submission).collect();
    Upload { source: SourceId::parse("phone").unwrap(), submissions, atomic: false, epoch: None }
}

fn at(seq: i64) -> Snapshot {
    Snapshot { head: StreamHead { seq: ServerSeq(seq), ..StreamHead::default() }, ..Snapshot::default() }
}

fn broken() -> StoreError {
    StoreError::Backend("broken".into())
}

#[tokio::test]
async fn an_upload_is_one_load_and_one_commit() {
    let mut store = mock();
    store.expect_load().once().returning(|_, _| Ok(at(7)));
    let expected = |user_id: &UserId, plan: &Plan| {
        *user_id == user() && plan.head.seq.0 == 7 && plan.log.len() == 2 && plan.at == Timestamp::UNIX_EPOCH
    };
    store.expect_commit().once().withf(expected).returning(|_, _| Ok(()));
    let service = service(store);
    let verdict = service.upload(&user(), inserts(&service, [1, 2])).await.unwrap();
    assert_eq!(verdict.head.seq.0, 9);
    assert_eq!(verdict.decisions, vec![Decision::Applied { version: Some(RowVersion(1)) }; 2]);
}

/// A store that assumes that the stream ends at 7 and the devices are right.
fn trusting() -> MockSyncStore {
    let mut store = MockSyncStore::new();
    let head = at(7).head;
    store.expect_assume().once().returning(move |_, wanted| Snapshot::assumed(head, wanted));
    store
}

#[tokio::test]
async fn what_is_assumed_is_written_without_a_look() {
    let mut store = trusting();
    store.expect_load().never();
    let expected = |_: &UserId, plan: &Plan| plan.is_assumed && plan.head.seq.0 == 7 && plan.log.len() == 2;
    store.expect_commit().once().withf(expected).returning(|_, _| Ok(()));
    let mut notifier = MockNotifier::new();
    notifier.expect_announce().once().withf(|news| (news.after.0, news.head.0) == (7, 9)).return_const(());
    let service = telling(store, notifier);
    let verdict = service.upload(&user(), inserts(&service, [1, 2])).await.unwrap();
    assert_eq!(verdict.head.seq.0, 9);
    assert_eq!(verdict.decisions, vec![Decision::Applied { version: Some(RowVersion(1)) }; 2]);
}

#[tokio::test(start_paused = true)]
async fn what_was_wrong_to_assume_is_decided_anew_at_once() {
    let mut store = trusting();
    let mut sequence = Sequence::new();
    let commit = |store: &mut MockSyncStore, sequence: &mut Sequence, is_assumed: bool| {
        let expected = move |_: &UserId, plan: &Plan| plan.is_assumed == is_assumed;
        let answer = move || if is_assumed { Err(StoreError::Contention) } else { Ok(()) };
        store.expect_commit().once().withf(expected).in_sequence(sequence).returning(move |_, _| answer());
    };
    commit(&mut store, &mut sequence, true);
    store.expect_load().once().in_sequence(&mut sequence).returning(|_, _| Ok(at(8)));
    commit(&mut store, &mut sequence, false);
    let (service, started) = (service(store), tokio::time::Instant::now());
    let verdict = service.upload(&user(), inserts(&service, [1])).await.unwrap();
    assert_eq!((verdict.head.seq.0, started.elapsed()), (9, Duration::ZERO));
}

/// A change that is not applied may be decided only by what is there: here it is a copy within one upload, one that is
/// malformed, one that names another epoch, and none at all.
#[tokio::test]
async fn only_what_is_applied_as_a_whole_is_written_on_an_assumption() {
    for kind in 0..4 {
        let mut store = trusting();
        store.expect_load().once().returning(|_, _| Ok(at(7)));
        let expected = |_: &UserId, plan: &Plan| !plan.is_assumed;
        store.expect_commit().times(usize::from(kind < 2)).withf(expected).returning(|_, _| Ok(()));
        let service = service(store);
        let upload = match kind {
            0 => Upload { submissions: inserts(&service, [1, 1]).submissions, ..inserts(&service, []) },
            1 => inserts(&service, [1, 0]),
            2 => Upload { epoch: Some(Epoch(uuid::Uuid::from_u128(1))), ..inserts(&service, [1]) },
            _ => inserts(&service, []),
        };
        assert_eq!(service.upload(&user(), upload).await.is_ok(), kind != 2, "kind {kind}");
    }
}

#[tokio::test]
async fn an_error_is_not_taken_for_a_wrong_assumption() {
    let mut store = trusting();
    store.expect_load().never();
    store.expect_commit().once().returning(|_, _| Err(StoreError::Unavailable("down".into())));
    let service = service(store);
    service.upload(&user(), inserts(&service, [1])).await.unwrap_err();
}

#[tokio::test]
async fn an_upload_that_names_another_epoch_is_refused_and_the_next_is_not() {
    let mut store = mock();
    store.expect_load().times(2).returning(|_, _| Ok(at(7)));
    store.expect_commit().once().returning(|_, _| Ok(()));
    let service = service(store);
    let named = |id: u128| Upload { epoch: Some(Epoch(uuid::Uuid::from_u128(id))), ..inserts(&service, [1]) };
    let refused = service.upload(&user(), named(1)).await.unwrap_err();
    assert!(matches!(refused, SyncError::Reset(Reset::EpochChanged { epoch }) if epoch == Epoch::default()));
    assert!(service.upload(&user(), named(0)).await.is_ok());
}

#[tokio::test]
async fn a_commit_is_announced_and_nothing_else_is() {
    let mut store = mock();
    store.expect_load().returning(|_, _| Ok(at(7)));
    let mut answers = vec![Ok(()), Err(StoreError::Unavailable("down".into()))].into_iter();
    store.expect_commit().times(2).returning(move |_, _| answers.next().unwrap());
    let mut notifier = MockNotifier::new();
    let only = Some(SourceId::parse("phone").unwrap());
    let expected = News { user: user(), after: ServerSeq(7), head: ServerSeq(9), only };
    notifier.expect_announce().once().withf(move |news| *news == expected).return_const(());
    let service = telling(store, notifier);
    service.upload(&user(), inserts(&service, [1, 2])).await.unwrap();
    service.upload(&user(), inserts(&service, [3])).await.unwrap_err();
    service.upload(&user(), inserts(&service, [0])).await.unwrap();
}

#[tokio::test]
async fn a_conflict_is_written_once_and_announced_to_nobody() {
    let service = |known: bool, commits: usize| {
        let mut store = mock();
        store.expect_load().once().returning(move |_, wanted| {
            let row = wanted.rows[0].key.clone();
            let unlogged =
                Unlogged { op: OpKind::Insert, row: row.clone(), base: RowVersion(0), settled: Settled::Conflict };
            let mut snapshot = at(7);
            snapshot.rows.insert(row, (RowVersion(2), RowState::Deleted));
            snapshot.unlogged.extend(known.then(|| (wanted.keys[0].clone(), unlogged)));
            Ok(snapshot)
        });
        let expected = |_: &UserId, plan: &Plan| plan.log.is_empty() && plan.unlogged.len() == 1;
        store.expect_commit().times(commits).withf(expected).returning(|_, _| Ok(()));
        let mut notifier = MockNotifier::new();
        notifier.expect_announce().never();
        telling(store, notifier)
    };
    for (known, commits) in [(false, 1), (true, 0)] {
        let service = service(known, commits);
        let verdict = service.upload(&user(), inserts(&service, [1])).await.unwrap();
        assert!(matches!(&verdict.decisions[..], [Decision::Conflict(row)] if row.version.0 == 2), "{verdict:?}");
        assert_eq!(verdict.head.seq.0, 7);
    }
}

#[tokio::test]
async fn nothing_to_write_is_not_committed() {
    let mut store = mock();
    store.expect_load().once().returning(|_, _| Ok(at(7)));
    store.expect_commit().never();
    let service = service(store);
    let verdict = service.upload(&user(), inserts(&service, [0, -1])).await.unwrap();
    assert_eq!(verdict.head.seq.0, 7);
}

#[tokio::test]
async fn an_oversized_upload_asks_for_no_row() {
    let mut store = mock();
    store.expect_load().once().withf(|_, wanted| *wanted == Wanted::default()).returning(|_, _| Ok(at(7)));
    store.expect_commit().never();
    let service = service(store);
    let verdict = service.upload(&user(), inserts(&service, 1..=4)).await.unwrap();
    let refused =
        |decision: &Decision| matches!(decision, Decision::Invalid(why) if why.reason == Reason::BatchTooLarge);
    assert!(verdict.decisions.iter().all(refused) && verdict.decisions.len() == 4);
}

#[tokio::test(start_paused = true)]
async fn contention_is_planned_anew_on_what_is_there_now() {
    let mut store = mock();
    let mut sequence = Sequence::new();
    for seq in [7, 8] {
        store.expect_load().once().in_sequence(&mut sequence).returning(move |_, _| Ok(at(seq)));
        let answer = move || if seq == 7 { Err(StoreError::Contention) } else { Ok(()) };
        let matches = move |_: &UserId, plan: &Plan| plan.head.seq.0 == seq;
        store.expect_commit().once().withf(matches).in_sequence(&mut sequence).returning(move |_, _| answer());
    }
    let service = service(store);
    let verdict = service.upload(&user(), inserts(&service, [1])).await.unwrap();
    assert_eq!(verdict.head.seq.0, 9);
}

#[tokio::test(start_paused = true)]
async fn contention_has_a_bound() {
    let mut store = mock();
    store.expect_load().times(ATTEMPTS_MAX as usize).returning(|_, _| Ok(at(7)));
    store.expect_commit().times(ATTEMPTS_MAX as usize).returning(|_, _| Err(StoreError::Contention));
    let service = service(store);
    let error = service.upload(&user(), inserts(&service, [1])).await.unwrap_err();
    assert!(matches!(&error, SyncError::Store(cause) if matches!(**cause, StoreError::Contention)), "{error:?}");
}

#[tokio::test]
async fn an_error_is_not_retried() {
    let mut store = mock();
    store.expect_load().times(2).returning(|_, _| Ok(at(7)));
    store.expect_commit().times(2).returning(|_, _| Err(StoreError::Unavailable("down".into())));
    let service = service(store);
    for _ in 0..2 {
        let error = service.upload(&user(), inserts(&service, [1])).await.unwrap_err();
        assert!(
            matches!(&error, SyncError::Store(cause) if matches!(**cause, StoreError::Unavailable(_))),
            "{error:?}"
        );
    }
}

/// Starts uploads behind one that is held in `load`, so that they form one round; gives their answers.
async fn behind_a_held_upload(service: UploadService, held: Arc<Notify>, ids: Vec<Vec<i64>>) -> Vec<Answer> {
    let ask = |ids: Vec<i64>| {
        let service = service.clone();
        tokio::spawn(async move { service.upload(&user(), inserts(&service, ids)).await })
    };
    let first = ask(vec![100]);
    tokio::task::yield_now().await;
    let waiting: Vec<_> = ids.into_iter().map(ask).collect();
    while service.inner.lanes.waiting(&user()) < waiting.len() {
        tokio::task::yield_now().await;
    }
    held.notify_one();
    first.await.unwrap().unwrap();
    let mut answers = Vec::new();
    for task in waiting {
        answers.push(task.await.unwrap());
    }
    answers
}

/// A store whose first load waits for the notification, and whose commit answers as told.
struct HeldStore<F> {
    held: Arc<Notify>,
    loads: AtomicUsize,
    commit: F,
}

#[async_trait::async_trait]
impl<F: Fn(&Plan) -> Result<(), StoreError> + Send + Sync> SyncStore for HeldStore<F> {
    async fn load(&self, _: &UserId, _: &Wanted) -> Result<Snapshot, StoreError> {
        if self.loads.fetch_add(1, Ordering::SeqCst) == 0 {
            self.held.notified().await;
        }
        Ok(at(0))
    }

    async fn commit(&self, _: &UserId, plan: Plan) -> Result<(), StoreError> {
        (self.commit)(&plan)
    }

    async fn page(
        &self,
        _: &UserId,
        _: &outrigger_domain::window::PageQuery,
    ) -> Result<outrigger_domain::window::Slice, StoreError> {
        unreachable!("an upload reads no page")
    }

    async fn head(&self, _: &UserId) -> Result<(StreamHead, outrigger_domain::Kept), StoreError> {
        unreachable!("an upload loads the stream's end with the rest")
    }

    async fn rows(
        &self,
        _: &UserId,
        _: &crate::ports::store::RowsQuery,
    ) -> Result<crate::ports::store::Rows, StoreError> {
        unreachable!("an upload reads no rows of a table")
    }

    async fn tables(&self, _: &UserId) -> Result<Vec<TableName>, StoreError> {
        unreachable!("an upload asks for no tables")
    }

    async fn ping(&self) -> Result<(), StoreError> {
        unreachable!("an upload does not ping")
    }
}

#[tokio::test]
async fn uploads_that_wait_are_written_together() {
    let held = Arc::new(Notify::new());
    let sizes = Arc::new(std::sync::Mutex::new(Vec::new()));
    let commit = {
        let sizes = Arc::clone(&sizes);
        move |plan: &Plan| {
            sizes.lock().unwrap().push(plan.log.len());
            Ok(())
        }
    };
    let service = service(HeldStore { held: Arc::clone(&held), loads: AtomicUsize::new(0), commit });
    let answers = behind_a_held_upload(service, held, vec![vec![1], vec![2, 3], vec![4]]).await;
    let heads: Vec<i64> = answers.into_iter().map(|answer| answer.unwrap().head.seq.0).collect();
    assert_eq!(heads, [1, 3, 4]);
    assert_eq!(*sizes.lock().unwrap(), [1, 4]);
}

#[tokio::test]
async fn an_upload_that_breaks_the_store_fails_alone() {
    let held = Arc::new(Notify::new());
    let chokes = |plan: &Plan| match plan.log.iter().any(|entry| entry.change.source_change_id.0 == 2) {
        true => Err(broken()),
        false => Ok(()),
    };
    let service = service(HeldStore { held: Arc::clone(&held), loads: AtomicUsize::new(0), commit: chokes });
    let answers = behind_a_held_upload(service, held, vec![vec![1], vec![2], vec![3]]).await;
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
}

#[tokio::test]
async fn a_panic_in_the_store_leaves_the_lane_open() {
    let mut store = mock();
    let mut sequence = Sequence::new();
    store.expect_load().once().in_sequence(&mut sequence).returning(|_, _| panic!("a planted defect"));
    store.expect_load().once().in_sequence(&mut sequence).returning(|_, _| Ok(at(0)));
    store.expect_commit().once().returning(|_, _| Ok(()));
    let service = service(store);
    let error = service.upload(&user(), inserts(&service, [1])).await.unwrap_err();
    assert!(matches!(&error, SyncError::Store(cause) if matches!(**cause, StoreError::Unavailable(_))), "{error:?}");
    assert!(service.upload(&user(), inserts(&service, [1])).await.is_ok());
}
