//! Idempotency keys in the long run, and what is remembered of the devices.

use outrigger_application::ports::projection::{FailureFilter, Retried};
use outrigger_application::{Caller, Clock};
use outrigger_domain::{Decision, ServerSeq, TableName};

use crate::world::*;

/// A user's stream with an INSERT 1, an UPDATE 2 and a DELETE 3 of a row that is forgotten, and their keys with it if
/// `keys` says so.
async fn forgotten<B: LongLived>(world: &World<B>, keys: bool) -> Device {
    let phone = world.device("alice", "phone");
    phone.apply([insert(1, pk(1), "{}"), update(2, pk(1), 1, "{}"), delete(3, pk(1), 2)]).await;
    world.clock.pass_days(91);
    let report = world.sweep().await;
    assert_eq!((report.superseded, report.tombstones), (2, 1));
    world.clock.pass_days(if keys { 31 } else { 29 });
    assert_eq!(world.sweep().await.keys, if keys { 3 } else { 0 });
    phone
}

/// `retention.keys_after`
pub async fn a_key_outlives_its_entry_and_its_row<B: LongLived>(world: &World<B>) {
    let phone = forgotten(world, false).await;
    let replay = phone.upload([insert(1, pk(1), "{}"), update(2, pk(1), 1, "{}"), delete(3, pk(1), 2)]).await;
    assert_eq!(versions(&replay), [1, 2, 3]);
    assert!(phone.stream().await.is_empty());
    // Of a row that is there every key is kept, however old.
    let tablet = world.device("alice", "tablet");
    tablet.apply([insert(1, pk(2), "{}"), update(2, pk(2), 1, "{}")]).await;
    world.clock.pass_days(10);
    world.sweep().await;
    world.clock.pass_days(1_000);
    world.sweep().await;
    assert_eq!(tablet.apply([insert(1, pk(2), "{}")]).await, [1]);
}

