//! The rows as they are.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use outrigger_domain::Reset;
use outrigger_domain::limits::PAGE_BYTES_MAX;
use tokio::task::JoinSet;

use crate::world::*;

/// A post by a user.
fn post(id: i64, number: u128, author: u128) -> Sent {
    insert(id, pk(number), format!("{{\"author_id\":\"{}\"}}", pk(author))).of(None, "posts")
}

fn comment(id: i64, number: u128, post: u128) -> Sent {
    insert(id, pk(number), format!("{{\"post_id\":\"{}\"}}", pk(post))).of(None, "comments")
}

/// Every limit gives the same rows, and comments come behind the posts that they are of.
pub async fn pages_follow_each_other_parents_first<B: LongLived>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    for n in 1..=5_i64 {
        let row = n as u128;
        phone.apply([insert(10 * n, pk(row), "{}"), post(10 * n + 1, row, row), comment(10 * n + 2, row, row)]).await;
    }
    let all = phone.rows(1_000).await;
    let tables: Vec<&str> = all.0.iter().map(|row| row.row.table.table()).collect();
    assert_eq!((tables.len(), all.1.0), (15, 15));
    let first = |table: &str| tables.iter().position(|of| *of == table).expect("there are rows of it");
    let last = |table: &str| tables.iter().rposition(|of| *of == table).expect("there are rows of it");
    assert!(last("posts") < first("comments") && last("users") < first("comments"), "{tables:?}");
    for limit in [1, 2, 4, 5, 6, 14, 15, 16] {
        assert_eq!(phone.rows(limit).await, all, "{limit}");
    }
}

