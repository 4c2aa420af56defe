//! What the port promises to its caller and no device sees.

use std::sync::Arc;

use jiff::Timestamp;
use outrigger_application::StoreError;
use outrigger_application::ports::store::SyncStore;
use outrigger_domain::limits::UploadLimits;
use outrigger_domain::stream::{PayloadWanted, WantedRow};
use outrigger_domain::{Plan, Planner, RowKey, RowState, RowVersion, Snapshot, TableName, Upload, UserId, Wanted};

use crate::world::*;

async fn snapshot(store: &dyn SyncStore, user: &UserId, upload: &Upload) -> Snapshot {
    store.load(user, &Wanted::of([upload])).await.expect("storage works")
}

fn plan(snapshot: Snapshot, upload: &Upload) -> Plan {
    let mut planner = Planner::new(snapshot, UploadLimits::default());
    planner.decide(upload).expect("no epoch is named");
    planner.finish(Timestamp::UNIX_EPOCH)
}

async fn rows(store: &dyn SyncStore, user: &UserId, numbers: impl IntoIterator<Item = u128>) -> Snapshot {
    let table = TableName::parse(None, "users").expect("a good name");
    let key = |number| RowKey { table: table.clone(), pk: pk(number) };
    let rows =
        numbers.into_iter().map(|number| WantedRow { key: key(number), payload: PayloadWanted::Always }).collect();
    store.load(user, &Wanted { rows, ..Wanted::default() }).await.expect("storage works")
}

/// Compare and swap.
pub async fn a_commit_on_a_moved_stream_leaves_no_trace<B: Backend>(world: &World<B>) {
    let (phone, store) = (world.device("alice", "phone"), world.store());
    phone.apply([insert(1, pk(1), r#"{"n":1}"#), insert(2, pk(2), "{}")]).await;
    let upload =
        phone.request(&[update(3, pk(1), 1, r#"{"n":3}"#), delete(4, pk(2), 1), insert(5, pk(3), "{}")], false);
    let stale = plan(snapshot(store, &phone.user, &upload).await, &upload);
    phone.apply([insert(6, pk(4), "{}")]).await;
    let before = rows(store, &phone.user, 1..=4).await;
    let answer = store.commit(&phone.user, stale).await;
    assert!(matches!(answer, Err(StoreError::Contention)), "{answer:?}");
    assert_eq!(rows(store, &phone.user, 1..=4).await, before);
    assert_eq!(phone.stream().await.len(), 3);
    // Nothing of it is remembered: the same upload, planned anew, applies.
    let fresh = plan(snapshot(store, &phone.user, &upload).await, &upload);
    store.commit(&phone.user, fresh).await.expect("the stream has not moved");
    assert_eq!(phone.stream().await.len(), 6);
}

/// Compare and swap, when the user is new.
pub async fn a_first_commit_on_a_started_stream_is_contention<B: Backend>(world: &World<B>) {
    let (phone, store) = (world.device("alice", "phone"), world.store());
    let (one, two) = (phone.request(&[insert(1, pk(1), "{}")], false), phone.request(&[insert(2, pk(2), "{}")], false));
    let (one, two) = (plan(Snapshot::default(), &one), plan(Snapshot::default(), &two));
    store.commit(&phone.user, one.clone()).await.expect("the stream is empty");
    for again in [one, two] {
        assert!(matches!(store.commit(&phone.user, again).await, Err(StoreError::Contention)));
    }
    assert_eq!(phone.stream().await.len(), 1);
}

/// A snapshot holds the wanted rows and keys, as they are.
pub async fn load_answers_what_is_wanted_and_no_more<B: Backend>(world: &World<B>) {
    let (phone, tablet, store) = (world.device("alice", "phone"), world.device("alice", "tablet"), world.store());
    phone
        .apply([insert(1, pk(1), r#"{"n":1}"#), insert(2, pk(2), "{}"), delete(3, pk(2), 1), insert(4, pk(4), "{}")])
        .await;
    tablet.apply([insert(1, pk(5), "{}")]).await;
    let upload =
        phone.request(&[update(1, pk(1), 1, "{}"), update(9, pk(2), 1, "{}"), update(2, pk(3), 1, "{}")], false);
    let answer = snapshot(store, &phone.user, &upload).await;
    assert_eq!(answer.head.seq.0, 5);
    let mut seen: Vec<_> = answer.rows.iter().map(|(key, (version, state))| (key.pk, version.0, state)).collect();
    seen.sort_by_key(|(pk, ..)| *pk);
    let full = outrigger_domain::Payload::from_text(r#"{"n":1}"#.into()).expect("an object");
    // The payload may be left out where the change names the row's version.
    assert!(seen[0] == (pk(1), 1, &RowState::Unloaded) || seen[0] == (pk(1), 1, &RowState::Live(full)), "{seen:?}");
    assert_eq!(seen[1..], [(pk(2), 2, &RowState::Deleted)]);
    let mut keys: Vec<_> =
        answer.logged.iter().map(|((source, id), logged)| (source.as_str(), id.0, logged.version)).collect();
    keys.sort();
    assert_eq!(keys, [("phone", 1, RowVersion(1)), ("phone", 2, RowVersion(1))]);
    // Where the versions differ, or none was named, the payload is there.
    let other = snapshot(store, &phone.user, &phone.request(&[update(9, pk(1), 7, "{}")], false)).await;
    assert!(other.rows.values().all(|(_, state)| matches!(state, RowState::Live(_))));
    assert!(rows(store, &phone.user, [1]).await.rows.values().all(|(_, state)| matches!(state, RowState::Live(_))));
    let nothing = store.load(&phone.user, &Wanted::default()).await.expect("storage works");
    assert!(nothing.rows.is_empty() && nothing.logged.is_empty());
}

/// A full batch, some of it on known rows and tombstones.
pub async fn a_large_upload_is_loaded_and_written<B: Backend>(world: &World<B>) {
    let phone = Arc::new(world.device("alice", "phone"));
    let count = UPLOAD_CHANGES_MAX as i64;
    let first: Vec<_> = (1..=count).map(|n| insert(n, pk(n as u128), format!("{{\"n\":{n}}}"))).collect();
    assert_eq!(phone.apply(&first).await, vec![1; first.len()]);
    let second: Vec<_> = (1..=count)
        .map(|n| match n % 3 {
            0 => delete(count + n, pk(n as u128), 1),
            1 => update(count + n, pk(n as u128), 1, "{}"),
            _ => insert(count + n, pk((count + n) as u128), "{}"),
        })
        .collect();
    let expected: Vec<i64> = (1..=count).map(|n| if n % 3 == 2 { 1 } else { 2 }).collect();
    assert_eq!(phone.apply(&second).await, expected);
    let state = rows(world.store(), &phone.user, 1..=2 * count as u128).await;
    assert_eq!(state.rows.len() as i64, count + (1..=count).filter(|n| n % 3 == 2).count() as i64);
    let deleted = state.rows.values().filter(|(_, state)| *state == RowState::Deleted).count();
    assert_eq!(deleted as i64, count / 3);
    assert_eq!(phone.stream().await.len() as i64, 2 * count);
}

/// `ping`
pub async fn storage_answers<B: Backend>(world: &World<B>) {
    world.store().ping().await.expect("storage works");
}
