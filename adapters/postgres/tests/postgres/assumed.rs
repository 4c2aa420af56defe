//! Commits on what was assumed: all that a look would have told is found by the commit itself.

use outrigger_application::{StoreError, SyncStore};
use outrigger_domain::limits::UploadLimits;
use outrigger_domain::{Change, Op, Plan, Planner, UserId, Wanted};
use outrigger_postgres::{PostgresOptions, PostgresStore};

use crate::support::{Fixture, apply, change, insert, payload, plan, upload_of, user};

/// A user whose stream ends at 3, with rows 1 and 2 live and row 3 deleted.
async fn fixture() -> Fixture {
    let fixture = Fixture::new().await;
    let alice = user("alice");
    apply(&fixture.store, &alice, "phone", [insert(1, 1), insert(2, 2)]).await.unwrap();
    apply(&fixture.store, &alice, "phone", [insert(3, 3), change(4, 3, 1, Op::Delete)]).await.unwrap();
    fixture
}

/// Decides on what the store assumes.
pub(crate) fn assumed(store: &PostgresStore, user: &UserId, changes: impl IntoIterator<Item = Change>) -> Plan {
    let upload = upload_of("phone", changes);
    let snapshot = store.assume(user, &Wanted::of([&upload])).expect("the store has written last");
    let mut planner = Planner::new(snapshot, UploadLimits::default());
    let verdict = planner.decide(&upload).unwrap();
    assert!(verdict.decisions.iter().all(|decision| decision.is_applied()), "{verdict:?}");
    planner.finish("2025-08-08T07:01:00.123456Z".parse().unwrap())
}

