//! What must hold when devices, nodes and readers meet. Every rule runs on two nodes over one storage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use outrigger_domain::Decision;
use tokio::task::JoinSet;

use crate::world::*;

/// Devices of one user, spread over two nodes.
async fn devices<B: Backend>(world: &World<B>, user: &str, count: usize) -> Vec<Device> {
    let nodes = [world.node().await, world.node().await];
    (0..count).map(|n| nodes[n % 2].device(user, &format!("device-{n}"))).collect()
}

/// Promise 3 under a race.
pub async fn one_of_twenty_racing_uploads_to_a_row_wins<B: Backend>(world: &World<B>) {
    world.device("alice", "phone").apply([insert(1, pk(1), "{}")]).await;
    let mut racers = JoinSet::new();
    for (n, device) in devices(world, "alice", 20).await.into_iter().enumerate() {
        racers.spawn(async move { device.upload([update(1, pk(1), 1, format!("{{\"by\":{n}}}"))]).await });
    }
    let verdicts = racers.join_all().await;
    let decisions: Vec<_> = verdicts.into_iter().flat_map(|verdict| verdict.decisions).collect();
    assert_eq!(decisions.iter().filter(|decision| **decision == applied(2)).count(), 1, "{decisions:?}");
    let stream = world.device("alice", "phone").stream().await;
    assert_eq!(stream.len(), 2);
    // Every loser is shown the winner's row.
    for decision in decisions.iter().filter(|decision| !decision.is_applied()) {
        let Decision::Conflict(row) = decision else { panic!("{decision:?}") };
        assert_eq!((row.version, &row.payload), (stream[1].version, &stream[1].payload));
    }
}

/// Promise 1 under a race.
pub async fn twelve_copies_of_an_upload_apply_once_and_answer_alike<B: Backend>(world: &World<B>) {
    let nodes = [world.node().await, world.node().await];
    let mut copies = JoinSet::new();
    for n in 0..12 {
        let device = nodes[n % 2].device("alice", "phone");
        copies.spawn(async move {
            device.upload([insert(1, pk(1), r#"{"n":1}"#), update(2, pk(1), 1, "{}"), insert(3, pk(2), "{}")]).await
        });
    }
    let verdicts = copies.join_all().await;
    assert_eq!(versions(&verdicts[0]), [1, 2, 1]);
    assert!(verdicts.iter().all(|verdict| *verdict == verdicts[0]), "{verdicts:?}");
    assert_eq!(world.device("alice", "phone").stream().await.len(), 3);
}

/// Promise 2: no reader's cursor passes a change that comes later.
pub async fn a_reader_polling_during_uploads_misses_nothing<B: Backend>(world: &World<B>) {
    const UPLOADS: i64 = 25;
    let reader = world.device("alice", "reader");
    let done = Arc::new(AtomicBool::new(false));
    let polling = tokio::spawn({
        let done = Arc::clone(&done);
        async move {
            let mut asked = query(0, 7);
            let mut seen = Vec::new();
            loop {
                // Read before the poll: what was uploaded by then must be in it or in an earlier one.
                let last = done.load(Ordering::SeqCst);
                let page = reader.page(&asked).await;
                seen.extend(page.changes.iter().map(|change| change.server_id.0));
                asked.after = page.next_after;
                if last && !page.has_more {
                    return seen;
                }
            }
        }
    });
    let mut uploads = JoinSet::new();
    for (n, device) in devices(world, "alice", 8).await.into_iter().enumerate() {
        uploads.spawn(async move {
            for id in 1..=UPLOADS {
                let row = pk(n as u128 * 1_000 + id as u128);
                device.apply([insert(2 * id, row, "{}"), update(2 * id + 1, row, 1, "{}")]).await;
            }
        });
    }
    uploads.join_all().await;
    done.store(true, Ordering::SeqCst);
    let seen = polling.await.expect("the reader works");
    assert_eq!(seen, (1..=8 * UPLOADS * 2).collect::<Vec<_>>());
}

/// Promise 4, and none waits for another to be right.
pub async fn users_do_not_disturb_each_other<B: Backend>(world: &World<B>) {
    let nodes = [world.node().await, world.node().await];
    let mut uploads = JoinSet::new();
    for n in 0..10 {
        let device = nodes[n % 2].device(&format!("user-{n}"), "phone");
        uploads.spawn(async move {
            for id in 1..=10 {
                assert_eq!(device.apply([insert(id, pk(id as u128), format!("{{\"of\":{n}}}"))]).await, [1]);
            }
            let own = format!("{{\"of\":{n}}}");
            let stream = device.stream().await;
            assert_eq!(stream.len(), 10);
            assert!(stream.iter().all(|change| change.payload.as_ref().is_some_and(|text| text.as_str() == own)));
        });
    }
    uploads.join_all().await;
}

/// A device that goes away at any moment finds its upload done or not begun, and all else in order.
pub async fn an_upload_whose_caller_left_is_whole_or_absent<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    for n in 0..40_i64 {
        let device = phone.clone();
        let upload = tokio::spawn(async move {
            let batch: Vec<_> = (1..=5).map(|k| insert(10 * n + k, pk((10 * n + k) as u128), "{}")).collect();
            device.upload(&batch).await
        });
        for _ in 0..n {
            tokio::task::yield_now().await;
        }
        upload.abort();
        let _ = upload.await;
    }
    // One more upload stands in line behind all that were begun.
    phone.apply([insert(9_999, pk(9_999), "{}")]).await;
    let stream = phone.stream().await;
    let numbers: Vec<i64> = stream.iter().map(|change| change.server_id.0).collect();
    assert_eq!(numbers, (1..=stream.len() as i64).collect::<Vec<_>>());
    for n in 0..40_i64 {
        let of_batch = stream.iter().filter(|change| change.source_change_id.0 / 10 == n && n < 999).count();
        assert!([0, 5].contains(&of_batch), "batch {n} has {of_batch} of 5");
    }
    let head = world.store().load(&phone.user, &outrigger_domain::Wanted::default()).await.expect("storage works").head;
    assert_eq!(head.seq.0, stream.len() as i64);
}