/// Versions and payloads as they are, tombstones not at all.
pub async fn a_snapshot_holds_what_is_live<B: LongLived>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    assert_eq!(phone.rows(10).await, (vec![], outrigger_domain::ServerSeq(0)));
    phone.apply([insert(1, pk(1), r#"{"b":1.50,"a":2}"#), insert(2, pk(2), "{}"), delete(3, pk(2), 1)]).await;
    phone.apply([update(4, pk(1), 1, r#"{"b":1.500,"a":3}"#), insert(5, pk(3), "{}")]).await;
    let (rows, as_of) = phone.rows(10).await;
    let seen: Vec<_> = rows.iter().map(|row| (row.row.pk, row.version.0, row.payload.as_str())).collect();
    assert_eq!(seen, [(pk(1), 2, r#"{"b":1.500,"a":3}"#), (pk(3), 1, "{}")]);
    assert_eq!(as_of.0, 5);
    assert!(phone.page(&query(as_of.0, 10)).await.changes.is_empty());
}

/// The stream hands them out, so the snapshot does.
pub async fn rows_of_tables_that_are_not_registered_any_more_are_there<B: LongLived>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    let mut upload = phone.request(&[insert(1, pk(1), "{}")], false);
    for (n, table) in ["zebras", "a.birds", "comments_old"].into_iter().enumerate() {
        let mut submission = phone.request(&[insert(n as i64 + 2, pk(n as u128), "{}")], false).submissions.remove(0);
        let mut change = (*submission.change.expect("a good change")).clone();
        change.row.table = outrigger_domain::TableName::parse_qualified(table).expect("a good name");
        submission.change = Ok(Arc::new(change));
        upload.submissions.push(submission);
    }
    versions(&phone.send(upload).await);
    for limit in [1, 2, 3, 4, 10] {
        let (rows, _) = phone.rows(limit).await;
        let tables: Vec<String> = rows.iter().map(|row| row.row.table.to_string()).collect();
        assert_eq!(tables, ["public.users", "a.birds", "public.comments_old", "public.zebras"], "{limit}");
    }
}

/// A new device that starts while others write ends up with what there is.
pub async fn a_snapshot_during_uploads_misses_nothing<B: LongLived>(world: &World<B>) {
    const ROWS: u128 = 40;
    let phone = world.device("alice", "phone");
    phone.apply((0..ROWS).map(|n| insert(n as i64 + 1, pk(n), "{}")).collect::<Vec<_>>()).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..4_u128 {
        let (device, done) = (world.node().await.device("alice", &format!("writer-{writer}")), Arc::clone(&done));
        writers.spawn(async move {
            let (mut id, mut versions) = (0, BTreeMap::new());
            while !done.load(Ordering::SeqCst) || id < 50 {
                id += 1;
                let row = writer + 4 * (id as u128 * 7 % 10);
                let version = versions.get(&row).copied().unwrap_or(1);
                let live = versions.get(&(row + 1_000)).copied().unwrap_or(1) == 1;
                let change = match (live, id % 3 == 0) {
                    (true, true) => delete(id, pk(row), version),
                    (true, false) => update(id, pk(row), version, format!("{{\"n\":{id}}}")),
                    (false, _) => insert(id, pk(row), "{}").at(version),
                };
                versions.insert(row + 1_000, i64::from(change.op != "DELETE"));
                versions.insert(row, device.apply([change]).await[0]);
            }
        });
    }
    for limit in [1, 3, 7, 100] {
        let reader = world.device("alice", "reader");
        let (rows, as_of) = reader.rows(limit).await;
        let mut held: BTreeMap<_, _> =
            rows.into_iter().map(|row| (row.row.pk, (row.version, Some(row.payload)))).collect();
        if limit == 100 {
            done.store(true, Ordering::SeqCst);
            while writers.join_next().await.is_some() {}
        }
        let mut asked = query(as_of.0, 1_000);
        loop {
            let page = reader.page(&asked).await;
            for change in page.changes {
                let known = held.get(&change.row.pk).map_or(outrigger_domain::RowVersion(0), |(version, _)| *version);
                if change.version > known {
                    held.insert(change.row.pk, (change.version, change.payload));
                }
            }
            asked.after = page.next_after;
            if !page.has_more {
                break;
            }
        }
        if limit == 100 {
            held.retain(|_, (_, payload)| payload.is_some());
            let (rows, _) = reader.rows(1_000).await;
            let now: BTreeMap<_, _> =
                rows.into_iter().map(|row| (row.row.pk, (row.version, Some(row.payload)))).collect();
            assert_eq!(held, now);
        }
    }
}

/// A page has a bound in bytes too, and always goes on.
pub async fn a_page_of_large_rows_is_cut_short<B: LongLived>(world: &World<B>) {
    let (phone, large) = (world.device("alice", "phone"), PAYLOAD_BYTES_MAX - 100);
    for n in 1..=12 {
        phone.apply([insert(n, pk(n as u128), format!("{{\"text\":\"{}\"}}", "x".repeat(large)))]).await;
    }
    let page = phone.try_rows(None, 1_000, None).await.expect("no epoch is named");
    let bytes: usize = page.rows.iter().map(|row| row.payload.as_str().len()).sum();
    assert!((PAGE_BYTES_MAX..PAGE_BYTES_MAX + PAYLOAD_BYTES_MAX).contains(&bytes), "{bytes}");
    assert!(page.next.is_some());
    let keys: HashSet<_> = phone.rows(1_000).await.0.into_iter().map(|row| row.row.pk).collect();
    assert_eq!(keys.len(), 12);
}

/// Isolation.
pub async fn users_see_their_own_rows<B: LongLived>(world: &World<B>) {
    let (alice, bob) = (world.device("alice", "phone"), world.device("bob", "phone"));
    alice.apply([insert(1, pk(1), "{}"), insert(2, pk(2), "{}")]).await;
    bob.apply([insert(1, pk(1), "{}"), insert(2, pk(2), r#"{"of":"bob"}"#)]).await;
    let page = alice.try_rows(None, 1, None).await.expect("no epoch is named");
    // Even with a cursor of the other's.
    let rows = bob.try_rows(page.next, 10, None).await.expect("the epoch is the same");
    assert_eq!(rows.rows.iter().map(|row| row.payload.as_str()).collect::<Vec<_>>(), [r#"{"of":"bob"}"#]);
    assert_eq!(alice.rows(10).await.0.len(), 2);
}

/// Whatever a cursor says, the rows are the caller's, and as new as the stream.
pub async fn a_page_that_was_made_up_harms_nobody<B: LongLived>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    phone.apply([insert(1, pk(1), "{}"), insert(2, pk(2), "{}"), post(3, 1, 1), post(4, 2, 1)]).await;
    let page = phone.try_rows(None, 1, None).await.expect("no epoch is named");
    let text = page.next.expect("there are more").to_string();
    let [as_of, epoch, order, table, after] = *text.split('~').collect::<Vec<_>>() else { panic!("{text}") };
    let ask = async |text: String| phone.try_rows(Some(text.parse().expect("a cursor")), 10, None).await;
    let count = async |text: String| ask(text).await.map(|page| page.rows.len());
    assert_eq!(count(text.clone()).await, Ok(3));
    let end = outrigger_domain::ServerSeq(4);
    assert_eq!(ask(format!("5~{epoch}~{order}~{table}~{after}")).await, Err(Reset::CursorAhead { head: end }));
    // Another order of tables: all of it again.
    assert_eq!(count(format!("{as_of}~{epoch}~0~{table}~{after}")).await, Ok(4));
    // A table that there is not: behind those that there are.
    assert_eq!(count(format!("{as_of}~{epoch}~{order}~no.such")).await, Ok(0));
    // A key that there is not.
    let behind = "ffffffffffffffffffffffffffffffff";
    assert_eq!(count(format!("{as_of}~{epoch}~{order}~{table}~{behind}")).await, Ok(2));
    let other = uuid::Uuid::from_u128(1).simple();
    assert!(matches!(ask(format!("{as_of}~{other}~{order}~{table}")).await, Err(Reset::EpochChanged { .. })));
}
