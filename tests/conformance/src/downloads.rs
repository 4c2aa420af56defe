//! Pages, filters and windows of a download.

use outrigger_domain::limits::PAGE_BYTES_MAX;
use outrigger_domain::{Reset, ServerSeq};

use crate::world::*;

async fn filled<B: Backend>(world: &World<B>) -> (Device, Device) {
    let (phone, tablet) = (world.device("alice", "phone"), world.device("alice", "tablet"));
    for n in 1..=10_i64 {
        let device = if n % 2 == 0 { &tablet } else { &phone };
        let table = if n > 6 { (Some("business"), "users") } else { (None, "users") };
        device.apply([insert(n, pk(n as u128), "{}").of(table.0, table.1)]).await;
    }
    (phone, tablet)
}

fn ids(page: &outrigger_domain::window::Page) -> Vec<i64> {
    page.changes.iter().map(|change| change.server_id.0).collect()
}

/// Every limit gives the same stream.
pub async fn pages_follow_each_other_without_a_gap<B: Backend>(world: &World<B>) {
    let (phone, _) = filled(world).await;
    for limit in [1, 2, 3, 5, 9, 10, 11, 1_000] {
        let mut asked = query(0, limit);
        let mut all = Vec::new();
        loop {
            let page = phone.page(&asked).await;
            assert!(page.changes.len() <= limit as usize);
            assert_eq!(page.window_until.0, 10);
            assert_eq!(page.has_more, page.next_after.0 < 10, "limit {limit} after {}", asked.after);
            all.extend(ids(&page));
            asked.after = page.next_after;
            if !page.has_more {
                break;
            }
        }
        assert_eq!(all, (1..=10).collect::<Vec<_>>(), "limit {limit}");
    }
}

/// `include_self`
pub async fn own_changes_are_left_out_unless_asked_for<B: Backend>(world: &World<B>) {
    let (phone, tablet) = filled(world).await;
    let mut asked = query(0, 3);
    asked.exclude = Some(phone.source.clone());
    let page = phone.page(&asked).await;
    assert_eq!((ids(&page), page.has_more, page.next_after.0), (vec![2, 4, 6], true, 6));
    asked.after = page.next_after;
    let page = phone.page(&asked).await;
    assert_eq!((ids(&page), page.has_more, page.next_after.0), (vec![8, 10], false, 10));
    asked.exclude = Some(tablet.source);
    asked.after = ServerSeq(0);
    assert_eq!(ids(&phone.page(&asked).await), [1, 3, 5]);
}

/// `schema`
pub async fn a_schema_filter_leaves_out_the_rest<B: Backend>(world: &World<B>) {
    let (phone, _) = filled(world).await;
    let mut asked = query(0, 3);
    asked.schema = Some("business".into());
    let page = phone.page(&asked).await;
    assert_eq!((ids(&page), page.has_more, page.next_after.0), (vec![7, 8, 9], true, 9));
    asked.schema = Some("public".into());
    asked.limit = 6;
    let page = phone.page(&asked).await;
    assert_eq!((ids(&page), page.has_more, page.next_after.0), (vec![1, 2, 3, 4, 5, 6], false, 10));
    asked.schema = Some("nowhere".into());
    let page = phone.page(&asked).await;
    assert_eq!((ids(&page), page.has_more, page.next_after.0), (vec![], false, 10));
}

/// What was filtered out is never read again.
pub async fn an_exhausted_window_moves_the_cursor_to_its_end<B: Backend>(world: &World<B>) {
    let phone = world.device("alice", "phone");
    phone.apply((1..=5).map(|n| insert(n, pk(n as u128), "{}")).collect::<Vec<_>>()).await;
    let mut asked = query(2, 100);
    asked.exclude = Some(phone.source.clone());
    let page = phone.page(&asked).await;
    assert_eq!((ids(&page), page.has_more, page.next_after.0, page.window_until.0), (vec![], false, 5, 5));
}

/// `until`
pub async fn until_freezes_the_window<B: Backend>(world: &World<B>) {
    let (phone, _) = filled(world).await;
    let mut asked = query(0, 4);
    asked.until = Some(ServerSeq(6));
    let page = phone.page(&asked).await;
    assert_eq!((ids(&page), page.has_more, page.next_after.0, page.window_until.0), (vec![1, 2, 3, 4], true, 4, 6));
    phone.apply([insert(100, pk(100), "{}")]).await;
    asked.after = page.next_after;
    let page = phone.page(&asked).await;
    assert_eq!((ids(&page), page.has_more, page.next_after.0, page.window_until.0), (vec![5, 6], false, 6, 6));
    // Beyond the stream's end it bounds nothing; behind the cursor it gives nothing and moves nothing.
    asked.until = Some(ServerSeq(i64::MAX));
    let page = phone.page(&asked).await;
    assert_eq!((page.changes.len(), page.has_more, page.window_until.0), (4, true, 11));
    asked.until = Some(ServerSeq(2));
    let page = phone.page(&asked).await;
    assert_eq!((ids(&page), page.has_more, page.next_after.0, page.window_until.0), (vec![], false, 4, 2));
}

/// A cursor never goes back.
pub async fn a_cursor_beyond_the_end_is_refused<B: Backend>(world: &World<B>) {
    let (phone, _) = filled(world).await;
    let page = phone.page(&query(10, 100)).await;
    assert_eq!((ids(&page), page.has_more, page.next_after.0, page.window_until.0), (vec![], false, 10, 10));
    for after in [11, 1_000, i64::MAX] {
        let refused = phone.try_page(&query(after, 100)).await;
        assert_eq!(refused, Err(Reset::CursorAhead { head: ServerSeq(10) }), "{after}");
    }
}

/// A user without changes.
pub async fn an_empty_stream_answers<B: Backend>(world: &World<B>) {
    let page = world.device("nobody", "phone").page(&query(0, 100)).await;
    assert_eq!((ids(&page), page.has_more, page.next_after.0, page.window_until.0), (vec![], false, 0, 0));
}

/// A page has a bound in bytes too, and always goes on.
pub async fn a_page_of_large_changes_is_cut_short<B: Backend>(world: &World<B>) {
    let (phone, large) = (world.device("alice", "phone"), PAYLOAD_BYTES_MAX - 100);
    for n in 1..=12 {
        phone.apply([insert(n, pk(n as u128), format!("{{\"text\":\"{}\"}}", "x".repeat(large)))]).await;
    }
    let bytes = |page: &outrigger_domain::window::Page| -> usize {
        page.changes.iter().map(|change| change.payload.as_ref().map_or(0, |payload| payload.as_str().len())).sum()
    };
    let mut asked = query(0, 1_000);
    let mut seen = Vec::new();
    loop {
        let page = phone.page(&asked).await;
        assert!(bytes(&page) <= PAGE_BYTES_MAX + PAYLOAD_BYTES_MAX);
        assert_eq!(page.has_more, page.next_after.0 < 12);
        seen.push(page.changes.len());
        asked.after = page.next_after;
        if !page.has_more {
            break;
        }
    }
    assert_eq!(seen.iter().sum::<usize>(), 12);
    assert!(seen.len() > 1, "{seen:?}");
}
