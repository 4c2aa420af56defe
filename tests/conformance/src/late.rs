//! What is remembered of changes that were answered and left no entry: a copy that comes late is told the same.

use jiff::Timestamp;
use outrigger_application::{Caller, StoreError};
use outrigger_domain::limits::UploadLimits;
use outrigger_domain::plan::Verdict;
use outrigger_domain::{Decision, Plan, Planner, Upload, Wanted};

use crate::world::*;

/// The versions that the row of each change has, all of which must be conflicts.
fn conflicts(verdict: &Verdict) -> Vec<i64> {
    let version = |decision: &Decision| match decision {
        Decision::Conflict(row) => row.version.0,
        other => panic!("no conflict: {other:?}"),
    };
    verdict.decisions.iter().map(version).collect()
}

/// What an upload writes as things stand.
async fn plan<B: Backend>(world: &World<B>, device: &Device, upload: &Upload) -> Plan {
    let snapshot = world.store().load(&device.user, &Wanted::of([upload])).await.expect("storage works");
    let mut planner = Planner::new(snapshot, UploadLimits::default());
    planner.decide(upload).expect("no epoch is named");
    planner.finish(Timestamp::UNIX_EPOCH)
}

/// Promise 1, whatever has become of the row. The first conflict is also the first that is heard of the user.
pub async fn a_row_that_came_to_fit_makes_no_difference<B: Backend>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    let early = [update(1, pk(1), 1, "{}"), delete(2, pk(2), 1)];
    let verdict = phone.upload(&early[..1]).await;
    assert_eq!((conflicts(&verdict), verdict.head.seq.0), (vec![0], 0));
    let row = r#"{"by":"tablet"}"#;
    tablet.apply([insert(1, pk(1), row), insert(2, pk(2), "{}"), update(3, pk(2), 1, "{}")]).await;
    for _ in 0..2 {
        let shown = [server_row(1, 1, Some(row)), server_row(2, 2, Some("{}"))];
        assert_eq!(phone.upload(&early).await.decisions, shown);
        assert_eq!(phone.upload(&early[..1]).await.decisions, shown[..1]);
    }
    assert_eq!(phone.apply([update(3, pk(1), 1, "{}")]).await, [2]);
    assert_eq!(phone.stream().await.len(), 4);
}

