//! Every call touches what it asks for, however large the tables are and whatever the planner knows of them.

use std::time::Duration;

use jiff::Timestamp;
use outrigger_application::ports::contacts::Contact;
use outrigger_application::ports::store::RowsQuery;
use outrigger_application::{ContactStore, SyncStore};
use outrigger_domain::window::PageQuery;
use outrigger_domain::{Op, ServerSeq, SourceId, UserId};
use outrigger_postgres::{PostgresOptions, PostgresStore};
use uuid::Uuid;

use crate::assumed::assumed;
use crate::support::{Fixture, apply, change, insert, payload, row as key, user};

/// Many users with one row each, and one with twenty thousand: the planner takes every user for a small one.
const HISTORY: &str = "
CREATE TEMP TABLE history AS
    SELECT CASE WHEN n <= 20000 THEN 'heavy' ELSE 'user ' || n END AS user_id, n
    FROM generate_series(1, 50000) n;
INSERT INTO sync.sync_row_meta
    SELECT user_id, 'public', 'notes', ('00000000-0000-0000-0001-' || to_char(n, 'FM000000000000'))::uuid, 1, false, now()
    FROM history;
INSERT INTO sync.sync_state
    SELECT user_id, 'public', 'notes', ('00000000-0000-0000-0001-' || to_char(n, 'FM000000000000'))::uuid, '{}'
    FROM history;
INSERT INTO sync.server_change_log
    SELECT user_id, row_number() OVER (PARTITION BY user_id ORDER BY n) + 100, 'public', 'notes', 'INSERT',
           ('00000000-0000-0000-0001-' || to_char(n, 'FM000000000000'))::uuid, '{}', 'import', n, 1, now()
    FROM history;
INSERT INTO sync.sync_pruned_key
    SELECT user_id, 'phone', n + 1000000, 'INSERT', 'public', 'notes',
           ('00000000-0000-0000-0001-' || to_char(n, 'FM000000000000'))::uuid, '', 1, now()
    FROM history;
INSERT INTO sync.sync_source SELECT user_id, 'source ' || n, now(), now(), 1, 0 FROM history;
INSERT INTO sync.user_stream SELECT user_id, max(server_id) FROM sync.server_change_log GROUP BY user_id
    ON CONFLICT (user_id) DO UPDATE SET last_server_id = excluded.last_server_id;";

/// Has the database gather no statistics, and spread the log over as many pages as if it were ten times as long.
const UNANALYZED: &str = "
ALTER TABLE sync.sync_row_meta SET (autovacuum_enabled = false);
ALTER TABLE sync.sync_state SET (autovacuum_enabled = false);
ALTER TABLE sync.server_change_log SET (autovacuum_enabled = false, fillfactor = 10);
ALTER TABLE sync.sync_pruned_key SET (autovacuum_enabled = false);
ALTER TABLE sync.sync_source SET (autovacuum_enabled = false);
ALTER TABLE sync.user_stream SET (autovacuum_enabled = false);";

/// Index entries that the calls of [`use_store`] may read; a plan that reads a user's rows reads 20 000.
const ENTRIES_MAX: i64 = 500;

