//! Payloads and moments come back as they came.

use outrigger_application::SyncStore;
use outrigger_domain::window::PageQuery;
use outrigger_domain::{LoggedPayload, Op, RowState, ServerSeq, SourceId, Wanted};

use crate::support::{Fixture, apply, change, insert, payload, upload_of, user};

fn awkward() -> Vec<String> {
    let mut texts: Vec<String> = [
        r#"{}"#,
        r#"{ "z" : 1,  "a":2, "z" : 3 }"#,
        "{\n\t\"spaced\" : [ 1 , 2 ]\r\n}",
        r#"{"nul":"\u0000","\u0000":1}"#,
        r#"{"lone high":"\ud800","lone low":"\udc00","swapped":"\udc00\ud800"}"#,
        r#"{"pair":"\ud83d\ude00","raw":"😀","escaped":"\u00e9\/"}"#,
        r#"{"huge":1e999999,"tiny":-1E-999999,"zero":-0.0,"long":123456789012345678901234567890.12345678901234567890}"#,
        r#"{"":"","quote":"\"\\'$1","braces":"{}[]"}"#,
        "{\"last of all\":\"\u{10ffff}\u{fffe}\u{7f}\u{feff}\"}",
    ]
    .map(str::to_owned)
    .into();
    texts.push(format!("{}{}{}", r#"{"a":"#.repeat(127), "{}", "}".repeat(127)));
    texts.push(format!(r#"{{"long":"{}"}}"#, "compressible ".repeat(80_000)));
    texts
}

#[tokio::test]
async fn payloads_come_back_byte_for_byte() {
    let fixture = Fixture::new().await;
    let alice = user("alice");
    let texts = awkward();
    let changes: Vec<_> = (1_i64..)
        .zip(&texts)
        .map(|(number, text)| change(number, number as u128, 0, Op::Insert(payload(text))))
        .collect();
    apply(&fixture.store, &alice, "phone", changes.clone()).await.unwrap();

    let query = PageQuery { after: ServerSeq(0), until: None, limit: 100, schema: None, exclude: None, epoch: None };
    let slice = fixture.store.page(&alice, &query).await.unwrap();
    let paged: Vec<_> = slice.changes.iter().map(|change| change.payload.as_ref().unwrap().as_str()).collect();
    assert_eq!(paged, texts);

    // The same changes again name version 0, which the rows no longer have: their payloads are wanted.
    let loaded = fixture.store.load(&alice, &Wanted::of([&upload_of("phone", changes.clone())])).await.unwrap();
    let source = SourceId::parse("phone").unwrap();
    for (change, text) in changes.iter().zip(&texts) {
        let RowState::Live(state) = &loaded.rows[&change.row].1 else { panic!("the row is live") };
        assert_eq!(state.as_str(), text);
        let logged = &loaded.logged[&(source.clone(), change.source_change_id)];
        let Some(LoggedPayload::Whole(payload)) = &logged.payload else { panic!("{logged:?}") };
        assert_eq!(payload.as_str(), text);
    }
}

#[tokio::test]
async fn a_payload_that_nothing_compares_is_not_loaded() {
    let fixture = Fixture::new().await;
    let alice = user("alice");
    apply(&fixture.store, &alice, "phone", [insert(1, 1)]).await.unwrap();
    let next = change(2, 1, 1, Op::Update(payload("{}")));
    let loaded = fixture.store.load(&alice, &Wanted::of([&upload_of("phone", [next.clone()])])).await.unwrap();
    assert_eq!(loaded.rows[&next.row].1, RowState::Unloaded);
}

#[tokio::test]
async fn moments_come_back_to_the_microsecond() {
    let fixture = Fixture::new().await;
    let alice = user("alice");
    apply(&fixture.store, &alice, "phone", [insert(1, 1)]).await.unwrap();
    let query = PageQuery { after: ServerSeq(0), until: None, limit: 1, schema: None, exclude: None, epoch: None };
    let slice = fixture.store.page(&alice, &query).await.unwrap();
    assert_eq!(slice.changes[0].at.to_string(), "2025-08-08T07:01:00.123456Z");
    let seen = "SELECT (ts AT TIME ZONE 'UTC')::text FROM sync.server_change_log";
    let seen: String = sqlx::query_scalar(seen).fetch_one(&mut fixture.sql().await).await.unwrap();
    assert_eq!(seen, "2025-08-08 07:01:00.123456");
}