fn update(number: i64, n: u128, base: i64) -> Change {
    change(number, n, base, Op::Update(payload(r#"{"text":"new"}"#)))
}

/// A single change, and several, of each kind.
fn uploads() -> Vec<Vec<Change>> {
    vec![
        vec![insert(11, 11)],
        vec![update(11, 1, 1)],
        vec![change(11, 1, 1, Op::Delete)],
        vec![insert(11, 11), insert(12, 12)],
        vec![update(11, 1, 1), change(12, 2, 1, Op::Delete), insert(14, 14)],
    ]
}

#[tokio::test]
async fn a_right_one_writes_what_a_look_and_a_commit_write() {
    for changes in uploads() {
        let (looking, assuming, alice) = (fixture().await, fixture().await, user("alice"));
        let (planned, _) = plan(&looking.store, &alice, &upload_of("phone", changes.clone())).await;
        looking.store.commit(&alice, planned).await.unwrap();
        let planned = assumed(&assuming.store, &alice, changes);
        assert!(planned.is_assumed);
        assuming.store.commit(&alice, planned).await.unwrap();
        assert_eq!(assuming.contents().await, looking.contents().await);
    }
}

#[tokio::test]
async fn a_wrong_one_writes_nothing() {
    // What is changed behind the store's back, none of which moves the end of the stream. All uploads have change 11.
    let everything = [
        "UPDATE sync.server_change_log SET source_change_id = 11 WHERE server_id = 1",
        "INSERT INTO sync.sync_pruned_key
         VALUES ('alice', 'phone', 11, 'INSERT', 'public', 'notes', gen_random_uuid(), NULL, 1, now(), NULL)",
        "INSERT INTO sync.sync_pruned_key
         VALUES ('alice', 'phone', 11, 'INSERT', 'public', 'notes', gen_random_uuid(), NULL, 1, now(), 'conflict')",
        "INSERT INTO sync.sync_source (user_id, source_id, forgotten_id) VALUES ('alice', 'phone', 11)",
        "UPDATE sync.user_stream SET epoch = gen_random_uuid()",
        "UPDATE sync.sync_epoch SET epoch = gen_random_uuid()",
        "UPDATE sync.user_stream SET last_server_id = last_server_id + 1",
        "UPDATE sync.user_stream SET last_server_id = last_server_id - 1",
        "DELETE FROM sync.user_stream",
    ];
    let of_known = [
        "UPDATE sync.sync_row_meta SET server_version = 2",
        "UPDATE sync.sync_row_meta SET server_version = 0",
        "UPDATE sync.sync_row_meta SET deleted = true",
        "DELETE FROM sync.sync_row_meta",
    ];
    let of_new = ["INSERT INTO sync.sync_row_meta
                   SELECT user_id, schema_name, table_name, n::uuid, 1, deleted, updated_at
                   FROM sync.sync_row_meta
                   CROSS JOIN (VALUES ('00000000-0000-0000-0000-00000000000b'), ('00000000-0000-0000-0000-00000000000c'),
                                      ('00000000-0000-0000-0000-00000000000e')) v (n)
                   WHERE pk_uuid = '00000000-0000-0000-0000-000000000001'"];
    let alice = user("alice");
    for changes in uploads() {
        let (knows, makes) =
            (changes.iter().any(|change| change.base.0 > 0), changes.iter().any(|change| change.base.0 == 0));
        let faults = everything.iter().chain(of_known.iter().filter(|_| knows)).chain(of_new.iter().filter(|_| makes));
        for fault in faults {
            let fixture = fixture().await;
            let planned = assumed(&fixture.store, &alice, changes.clone());
            fixture.execute(fault).await;
            let before = fixture.contents().await;
            let answer = fixture.store.commit(&alice, planned).await;
            assert!(matches!(answer, Err(StoreError::Contention)), "{changes:?} after {fault}: {answer:?}");
            assert_eq!(fixture.contents().await, before, "{changes:?} after {fault}");
        }
    }
}

/// What belongs to another user, or to numbers below, is nobody's concern here.
#[tokio::test]
async fn what_is_anothers_does_not_matter() {
    let alice = user("alice");
    for changes in uploads() {
        let fixture = fixture().await;
        let planned = assumed(&fixture.store, &alice, changes.clone());
        fixture
            .execute(
                "INSERT INTO sync.sync_pruned_key VALUES
                     ('bob', 'phone', 11, 'INSERT', 'public', 'notes', gen_random_uuid(), NULL, 1, now(), NULL),
                     ('alice', 'laptop', 11, 'INSERT', 'public', 'notes', gen_random_uuid(), NULL, 1, now(), NULL),
                     ('alice', 'phone', 10, 'INSERT', 'public', 'notes', gen_random_uuid(), NULL, 1, now(), NULL);
                 INSERT INTO sync.sync_source (user_id, source_id, forgotten_id)
                 VALUES ('alice', 'phone', 10), ('alice', 'laptop', 90), ('bob', 'phone', 90)",
            )
            .await;
        let answer = fixture.store.commit(&alice, planned).await;
        assert!(answer.is_ok(), "{changes:?}: {answer:?}");
    }
}

/// The rows that a statement sees are those at its start: it must not take what it saw then for what is there once it has
/// waited for another.
#[tokio::test]
async fn one_that_waited_for_another_sees_that_it_has_lost() {
    let others = [
        "UPDATE sync.user_stream SET last_server_id = last_server_id + 1",
        "UPDATE sync.user_stream SET epoch = gen_random_uuid()",
    ];
    for changes in uploads() {
        for other in others {
            let fixture = fixture().await;
            let planned = assumed(&fixture.store, &user("alice"), changes.clone());
            fixture.loses_to(planned, other).await;
        }
    }
}

/// Two nodes that take turns with one user, each of which last knew another end.
#[tokio::test]
async fn another_node_is_noticed() {
    let (fixture, alice) = (fixture().await, user("alice"));
    let other = PostgresStore::connect(fixture.database.url(), PostgresOptions::default()).await.unwrap();
    let planned = assumed(&fixture.store, &alice, [insert(11, 11)]);
    apply(&other, &alice, "laptop", [insert(1, 21)]).await.unwrap();
    assert!(matches!(fixture.store.commit(&alice, planned).await, Err(StoreError::Contention)));
    let upload = upload_of("phone", [insert(11, 11)]);
    assert_eq!(fixture.store.assume(&alice, &Wanted::of([&upload])), None, "it has been wrong");
    apply(&fixture.store, &alice, "phone", [insert(11, 11)]).await.unwrap();
}
