//! What goes from a stream in the long run, and what must not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outrigger_application::StoreError;
use outrigger_domain::limits::UploadLimits;
use outrigger_domain::retention::{Cutoffs, STEP_BYTES_MAX, STEP_ENTRIES_MAX};
use outrigger_domain::{Planner, Reason, ServerSeq, Wanted};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::world::*;

/// The stream as (`server_id`, key, version).
async fn stream(device: &Device) -> Vec<(i64, Uuid, i64)> {
    device.stream().await.iter().map(|change| (change.server_id.0, change.row.pk, change.version.0)).collect()
}

/// `retention.superseded_after`
pub async fn what_a_later_change_supersedes_goes_when_it_is_old<B: LongLived>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    phone.apply([insert(1, pk(1), "{}"), insert(2, pk(2), "{}"), update(3, pk(1), 1, "{}")]).await;
    world.clock.pass_days(6);
    assert_eq!(world.sweep().await.superseded, 0);
    assert_eq!(stream(&phone).await.len(), 3);
    world.clock.pass_days(2);
    // Too young to supersede anything that goes, but it does supersede.
    phone.apply([update(4, pk(2), 1, "{}")]).await;
    assert_eq!(world.sweep().await.superseded, 2);
    assert_eq!(stream(&phone).await, [(3, pk(1), 2), (4, pk(2), 2)]);
    world.clock.pass_days(1_000);
    // The last entry of a row stays for good.
    assert_eq!(world.sweep().await.superseded, 0);
    assert_eq!(stream(&phone).await, [(3, pk(1), 2), (4, pk(2), 2)]);
}

/// A device that reads what is left has what one has that read everything.
pub async fn what_is_left_adds_up_to_the_same_rows<B: LongLived>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let mut id = 0;
    for round in 0..5_i64 {
        let mut changes = Vec::new();
        for row in 1..=20_u128 {
            id += 1;
            let payload = format!("{{\"round\":{round}}}");
            changes.push(if round == 0 { insert(id, pk(row), payload) } else { update(id, pk(row), round, payload) });
        }
        phone.apply(changes).await;
        world.clock.pass_days(3);
    }
    let before = phone.rows(7).await.0;
    let report = world.sweep().await;
    assert_eq!(report.superseded, 60);
    assert_eq!(phone.rows(1_000).await.0, before);
    let last: Vec<_> = phone.stream().await.into_iter().filter(|change| change.version.0 == 5).collect();
    assert_eq!(last.len(), 20);
}

