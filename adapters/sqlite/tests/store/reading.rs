//! What a read sees.

use std::collections::HashSet;
use std::sync::Arc;

use outrigger_application::{StoreError, SyncStore};
use outrigger_domain::window::PageQuery;
use outrigger_domain::{RowVersion, ServerSeq};

use crate::support::{Home, plan, rows, stream, try_rows, try_stream, user, wait};

/// Every commit changes all rows, so that one moment has one version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_sees_whole_commits_of_one_moment() {
    const ROWS: i64 = 40;
    const COMMITS: i64 = 150;
    let home = Home::new();
    let (store, alice) = (Arc::new(home.open()), user("alice"));
    let pks = || 0..ROWS as u128;
    store.commit(&alice, plan(0, pks().map(|pk| (pk, 1)))).await.unwrap();
    let writer = tokio::spawn({
        let (store, alice) = (Arc::clone(&store), alice.clone());
        async move {
            for version in 2..=COMMITS {
                store.commit(&alice, plan((version - 1) * ROWS, pks().map(|pk| (pk, version)))).await.unwrap();
            }
        }
    });
    let mut moments = HashSet::new();
    while !writer.is_finished() {
        let snapshot = rows(&store, &alice, pks()).await;
        let version = RowVersion(snapshot.head.seq.0 / ROWS);
        assert_eq!(snapshot.rows.len() as i64, ROWS);
        assert!(snapshot.rows.values().all(|(found, _)| *found == version), "{version} {snapshot:?}");
        assert_eq!(stream(&store, &alice).await.len() as i64 % ROWS, 0);
        moments.insert(version);
    }
    writer.await.unwrap();
    assert!(moments.len() > 5, "the reader saw {} moments, too few to tell anything", moments.len());
}

#[test]
fn a_page_ends_where_its_window_does() {
    let home = Home::new();
    let (store, alice) = (home.open(), user("alice"));
    wait(store.commit(&alice, plan(0, (1..=5).map(|pk| (pk, 1))))).unwrap();
    for (after, until, limit, expected) in [(1, Some(3), 9, 2..=3), (1, None, 9, 2..=5), (1, Some(99), 1, 2..=2)] {
        let (after, until) = (ServerSeq(after), until.map(ServerSeq));
        let query = PageQuery { after, until, limit, schema: None, exclude: None, epoch: None };
        let slice = wait(store.page(&alice, &query)).unwrap();
        assert_eq!(slice.head.seq, ServerSeq(5));
        let found: Vec<i64> = slice.changes.iter().map(|change| change.server_id.0).collect();
        assert_eq!(found, expected.collect::<Vec<_>>(), "{query:?}");
    }
}

#[test]
fn the_tables_can_be_read_in_a_shell() {
    let home = Home::new();
    let store = home.open();
    wait(store.commit(&user("alice"), plan(0, [(0xABC, 1)]))).unwrap();
    let line: String = home
        .shell()
        .query_row(
            "SELECT concat_ws(' ', user_id, server_id, schema_name, table_name, op, pk_uuid, payload, source_id, \
             source_change_id, server_version, ts) FROM server_change_log",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let expected = "alice 1 public users INSERT 00000000-0000-0000-0000-000000000abc {\"n\":1} phone 1 1 \
                    1970-01-01T00:00:00.000000Z";
    assert_eq!(line, expected);
}

#[test]
fn what_this_server_cannot_have_written_is_corrupt() {
    for (damage, from_log) in [
        ("DELETE FROM sync_state", false),
        ("UPDATE sync_row_meta SET deleted = 1", false),
        ("UPDATE sync_state SET payload = '[]'", false),
        ("UPDATE server_change_log SET ts = 'yesterday'", true),
        ("UPDATE server_change_log SET pk_uuid = 'x'", true),
        ("UPDATE server_change_log SET table_name = 'A.B'", true),
    ] {
        let home = Home::new();
        let (store, alice) = (home.open(), user("alice"));
        wait(store.commit(&alice, plan(0, [(1, 1)]))).unwrap();
        home.shell().execute_batch(damage).unwrap();
        let error =
            if from_log { wait(try_stream(&store, &alice)).err() } else { wait(try_rows(&store, &alice, [1])).err() };
        assert!(matches!(error, Some(StoreError::Corrupt { .. })), "{damage}: {error:?}");
    }
}