/// A device may resolve a conflict under the number that it has.
pub async fn another_version_under_the_same_number_is_decided_anew<B: Backend>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    tablet.apply([insert(1, pk(1), "{}"), update(2, pk(1), 1, "{}")]).await;
    let change = update(1, pk(1), 1, r#"{"n":1}"#);
    assert_eq!(conflicts(&phone.upload([change.clone()]).await), [2]);
    tablet.apply([update(3, pk(1), 2, "{}")]).await;
    // Refused again, it is the later version that counts.
    assert_eq!(conflicts(&phone.upload([change.clone().at(4)]).await), [3]);
    tablet.apply([update(4, pk(1), 3, "{}")]).await;
    assert_eq!(conflicts(&phone.upload([change.clone().at(4)]).await), [4]);
    assert_eq!(phone.apply([update(2, pk(1), 4, "{}")]).await, [5]);
    assert_eq!(phone.apply([change.clone().at(5)]).await, [6]);
    // What was applied is answered from the log.
    assert_eq!(phone.apply([change.clone().at(5)]).await, [6]);
    assert_eq!(phone.apply([change]).await, [6]);
    let other = phone.upload([update(1, pk(1), 6, r#"{"n":2}"#)]).await;
    assert!(reason(&other.decisions[0]).is_some(), "{other:?}");
}

/// In one request, too: what was applied in the end is not remembered as a conflict.
pub async fn a_conflict_may_be_resolved_in_its_own_request<B: Backend>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    tablet.apply([insert(1, pk(1), "{}"), update(2, pk(1), 1, "{}")]).await;
    let change = update(1, pk(1), 1, "{}");
    let upload = phone.request(&[change.clone(), change.clone(), change.at(2)], false);
    let plan = plan(world, &phone, &upload).await;
    assert_eq!((plan.log.len(), plan.unlogged.len()), (1, 0));
}

/// A number stands for a change: another one under it is another change.
pub async fn another_change_under_the_same_number_is_decided_anew<B: Backend>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    tablet.apply([insert(1, pk(1), "{}"), insert(2, pk(2), "{}")]).await;
    for other in [insert(1, pk(3), "{}"), insert(1, pk(2), "{}").of(Some("business"), "users"), delete(1, pk(2), 1)] {
        let phone = world.device("alice", &format!("phone {} {}", other.op, other.pk));
        assert_eq!(conflicts(&phone.upload([insert(1, pk(1), "{}")]).await), [1]);
        assert_eq!(phone.upload([other]).await.decisions.iter().filter(|of| of.is_applied()).count(), 1);
    }
    // And a source's number is its own.
    assert_eq!(conflicts(&phone.upload([update(1, pk(4), 1, "{}")]).await), [0]);
    tablet.apply([insert(3, pk(4), "{}")]).await;
    assert_eq!(world.device("alice", "watch").apply([update(1, pk(4), 1, "{}")]).await, [2]);
}

/// Invalid changes may be sent again as they are.
pub async fn a_refusal_that_is_no_conflict_is_not_remembered<B: Backend>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    let child = insert(1, pk(1), format!(r#"{{"author_id":"{}"}}"#, pk(2))).of(None, "posts");
    let upload = phone.request(std::slice::from_ref(&child), false);
    assert!(plan(world, &phone, &upload).await.is_empty());
    assert!(!phone.upload([child.clone()]).await.decisions[0].is_applied());
    tablet.apply([insert(1, pk(2), "{}")]).await;
    assert_eq!(phone.apply([child]).await, [1]);
}

/// Whatever else the same upload does: new rows, known ones, and of tables with business tables or without.
pub async fn a_conflict_is_remembered_beside_what_is_applied<B: Backend>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    tablet.apply([insert(1, pk(1), "{}"), insert(2, pk(2), "{}")]).await;
    let stale = |n: i64| update(n, pk(1), n, "{}");
    let of_business = insert(13, pk(4), "{}").of(Some("business"), "users");
    let others = [vec![insert(12, pk(3), r#"{"name":"a"}"#)], vec![of_business], vec![delete(14, pk(2), 1)]];
    for (n, others) in (2..).zip(others) {
        let verdict = phone.upload([others, vec![stale(n)]].concat()).await;
        assert!(verdict.decisions[0].is_applied() && !verdict.decisions[1].is_applied(), "{verdict:?}");
    }
    tablet.apply([update(3, pk(1), 1, "{}"), update(4, pk(1), 2, "{}"), update(5, pk(1), 3, "{}")]).await;
    assert_eq!(conflicts(&phone.upload([stale(2), stale(3), stale(4)]).await), [4, 4, 4]);
    assert_eq!(phone.stream().await.len(), 8);
}

/// The conflicts of an upload that was aborted were answered like any others.
pub async fn an_aborted_upload_leaves_its_conflicts<B: Backend>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    tablet.apply([insert(1, pk(1), "{}")]).await;
    let deletion = delete(3, pk(3), 1);
    let aborted = phone.upload_atomic(&[insert(1, pk(2), "{}"), update(2, pk(1), 2, "{}"), deletion.clone()]).await;
    assert!(!aborted.accepted);
    tablet.apply([update(2, pk(1), 1, "{}")]).await;
    assert_eq!(conflicts(&phone.upload([update(2, pk(1), 2, "{}")]).await), [2]);
    // That the rest was not applied is no reason why it should not be now.
    tablet.apply([insert(3, pk(3), "{}")]).await;
    assert_eq!(phone.apply([insert(1, pk(2), "{}"), deletion]).await, [1, 2]);
}

/// Conflicts alone move no stream, and one that is known leaves nothing to write.
pub async fn a_conflict_is_written_once_and_moves_no_stream<B: Backend>(world: &World<B>) {
    let (phone, store) = (world.device("alice", "phone"), world.store());
    for head in [0, 1] {
        let upload = phone.request(&[update(1 + head, pk(9), 1, "{}"), update(11 + head, pk(8), 1, "{}")], false);
        let planned = plan(world, &phone, &upload).await;
        assert_eq!((planned.unlogged.len(), planned.log.len(), planned.head.seq.0), (2, 0, head));
        // A second node may have decided the same.
        store.commit(&phone.user, planned.clone()).await.expect("the stream has not moved");
        store.commit(&phone.user, planned.clone()).await.expect("the stream has not moved");
        let again = plan(world, &phone, &upload).await;
        assert!(again.is_empty() && again.head == planned.head, "{again:?}");
        assert_eq!(phone.apply([insert(21 + head, pk(head as u128), "{}")]).await, [1]);
    }
    assert_eq!(phone.stream().await.iter().map(|change| change.server_id.0).collect::<Vec<_>>(), [1, 2]);
}

/// Compare and swap: a node that decided before the row was forgotten must not write down a conflict once another node has
/// applied a copy.
pub async fn a_conflict_on_a_moved_stream_is_decided_anew<B: Backend>(world: &World<B>) {
    let (phone, tablet, store) = (world.device("alice", "phone"), world.device("alice", "tablet"), world.store());
    for base in [1, 2] {
        let upload = phone.request(&[update(base, pk(1), base, "{}"), insert(7, pk(2), "{}")], false);
        let alone = phone.request(&[update(base, pk(1), base, "{}")], false);
        let stale = [plan(world, &phone, &upload).await, plan(world, &phone, &alone).await];
        assert!(stale.iter().all(|stale| stale.unlogged.len() == 1), "{stale:?}");
        let change = if base == 1 { insert(1, pk(1), "{}") } else { update(2, pk(1), 1, "{}") };
        assert_eq!(tablet.apply([change]).await, [base]);
        for stale in stale {
            let answer = store.commit(&phone.user, stale).await;
            assert!(matches!(answer, Err(StoreError::Contention)), "{answer:?}");
        }
        let fresh = plan(world, &phone, &alone).await;
        assert_eq!((fresh.log.len(), fresh.unlogged.len()), (1, 0));
    }
}

/// A late copy of an INSERT would bring back what was deleted and forgotten since.
pub async fn a_late_insert_brings_nothing_back<B: LongLived>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    tablet.apply([insert(1, pk(1), "{}"), delete(2, pk(1), 1)]).await;
    world.clock.pass_days(80);
    assert_eq!(conflicts(&phone.upload([insert(1, pk(1), "{}")]).await), [2]);
    world.clock.pass_days(11);
    let swept = world.sweep().await;
    assert_eq!((swept.tombstones, swept.keys), (1, 0));
    assert_eq!(conflicts(&phone.upload([insert(1, pk(1), "{}")]).await), [0]);
    assert_eq!(conflicts(&phone.upload_atomic(&[insert(1, pk(1), "{}")]).await), [0]);
    assert!(phone.rows(10).await.0.is_empty());
    // What the device does once it is told is another change.
    assert_eq!(phone.apply([insert(2, pk(1), "{}")]).await, [1]);
}

/// A late copy of an UPDATE must not fit the row that was made again, however old it is.
pub async fn a_late_update_does_not_fit_a_row_that_was_made_again<B: LongLived>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    tablet.apply([insert(1, pk(1), "{}"), update(2, pk(1), 1, "{}"), delete(3, pk(1), 2)]).await;
    world.clock.pass_days(80);
    assert_eq!(conflicts(&phone.upload([update(1, pk(1), 1, "{}")]).await), [3]);
    world.clock.pass_days(11);
    assert_eq!(world.sweep().await.tombstones, 1);
    assert_eq!(tablet.apply([insert(4, pk(1), r#"{"new":1}"#)]).await, [1]);
    let shown = server_row(1, 1, Some(r#"{"new":1}"#));
    assert_eq!(phone.upload([update(1, pk(1), 1, "{}")]).await.decisions, [shown]);
    world.clock.pass_days(1_000);
    world.sweep().await;
    assert_eq!(conflicts(&phone.upload([update(1, pk(1), 1, "{}")]).await), [1]);
    assert_eq!(phone.apply([update(2, pk(1), 1, "{}")]).await, [2]);
}

/// A late copy of a deletion that had nothing to delete must not find a row that was made since.
pub async fn a_late_deletion_of_nothing_deletes_nothing<B: LongLived>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    let deletions = [delete(1, pk(1), 1), delete(2, pk(2), 2)];
    tablet.apply([insert(1, pk(2), "{}"), delete(2, pk(2), 1)]).await;
    world.clock.pass_days(80);
    let done = [Decision::Applied { version: None }, applied(2)];
    assert_eq!(phone.upload(&deletions).await.decisions, done);
    world.clock.pass_days(11);
    assert_eq!(world.sweep().await.tombstones, 1);
    tablet.apply([insert(3, pk(1), "{}"), insert(4, pk(2), "{}"), update(5, pk(2), 1, "{}")]).await;
    assert_eq!(phone.upload(&deletions).await.decisions, done);
    assert_eq!(phone.upload_atomic(&deletions).await.decisions, done);
    // As what was applied before, they are confirmed beside a change that is not.
    let aborted = phone.upload_atomic(&[deletions[0].clone(), deletions[1].clone(), insert(3, pk(1), "{}")]).await;
    assert_eq!(aborted.decisions[..2], done);
    assert_eq!(phone.rows(10).await.0.len(), 2);
    assert_eq!(phone.apply([delete(4, pk(1), 1), delete(5, pk(2), 2)]).await, [2, 3]);
}

/// Refused at one version, applied at another, and pruned: the key is that of an entry from then on.
pub async fn a_conflict_that_was_applied_in_the_end_is_pruned_like_any_change<B: LongLived>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    for row in [1, 2] {
        tablet.apply([insert(10 * row, pk(row as u128), "{}"), update(10 * row + 1, pk(row as u128), 1, "{}")]).await;
    }
    let (change, deletion) = (update(1, pk(1), 1, "{}"), delete(2, pk(2), 1));
    assert_eq!(conflicts(&phone.upload([change.clone(), deletion.clone()]).await), [2, 2]);
    assert_eq!(phone.apply([change.clone().at(2), deletion.clone().at(2)]).await, [3, 3]);
    tablet.apply([update(30, pk(1), 3, "{}")]).await;
    world.clock.pass_days(91);
    let swept = world.sweep().await;
    assert_eq!((swept.superseded, swept.tombstones, swept.keys, swept.failed), (5, 1, 0, 0));
    for version in [1, 2] {
        assert_eq!(phone.apply([change.clone().at(version), deletion.clone().at(version)]).await, [3, 3]);
    }
    let other = phone.upload([update(1, pk(1), 1, r#"{"n":2}"#), insert(2, pk(2), "{}")]).await;
    assert!(other.decisions.iter().all(|decision| reason(decision).is_some()), "{other:?}");
}

/// Forgotten with its row, or without one, a conflict is one of the numbers that were forgotten. A stream that was clean
/// is swept for it, and one that is empty.
pub async fn a_forgotten_conflict_is_a_conflict_still<B: LongLived>(world: &World<B>) {
    let (alice, bob) = (world.device("alice", "phone"), world.device("bob", "phone"));
    alice.apply([insert(1, pk(1), "{}")]).await;
    world.clock.pass_days(100);
    world.sweep().await;
    assert_eq!(world.sweep().await.users, 0);
    for phone in [&alice, &bob] {
        assert_eq!(conflicts(&phone.upload([update(2, pk(2), 1, "{}"), update(3, pk(1), 7, "{}")]).await)[0], 0);
    }
    world.clock.pass_days(29);
    assert_eq!(world.sweep().await.keys, 0);
    world.clock.pass_days(2);
    // Alice's row is there, so that its key stays.
    assert_eq!(world.sweep().await.keys, 3);
    alice.apply([insert(4, pk(2), "{}")]).await;
    assert_eq!(conflicts(&alice.upload([update(2, pk(2), 1, "{}"), update(3, pk(1), 7, "{}")]).await), [1, 1]);
    assert_eq!(conflicts(&bob.upload([update(2, pk(2), 1, "{}"), insert(3, pk(1), "{}")]).await), [0, 0]);
    assert_eq!(bob.apply([insert(4, pk(1), "{}")]).await, [1]);
}

/// `GET /sync/source`: a device that starts again does not use the number of a conflict a second time.
pub async fn the_number_of_a_conflict_is_a_used_one<B: LongLived>(world: &World<B>) {
    let contacts = world.contacts().await;
    let phone = world.device("alice", "phone");
    let (user, source) = (phone.user.clone(), phone.source.clone());
    let caller = Caller { user, source, expires_at: Timestamp::MAX, is_admin: false };
    let highest = async || contacts.source(&caller).await.expect("storage works").highest_source_change_id.0;
    assert_eq!(phone.apply([insert(3, pk(1), "{}")]).await, [1]);
    phone.upload([update(7, pk(2), 1, "{}")]).await;
    assert_eq!(highest().await, 7);
    world.clock.pass_days(31);
    assert_eq!(world.sweep().await.keys, 1);
    assert_eq!(highest().await, 7);
}

/// Erased with the rest, and a copy that comes after it changes nothing.
pub async fn an_erased_user_has_no_conflicts<B: LongLived + Projecting>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    tablet.apply([insert(1, pk(1), "{}")]).await;
    assert_eq!(conflicts(&phone.upload([insert(1, pk(1), "{}"), update(2, pk(2), 1, "{}")]).await), [1, 0]);
    let erased = world.erasure().await.erase(&phone.user, |_| true).await.expect("storage works");
    let erased = erased.expect("there is something of the user");
    assert!(erased.done && erased.keys == 4, "{erased:?}");
    assert_eq!(conflicts(&phone.upload([insert(1, pk(1), "{}"), update(2, pk(2), 1, "{}")]).await), [0, 0]);
    assert!(phone.stream().await.is_empty());
}