/// Neither a second application nor a resurrection.
pub async fn a_replay_of_a_forgotten_change_is_a_conflict<B: LongLived>(world: &World<B>) {
    let phone = forgotten(world, true).await;
    let replays = [insert(1, pk(1), "{}"), update(2, pk(1), 1, "{}"), delete(3, pk(1), 2)];
    let is_conflict = |decision: &Decision, version: i64| match decision {
        Decision::Conflict(row) => row.version.0 == version,
        _ => false,
    };
    for change in &replays {
        let verdict = phone.upload([change.clone()]).await;
        assert!(is_conflict(&verdict.decisions[0], 0), "{verdict:?}");
    }
    let together = phone.upload(&replays).await;
    assert!(together.decisions.iter().all(|decision| is_conflict(decision, 0)), "{together:?}");
    let atomic = phone.upload_atomic(&replays).await;
    assert!(!atomic.accepted && atomic.decisions.iter().all(|decision| is_conflict(decision, 0)), "{atomic:?}");
    assert!(phone.stream().await.is_empty());
    // The row is made again, and is at the version that an old change names: that must not fit.
    assert_eq!(phone.apply([insert(4, pk(1), r#"{"new":1}"#)]).await, [1]);
    let verdict = phone.upload([update(2, pk(1), 1, "{}")]).await;
    assert_eq!(verdict.decisions, [server_row(1, 1, Some(r#"{"new":1}"#))]);
    assert_eq!(phone.apply([update(5, pk(1), 1, "{}")]).await, [2]);
    // A new change whose number lies among the forgotten ones cannot be told from a replay.
    let verdict = phone.upload([insert(2, pk(9), "{}")]).await;
    assert!(is_conflict(&verdict.decisions[0], 0), "{verdict:?}");
    assert_eq!(phone.rows(10).await.0.len(), 1);
}

/// Numbers are each source's own, and each user's.
pub async fn a_forgotten_number_changes_nothing_for_other_sources<B: LongLived>(world: &World<B>) {
    forgotten(world, true).await;
    assert_eq!(world.device("alice", "tablet").apply([insert(1, pk(1), "{}")]).await, [1]);
    assert_eq!(world.device("bob", "phone").apply([insert(1, pk(1), "{}")]).await, [1]);
}

fn caller(device: &Device) -> Caller {
    Caller {
        user: device.user.clone(),
        source: device.source.clone(),
        expires_at: jiff::Timestamp::MAX,
        is_admin: false,
    }
}

/// `GET /sync/source`
pub async fn a_source_is_told_its_highest_number_whatever_was_forgotten<B: LongLived>(world: &World<B>) {
    let contacts = world.contacts().await;
    let highest = async |device: &Device| {
        contacts.source(&caller(device)).await.expect("storage works").highest_source_change_id.0
    };
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    assert_eq!(highest(&phone).await, 0);
    phone.apply([insert(7, pk(1), "{}"), delete(5, pk(1), 1)]).await;
    assert_eq!((highest(&phone).await, highest(&tablet).await), (7, 0));
    assert_eq!(highest(&world.device("bob", "phone")).await, 0);
    world.clock.pass_days(91);
    world.sweep().await;
    assert_eq!(highest(&phone).await, 7);
    world.clock.pass_days(31);
    assert_eq!(world.sweep().await.keys, 2);
    assert_eq!((highest(&phone).await, highest(&tablet).await), (7, 0));
}

/// First and last contact, and the cursor.
pub async fn contacts_are_remembered<B: LongLived>(world: &World<B>) {
    let (here, there) = (world.contacts().await, world.contacts().await);
    let phone = caller(&world.device("alice", "phone"));
    let noon = world.clock.now();
    here.note(&phone, Some(ServerSeq(3)));
    here.flush().await.expect("storage works");
    world.clock.pass_days(1);
    there.note(&phone, None);
    there.flush().await.expect("storage works");
    let record = here.source(&phone).await.expect("storage works");
    let later = world.clock.now();
    assert_eq!((record.first_contact, record.last_contact), (Some(noon), Some(later)));
    assert_eq!(record.cursor, Some(ServerSeq(3)));
    let unknown = here.source(&caller(&world.device("alice", "tablet"))).await.expect("storage works");
    assert_eq!((unknown.first_contact, unknown.cursor), (None, None));
}

/// A failure that outlived its row could never be made good.
pub async fn a_forgotten_row_leaves_no_failures_behind<B: Projecting + LongLived>(world: &World<B>) {
    let store = world.backend.projection().await;
    let (alice, bob) = (world.device("alice", "phone"), world.device("bob", "phone"));
    alice.apply([insert(1, pk(1), "{}"), insert(2, pk(2), "{}")]).await;
    bob.apply([insert(1, pk(1), "{}")]).await;
    bob.apply([insert(2, pk(2), "{}")]).await;
    bob.apply([delete(3, pk(1), 1)]).await;
    let left = async || -> Vec<i64> {
        let found = store.failures(&bob.user, &FailureFilter::default(), 0, 10).await.expect("storage works");
        found.iter().map(|failure| failure.id).collect()
    };
    assert_eq!(left().await, [1, 2, 3]);
    world.clock.pass_days(91);
    assert_eq!(world.sweep().await.tombstones, 1);
    assert_eq!(left().await, [2]);
    for id in [1, 3] {
        assert_eq!(store.retry(&bob.user, id).await.expect("storage works"), Retried::Unknown);
    }
    let all = store.all_failures(&FailureFilter::default(), None, 10).await.expect("storage works");
    assert_eq!(all.iter().map(|failure| (failure.row.pk, failure.id)).collect::<Vec<_>>(), [(pk(2), 2)]);
    // A rebuild has nothing to do with it either: two rows of Alice's are there, and one of Bob's that fails.
    let users = TableName::parse_qualified("users").expect("a good name");
    let step = store.rebuild(&users, None, 10, world.clock.now()).await.expect("storage works");
    assert_eq!((step.projected, step.failed, step.next), (2, 1, None));
    assert_eq!(left().await, [2]);
    // The row begins anew, and so do its failures.
    bob.apply([insert(4, pk(1), "{}")]).await;
    let failures = store.failures(&bob.user, &FailureFilter::default(), 2, 10).await.expect("storage works");
    let begun: Vec<_> = failures.iter().map(|failure| (failure.attempted_version.0, failure.retry_count)).collect();
    assert_eq!(begun, [(1, 0)]);
}