/// One upload of each kind and a page.
async fn use_store(store: &PostgresStore, user: &UserId, first: i64) {
    let row = first as u128;
    apply(store, user, "phone", [insert(first, row), insert(first + 1, row + 1)]).await.unwrap();
    let changes = [change(first + 2, row, 1, Op::Update(payload("{}"))), change(first + 3, row + 1, 1, Op::Delete)];
    apply(store, user, "phone", changes).await.unwrap();
    apply(store, user, "phone", [insert(first + 4, row + 2)]).await.unwrap();
    apply(store, user, "phone", [change(first + 5, row + 2, 1, Op::Update(payload("{}")))]).await.unwrap();
    let on_assumptions = [
        vec![insert(first + 6, row + 3)],
        vec![change(first + 7, row + 3, 1, Op::Update(payload("{}")))],
        vec![insert(first + 8, row + 4), change(first + 9, row + 3, 2, Op::Delete)],
    ];
    for changes in on_assumptions {
        store.commit(user, assumed(store, user, changes)).await.unwrap();
    }
    let query = PageQuery { after: ServerSeq(0), until: None, limit: 10, schema: None, exclude: None, epoch: None };
    store.page(user, &query).await.unwrap();
    store.head(user).await.unwrap();
    store.tables(user).await.unwrap();
    let (table, source) = (key(row).table, SourceId::parse("phone").unwrap());
    store.rows(user, &RowsQuery { table, after: Some(Uuid::from_u128(row)), limit: 10 }).await.unwrap();
    let contact = Contact { user: user.clone(), source: source.clone(), at: Timestamp::UNIX_EPOCH, cursor: None };
    store.note(&[contact]).await.unwrap();
    store.source(user, &source).await.unwrap();
}

#[tokio::test]
async fn plans_made_on_empty_tables_hold_when_these_have_grown() {
    let fixture = Fixture::with(PostgresOptions { max_connections: 1, ..PostgresOptions::default() }).await;
    use_store(&fixture.store, &user("heavy"), 1).await;
    fixture.execute(HISTORY).await;
    assert_touches_little(&fixture).await;
}

#[tokio::test]
async fn plans_made_for_the_average_user_hold_for_a_heavy_one() {
    let fixture = Fixture::new().await;
    fixture.execute(HISTORY).await;
    fixture.execute("ANALYZE").await;
    assert_touches_little(&fixture).await;
}

/// As behind a restored dump, until the database comes to it by itself.
#[tokio::test]
async fn plans_made_without_statistics_hold() {
    let fixture = Fixture::with(PostgresOptions { max_connections: 1, ..PostgresOptions::default() }).await;
    fixture.execute(UNANALYZED).await;
    fixture.execute(HISTORY).await;
    assert_touches_little(&fixture).await;
}

#[tokio::test]
async fn plans_hold_without_the_settings_of_the_session() {
    let fixture = Fixture::new().await;
    fixture.execute(HISTORY).await;
    fixture.execute("ANALYZE").await;
    let options = PostgresOptions { session_settings: false, ..PostgresOptions::default() };
    let store = PostgresStore::connect(fixture.database.url(), options).await.unwrap();
    assert_touches_little(&Fixture { store, ..fixture }).await;
}

async fn assert_touches_little(fixture: &Fixture) {
    let mut sql = fixture.sql().await;
    let touched = // The one row of sync_epoch is read as it is.
        "SELECT (SELECT coalesce(sum(seq_tup_read), 0)::int8 FROM pg_stat_user_tables
                           WHERE schemaname = 'sync' AND relname <> 'sync_epoch'),
                          (SELECT coalesce(sum(idx_tup_read), 0)::int8 FROM pg_stat_user_indexes WHERE schemaname = 'sync')";
    let (scanned_before, entries_before): (i64, i64) = sqlx::query_as(touched).fetch_one(&mut sql).await.unwrap();
    for round in 0..3 {
        use_store(&fixture.store, &user("heavy"), 1_000 + 10 * round).await;
    }
    // A session reports what it has touched when it ends.
    fixture.store.close().await;
    let sessions = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name = 'outrigger'";
    let ending = async {
        while sqlx::query_scalar::<_, i64>(sessions).fetch_one(&mut sql).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ending).await.expect("the store's sessions end");
    let (scanned, entries): (i64, i64) = sqlx::query_as(touched).fetch_one(&mut sql).await.unwrap();
    let (scanned, entries) = (scanned - scanned_before, entries - entries_before);
    assert_eq!(scanned, 0, "rows read by sequential scans");
    assert!((1..=ENTRIES_MAX).contains(&entries), "{entries} index entries read");
}
