//! The compare-and-swap: who wins, and that the others leave no trace.

use std::time::Duration;

use futures::future::join_all;
use outrigger_application::{StoreError, SyncStore};
use outrigger_domain::{Op, RowState, RowVersion, Wanted};
use outrigger_postgres::{PostgresOptions, PostgresStore};
use sqlx::{Connection, PgConnection};

use crate::support::{Fixture, apply, change, insert, payload, plan, row, upload_of, user};

#[tokio::test]
async fn a_commit_that_comes_too_late_leaves_no_trace() {
    let fixture = Fixture::new().await;
    let alice = user("alice");
    apply(&fixture.store, &alice, "phone", [insert(1, 1), insert(2, 2)]).await.unwrap();
    let update = change(1, 1, 1, Op::Update(payload(r#"{"by":"laptop"}"#)));
    let late = [update, change(2, 2, 1, Op::Delete), insert(3, 3)];
    let (late, _) = plan(&fixture.store, &alice, &upload_of("laptop", late)).await;
    apply(&fixture.store, &alice, "phone", [insert(3, 4)]).await.unwrap();

    let before = fixture.contents().await;
    let answer = fixture.store.commit(&alice, late).await;
    assert!(matches!(answer, Err(StoreError::Contention)), "{answer:?}");
    assert_eq!(fixture.contents().await, before);
}

#[tokio::test]
async fn a_commit_that_waited_for_another_sees_that_it_has_lost() {
    let fixture = Fixture::new().await;
    let alice = user("alice");
    apply(&fixture.store, &alice, "phone", [insert(1, 1)]).await.unwrap();
    let (waiting, _) = plan(&fixture.store, &alice, &upload_of("laptop", [insert(1, 2)])).await;
    fixture.loses_to(waiting, "UPDATE sync.user_stream SET last_server_id = 2").await;
}

#[tokio::test]
async fn a_row_that_is_changed_several_times_at_once_ends_as_the_last_change_left_it() {
    let fixture = Fixture::new().await;
    let alice = user("alice");
    let put = |number, n, base| change(number, n, base, Op::Update(payload(&format!(r#"{{"by":{number}}}"#))));
    let delete = |number, n, base| change(number, n, base, Op::Delete);
    // New rows: one stays, one goes. Then known ones: a live one goes, a tombstone comes back and goes again.
    let rounds = [
        vec![put(1, 1, 0), put(2, 2, 0), put(3, 1, 1), delete(4, 2, 1), put(5, 3, 0)],
        vec![put(6, 1, 2), delete(7, 1, 3), put(8, 2, 2), delete(9, 2, 3), put(10, 3, 1), put(11, 3, 2)],
    ];
    let ends: [[(i64, Option<&str>); 3]; 2] = [
        [(2, Some(r#"{"by":3}"#)), (2, None), (1, Some(r#"{"by":5}"#))],
        [(4, None), (4, None), (3, Some(r#"{"by":11}"#))],
    ];
    for (changes, ends) in rounds.into_iter().zip(ends) {
        apply(&fixture.store, &alice, "phone", changes).await.unwrap();
        // Version 99 is nobody's, so that every payload is loaded.
        let wanted = upload_of("laptop", [1, 2, 3].map(|n| delete(n, n as u128, 99)));
        let loaded = fixture.store.load(&alice, &Wanted::of([&wanted])).await.unwrap();
        for (n, (version, text)) in (1..).zip(ends) {
            let state = text.map_or(RowState::Deleted, |text| RowState::Live(payload(text)));
            assert_eq!(loaded.rows[&row(n)], (RowVersion(version), state), "row {n}");
        }
    }
    let states: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sync.sync_state").fetch_one(&mut fixture.sql().await).await.unwrap();
    assert_eq!(states, 1, "a tombstone has no state");
}

#[tokio::test]
async fn one_of_twenty_first_commits_wins() {
    one_of_twenty_wins(&Fixture::new().await).await;
}

#[tokio::test]
async fn a_stricter_default_isolation_of_the_server_changes_nothing() {
    for level in ["repeatable read", "serializable"] {
        let fixture = Fixture::new().await;
        let sql = format!("ALTER DATABASE %I SET default_transaction_isolation = '{level}'");
        let sql = format!("DO $$ BEGIN EXECUTE format($f${sql}$f$, current_database()); END $$");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut fixture.sql().await).await.unwrap();
        let options = PostgresOptions { session_settings: false, ..PostgresOptions::default() };
        let store = PostgresStore::connect(fixture.database.url(), options).await.unwrap();
        one_of_twenty_wins(&Fixture { store, ..fixture }).await;
    }
}

/// Twice: for the first commit of a stream and for a later one.
async fn one_of_twenty_wins(fixture: &Fixture) {
    let alice = user("alice");
    for round in 1..=2_u8 {
        let mut plans = Vec::new();
        for racer in 0..20 {
            let rows = 1_000 * u128::from(round);
            let changes = [insert(round.into(), rows + racer), insert(10 + i64::from(round), rows + 100)];
            let upload = upload_of(&format!("device {racer}"), changes);
            plans.push(plan(&fixture.store, &alice, &upload).await.0);
        }
        let answers = join_all(plans.into_iter().map(|plan| fixture.store.commit(&alice, plan))).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
        let lost = answers.iter().filter(|answer| matches!(answer, Err(StoreError::Contention))).count();
        assert_eq!(lost, 19, "{answers:?}");
    }
}

#[tokio::test]
async fn a_stream_whose_end_is_lost_is_not_begun_anew() {
    let fixture = Fixture::new().await;
    let alice = user("alice");
    apply(&fixture.store, &alice, "phone", [insert(1, 1)]).await.unwrap();
    let (next, _) = plan(&fixture.store, &alice, &upload_of("phone", [insert(2, 2)])).await;
    fixture.execute("DELETE FROM sync.user_stream").await;
    assert!(matches!(fixture.store.commit(&alice, next).await, Err(StoreError::Contention)));
}

#[tokio::test]
async fn tables_that_were_changed_behind_the_servers_back_are_reported_and_left_alone() {
    let tampering = [
        "UPDATE sync.sync_row_meta SET server_version = 9",
        "DELETE FROM sync.sync_row_meta",
        "INSERT INTO sync.sync_row_meta
         SELECT user_id, schema_name, table_name, '00000000-0000-0000-0000-000000000002', 1, false, now()
         FROM sync.sync_row_meta",
        "INSERT INTO sync.server_change_log
         SELECT user_id, 2, schema_name, table_name, op, pk_uuid, payload, source_id, 99, 1, ts
         FROM sync.server_change_log",
        "INSERT INTO sync.server_change_log
         SELECT user_id, 99, schema_name, table_name, op, pk_uuid, payload, source_id, 2, 1, ts
         FROM sync.server_change_log",
    ];
    for sql in tampering {
        let fixture = Fixture::new().await;
        let alice = user("alice");
        apply(&fixture.store, &alice, "phone", [insert(1, 1)]).await.unwrap();
        let changes = [change(2, 1, 1, Op::Update(payload("{}"))), insert(3, 2)];
        let (next, _) = plan(&fixture.store, &alice, &upload_of("phone", changes)).await;
        fixture.execute(sql).await;
        let before = fixture.contents().await;
        let answer = fixture.store.commit(&alice, next).await;
        assert!(matches!(answer, Err(StoreError::Corrupt { .. })), "{sql}: {answer:?}");
        assert_eq!(fixture.contents().await, before, "{sql}");
    }
}

#[tokio::test]
async fn a_row_without_its_state_is_reported() {
    let fixture = Fixture::new().await;
    let alice = user("alice");
    apply(&fixture.store, &alice, "phone", [insert(1, 1)]).await.unwrap();
    fixture.execute("DELETE FROM sync.sync_state").await;
    let wanted = Wanted::of([&upload_of("laptop", [insert(1, 1)])]);
    let answer = fixture.store.load(&alice, &wanted).await;
    assert!(matches!(answer, Err(StoreError::Corrupt { .. })), "{answer:?}");
}

#[tokio::test]
async fn a_commit_that_waits_too_long_is_given_up_without_a_trace() {
    let options = PostgresOptions { statement_timeout: Duration::from_millis(100), ..PostgresOptions::default() };
    let fixture = Fixture::with(options).await;
    let alice = user("alice");
    apply(&fixture.store, &alice, "phone", [insert(1, 1)]).await.unwrap();
    let before = fixture.contents().await;
    let mut sql = fixture.sql().await;
    let mut other = sql.begin().await.unwrap();
    sqlx::query("SELECT FROM sync.user_stream FOR UPDATE").execute(&mut *other).await.unwrap();
    let answer = apply(&fixture.store, &alice, "phone", [insert(2, 2)]).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    other.rollback().await.unwrap();
    assert_eq!(fixture.contents().await, before);
    apply(&fixture.store, &alice, "phone", [insert(2, 2)]).await.unwrap();
}

#[tokio::test]
async fn a_commit_of_one_user_does_not_wait_for_that_of_another() {
    let fixture = Fixture::new().await;
    apply(&fixture.store, &user("alice"), "phone", [insert(1, 1)]).await.unwrap();
    let mut sql = fixture.sql().await;
    let mut other: sqlx::Transaction<'_, sqlx::Postgres> = PgConnection::begin(&mut sql).await.unwrap();
    sqlx::query("SELECT FROM sync.user_stream FOR UPDATE").execute(&mut *other).await.unwrap();
    apply(&fixture.store, &user("bob"), "phone", [insert(1, 1)]).await.unwrap();
}