/// Promise 1, beyond the life of the entry.
pub async fn a_pruned_entry_still_answers_its_retries<B: LongLived>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    let first = [insert(1, pk(1), r#"{"a":1,"b":[2]}"#), update(2, pk(1), 1, "{}"), delete(3, pk(1), 2)];
    phone.apply(&first).await;
    phone.apply([insert(4, pk(1), "{}").at(3)]).await;
    world.clock.pass_days(8);
    assert_eq!(world.sweep().await.superseded, 3);
    let again = phone.upload(&first).await;
    assert_eq!(versions(&again), [1, 2, 3]);
    // The same value in other words is the same change; another value is not.
    let worded = phone.upload([insert(1, pk(1), r#"{ "b": [ 2 ], "a": 1.0 }"#)]).await;
    assert_eq!(versions(&worded), [1]);
    let reused = [insert(1, pk(1), r#"{"a":2}"#), update(3, pk(1), 2, "{}"), insert(2, pk(2), "{}")];
    for decision in phone.upload(reused).await.decisions {
        assert_eq!(reason(&decision), Some(Reason::SourceChangeIdReused));
    }
    // The numbers of one source say nothing of another's.
    assert_eq!(tablet.apply([insert(1, pk(3), "{}")]).await, [1]);
    assert_eq!(stream(&phone).await, [(4, pk(1), 4), (5, pk(3), 1)]);
}

/// `retention.tombstones_after`
pub async fn an_old_deletion_goes_with_its_row<B: LongLived>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    phone.apply([insert(1, pk(1), "{}"), insert(2, pk(2), "{}"), delete(3, pk(1), 1)]).await;
    world.clock.pass_days(89);
    let report = world.sweep().await;
    assert_eq!((report.superseded, report.tombstones), (1, 0));
    // As long as the deletion is kept, the row's version is.
    assert!(!phone.upload([insert(4, pk(1), "{}")]).await.decisions[0].is_applied());
    world.clock.pass_days(2);
    assert_eq!(world.sweep().await.tombstones, 1);
    assert_eq!(stream(&phone).await, [(2, pk(2), 1)]);
    assert_eq!(world.sweep().await.tombstones, 0);
}

/// A row that is forgotten is a row that never was.
pub async fn a_forgotten_row_can_be_made_again<B: LongLived>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    phone.apply([insert(1, pk(1), "{}"), delete(2, pk(1), 1)]).await;
    world.clock.pass_days(91);
    world.sweep().await;
    let stale = phone.upload([update(3, pk(1), 2, "{}")]).await;
    assert!(!stale.decisions[0].is_applied());
    assert_eq!(phone.apply([insert(4, pk(1), "{}")]).await, [1]);
    assert_eq!(phone.apply([update(5, pk(1), 1, "{}")]).await, [2]);
    world.clock.pass_days(8);
    assert_eq!(world.sweep().await.superseded, 1);
    assert_eq!(phone.rows(10).await.0.len(), 1);
}

/// Promise 2, when the end of the stream itself is pruned.
pub async fn numbers_are_never_used_twice<B: LongLived>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let mut highest = 0;
    for round in 0..3_i64 {
        let row = pk(round as u128);
        phone.apply([insert(2 * round + 1, row, "{}"), delete(2 * round + 2, row, 1)]).await;
        let seen: Vec<i64> = stream(&phone).await.iter().map(|entry| entry.0).collect();
        assert!(seen.iter().all(|&number| number > highest), "{seen:?} after {highest}");
        highest = seen.into_iter().max().expect("something was applied");
        world.clock.pass_days(91);
        assert_eq!(world.sweep().await.tombstones, 1);
        assert!(stream(&phone).await.is_empty());
        let page = phone.page(&query(0, 10)).await;
        assert!(page.window_until.0 >= highest);
    }
}

/// Steps have a bound in entries.
pub async fn a_sweep_works_through_a_long_stream_in_steps<B: LongLived>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let rows: Vec<u128> = (1..=400).collect();
    let mut id = 0;
    let mut next = || {
        id += 1;
        id
    };
    phone.apply(rows.iter().map(|&row| insert(next(), pk(row), "{}")).collect::<Vec<_>>()).await;
    phone.apply(rows.iter().map(|&row| update(next(), pk(row), 1, "{}")).collect::<Vec<_>>()).await;
    phone
        .apply(rows.iter().filter(|&&row| row % 2 == 0).map(|&row| delete(next(), pk(row), 2)).collect::<Vec<_>>())
        .await;
    world.clock.pass_days(91);
    let report = world.sweep().await;
    assert_eq!((report.superseded, report.tombstones), (600, 200));
    assert_eq!(stream(&phone).await.len(), 200);
    world.clock.pass_days(31);
    // The keys of rows that are there stay.
    assert_eq!(world.sweep().await.keys, 600);
}

/// An upload waits for one step at the most.
pub async fn a_step_is_bounded_in_entries_and_in_bytes<B: LongLived>(world: &World<B>) {
    let retention = world.backend.retention().await;
    let now = || outrigger_application::Clock::now(&*world.clock);
    let step = async |device: &Device, after| {
        let cutoffs = Cutoffs::new(now(), now());
        retention.prune(&device.user, cutoffs, after, now()).await.expect("storage works")
    };
    let phone = world.device("alice", "phone");
    let entries = STEP_ENTRIES_MAX as i64 + 1;
    for first in (1..=entries).step_by(UPLOAD_CHANGES_MAX) {
        let change = |n: i64| if n == 1 { insert(1, pk(1), "{}") } else { update(n, pk(1), n - 1, "{}") };
        phone.apply((first..=entries.min(first + UPLOAD_CHANGES_MAX as i64 - 1)).map(change).collect::<Vec<_>>()).await;
    }
    let large = world.device("bob", "phone");
    for n in 1..=6 {
        let payload = format!("{{\"text\":\"{}\"}}", "x".repeat(PAYLOAD_BYTES_MAX - 100));
        large.apply([if n == 1 { insert(n, pk(1), payload) } else { update(n, pk(1), n - 1, payload) }]).await;
    }
    world.clock.pass_days(1);
    let first = step(&phone, ServerSeq(0)).await;
    assert_eq!((first.superseded, first.next), (entries as u64 - 1, Some(ServerSeq(entries - 1))));
    let second = step(&phone, ServerSeq(entries - 1)).await;
    assert_eq!((second.superseded, second.next), (0, None));
    let first = step(&large, ServerSeq(0)).await;
    let most = (STEP_BYTES_MAX / (PAYLOAD_BYTES_MAX - 100) + 1) as u64;
    assert!((1..=most).contains(&first.superseded) && first.next.is_some(), "{first:?}");
    let second = step(&large, first.next.unwrap_or_default()).await;
    assert_eq!((first.superseded + second.superseded, second.next), (5, None));
}

/// The compare and swap covers what is forgotten too.
pub async fn an_upload_that_was_planned_before_a_pruning_is_planned_anew<B: LongLived>(world: &World<B>) {
    let (phone, store) = (world.device("alice", "phone"), world.store());
    phone.apply([insert(1, pk(1), "{}"), delete(2, pk(1), 1)]).await;
    world.clock.pass_days(91);
    let upload = phone.request(&[insert(3, pk(1), "{}").at(2)], false);
    let snapshot = store.load(&phone.user, &Wanted::of([&upload])).await.expect("storage works");
    let mut planner = Planner::new(snapshot, UploadLimits::default());
    planner.decide(&upload).expect("no epoch is named");
    let plan = planner.finish(jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(plan.log.len(), 1);
    assert_eq!(world.sweep().await.tombstones, 1);
    let answer = store.commit(&phone.user, plan).await;
    assert!(matches!(answer, Err(StoreError::Contention)), "{answer:?}");
}

/// Two nodes share the work, and a quiet stream costs none.
pub async fn streams_are_taken_once_and_not_again_while_nothing_can_go<B: LongLived>(world: &World<B>) {
    for user in ["alice", "bob", "carol"] {
        world.device(user, "phone").apply([insert(1, pk(1), "{}")]).await;
    }
    world.device("bob", "phone").apply([delete(2, pk(1), 1)]).await;
    world.clock.pass_days(8);
    let mut sweeps = JoinSet::new();
    for _ in 0..2 {
        let retention = world.retention().await;
        sweeps.spawn(async move { retention.sweep(DAY, |_| {}).await.expect("storage works") });
    }
    let reports = sweeps.join_all().await;
    assert_eq!(reports.iter().map(|report| report.users).sum::<u64>(), 3, "{reports:?}");
    let due = async |since: Duration| world.retention().await.sweep(since, |_| {}).await.expect("storage works").users;
    assert_eq!(due(DAY).await, 0);
    world.clock.pass_days(2);
    // Bob's deletion will go one day, and the key of what it superseded.
    assert_eq!(due(DAY).await, 1);
    world.device("carol", "phone").apply([update(2, pk(1), 1, "{}")]).await;
    world.clock.pass_days(2);
    assert_eq!(due(DAY).await, 2);
}

/// Sweeps and uploads of the same rows at the same time.
pub async fn uploads_during_sweeps_lose_nothing<B: LongLived>(world: &World<B>) {
    const ROWS: u128 = 8;
    let done = Arc::new(AtomicBool::new(false));
    let sweeping = tokio::spawn({
        let (retention, clock, done) = (world.retention().await, Arc::clone(&world.clock), Arc::clone(&done));
        async move {
            let mut tombstones = 0;
            while !done.load(Ordering::SeqCst) {
                clock.pass_days(91);
                tombstones += retention.sweep(Duration::ZERO, |_| {}).await.expect("storage works").tombstones;
            }
            tombstones
        }
    });
    let mut uploads = JoinSet::new();
    let nodes = [world.node().await, world.node().await];
    for row in 0..ROWS {
        let device = nodes[row as usize % 2].device("alice", &format!("device-{row}"));
        uploads.spawn(async move {
            let (mut version, mut id) = (0, 0);
            for round in 0..60 {
                id += 1;
                let change = match round % 3 {
                    0 => insert(id, pk(row), "{}").at(version),
                    1 => update(id, pk(row), version, "{}"),
                    _ => delete(id, pk(row), version),
                };
                let verdict = device.upload([change]).await;
                match &verdict.decisions[0] {
                    outrigger_domain::Decision::Applied { version: Some(now) } => version = now.0,
                    // The row was forgotten between two of its changes, and nothing of it is left.
                    outrigger_domain::Decision::Conflict(row) => {
                        assert_eq!((round % 3, row.version.0, &row.payload), (0, 0, &None));
                        id += 1;
                        version = device.apply([insert(id, row.pk, "{}")]).await[0];
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
    }
    uploads.join_all().await;
    done.store(true, Ordering::SeqCst);
    sweeping.await.expect("sweeps do not panic");
    // Every round ended with a deletion.
    assert_eq!(world.device("alice", "reader").rows(100).await.0, []);
}

/// Isolation.
pub async fn users_are_swept_each_by_itself<B: LongLived>(world: &World<B>) {
    let (alice, bob) = (world.device("alice", "phone"), world.device("bob", "phone"));
    for device in [&alice, &bob] {
        device.apply([insert(1, pk(1), "{}"), delete(2, pk(1), 1)]).await;
    }
    world.clock.pass_days(91);
    let report = world.retention().await.sweep_user(&alice.user).await.expect("storage works");
    assert_eq!((report.superseded, report.tombstones), (1, 1));
    assert_eq!(stream(&alice).await, []);
    assert_eq!(stream(&bob).await, [(1, pk(1), 1), (2, pk(1), 2)]);
    assert_eq!(bob.apply([insert(3, pk(1), "{}").at(2)]).await, [3]);
}

/// A node whose clock was years ahead has taken the stream; nobody waits for that day.
pub async fn a_clock_that_was_wrong_does_not_end_the_sweeps<B: LongLived>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    phone.apply([insert(1, pk(1), "{}"), update(2, pk(1), 1, "{}")]).await;
    let due = async || world.retention().await.sweep(DAY, |_| {}).await.expect("storage works").users;
    assert_eq!(due().await, 1);
    // Clocks differ: who takes a stream a little later by another clock takes nothing.
    world.clock.advance(-60_000_000);
    assert_eq!(due().await, 0);
    world.clock.pass_days(4_000);
    assert_eq!(due().await, 1);
    world.clock.advance(-3_990 * 86_400_000_000);
    phone.apply([update(3, pk(1), 2, "{}")]).await;
    assert_eq!(due().await, 1);
    assert_eq!(due().await, 0);
}
