//! When a device has to start again.

use std::num::NonZeroU32;

use outrigger_domain::{Epoch, Reset, ServerSeq};
use uuid::Uuid;

use crate::world::*;

/// Three rows, of which the second was deleted by change 4; then time passes, the deletion is pruned, and a change comes.
async fn pruned<B: LongLived>(world: &World<B>) -> Device {
    let phone = world.device("alice", "phone");
    phone.apply([insert(1, pk(1), "{}"), insert(2, pk(2), "{}"), insert(3, pk(3), "{}"), delete(4, pk(2), 1)]).await;
    world.clock.pass_days(91);
    assert_eq!(world.sweep().await.tombstones, 1);
    phone.apply([update(5, pk(3), 1, "{}")]).await;
    phone
}

/// 410
pub async fn a_device_behind_the_floor_starts_again<B: LongLived>(world: &World<B>) {
    let phone = pruned(world).await;
    for after in 1..4 {
        let refused = phone.try_page(&query(after, 10)).await;
        assert_eq!(refused, Err(Reset::HistoryPruned { floor: ServerSeq(4) }), "{after}");
    }
    // A device that knows of the deletion goes on.
    let page = phone.page(&query(4, 10)).await;
    assert_eq!(page.changes.len(), 1);
    // One that was in the middle of a window then may have missed it.
    let mut asked = query(2, 10);
    asked.until = Some(ServerSeq(4));
    assert_eq!(phone.try_page(&asked).await, Err(Reset::HistoryPruned { floor: ServerSeq(4) }));
    // Its uploads are decided as ever.
    assert!(phone.upload([update(6, pk(2), 1, "{}"), update(7, pk(1), 1, "{}")]).await.decisions[1].is_applied());
}

/// A device that knows of no reset keeps working.
pub async fn a_new_device_pages_through_what_is_left<B: LongLived>(world: &World<B>) {
    let phone = pruned(world).await;
    let mut asked = query(0, 1);
    let mut seen = Vec::new();
    loop {
        let page = phone.try_page(&asked).await.expect("a new device has nothing to miss");
        seen.extend(page.changes.iter().map(|change| (change.row.pk, change.version.0)));
        asked.after = page.next_after;
        asked.until = Some(page.window_until);
        if !page.has_more {
            break;
        }
    }
    assert_eq!(seen, [(pk(1), 1), (pk(3), 1), (pk(3), 2)]);
    asked.until = None;
    assert!(phone.try_page(&asked).await.is_ok());
}

/// Its own row was deleted elsewhere: at the beginning of the stream it is no new device, and names the epoch.
pub async fn a_device_that_was_here_before_and_has_downloaded_nothing_starts_again<B: LongLived>(world: &World<B>) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    let epoch = phone.epoch().await;
    let mut asked = query(0, 10);
    asked.epoch = Some(epoch);
    phone.try_upload([insert(1, pk(1), "{}")], epoch).await.expect("it is the stream's epoch");
    assert!(phone.try_page(&asked).await.is_ok());
    tablet.apply([delete(1, pk(1), 1)]).await;
    world.clock.pass_days(91);
    assert_eq!(world.sweep().await.tombstones, 1);
    assert_eq!(phone.try_page(&asked).await, Err(Reset::HistoryPruned { floor: ServerSeq(2) }));
    // The snapshot leads behind what was pruned.
    let (rows, as_of) = phone.rows(10).await;
    assert!(rows.is_empty());
    asked.after = as_of;
    assert!(phone.try_page(&asked).await.is_ok());
}

/// An epoch that changed with the first change would send devices back for nothing.
pub async fn an_epoch_is_the_same_for_every_node_and_before_the_first_change<B: LongLived>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let epoch = phone.epoch().await;
    assert_ne!(epoch, Epoch(Uuid::nil()));
    assert_eq!(phone.page(&query(0, 10)).await.epoch, epoch);
    assert_eq!(phone.try_rows(None, 10, None).await.map(|page| page.epoch), Ok(epoch));
    let verdict = phone.try_upload([insert(1, pk(1), "{}")], epoch).await.expect("it is the stream's epoch");
    assert_eq!((verdict.head.epoch, phone.epoch().await), (epoch, epoch));
    let elsewhere = world.node().await.device("alice", "tablet");
    assert_eq!(elsewhere.page(&query(0, 10)).await.epoch, epoch);
}

/// 409
pub async fn another_epoch_is_refused<B: LongLived>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let epoch = phone.epoch().await;
    let refused = Reset::EpochChanged { epoch };
    let other = Epoch(Uuid::from_u128(1));
    assert_eq!(phone.try_upload([insert(1, pk(1), "{}")], other).await, Err(refused));
    assert_eq!(phone.try_rows(None, 10, Some(other)).await, Err(refused));
    let mut asked = query(0, 10);
    asked.epoch = Some(other);
    assert_eq!(phone.try_page(&asked).await, Err(refused));
    assert!(phone.stream().await.is_empty());
}

/// `outrigger restore-mark`
pub async fn a_restored_database_begins_another_epoch<B: LongLived>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    phone.apply([insert(1, pk(1), "{}"), insert(2, pk(2), "{}")]).await;
    let before = phone.epoch().await;
    let first_page = phone.try_rows(None, 1, None).await.expect("no epoch is named");
    let marked = world
        .backend
        .retention()
        .await
        .restore_mark(NonZeroU32::new(1_000).expect("it is not"))
        .await
        .expect("storage works");
    assert_ne!(marked, before);
    assert_eq!(phone.epoch().await, marked);
    let refused = Reset::EpochChanged { epoch: marked };
    assert_eq!(phone.try_upload([insert(3, pk(3), "{}")], before).await, Err(refused));
    // A snapshot that was begun before is not gone on with.
    assert_eq!(phone.try_rows(first_page.next, 1, None).await, Err(refused));
    // A device that knows of no epochs goes on, and is given no number of the time that was lost.
    phone.apply([insert(3, pk(3), "{}")]).await;
    let stream = phone.stream().await;
    assert_eq!(stream.iter().map(|change| change.server_id.0).collect::<Vec<_>>(), [1, 2, 1_003]);
    assert_eq!(world.device("nobody", "phone").epoch().await, marked);
}
