//! How often memory is asked for between a request and its answer, for each change: on the way from the request's text by
//! the rules to the answer's, with a store that does nothing. Counted and not timed, so that it is the same everywhere.

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use jiff::Timestamp;
use outrigger_application::ports::store::MockSyncStore;
use outrigger_domain::change::OpKind;
use outrigger_domain::stream::StreamChange;
use outrigger_domain::window::Slice;
use outrigger_domain::{
    Kept, Payload, RowKey, RowVersion, ServerSeq, Snapshot, SourceChangeId, SourceId, StreamHead, TableName,
};
use outrigger_http::router;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;
use uuid::Uuid;
use world::Setup;

#[expect(dead_code, reason = "it is the world of the other tests, and most of it is for these")]
#[path = "http/world.rs"]
mod world;

/// A change that is taken in: its row's key, its payload and its place in four tables of the rules.
const UPLOADED_MAX: u64 = 14;
/// A change that is handed out, which the store has made already.
const DOWNLOADED_MAX: u64 = 1;

/// Asks once, and gives how often memory was asked for on the way.
fn allocations(runtime: &Runtime, store: MockSyncStore, request: Request<Body>, answer: &str) -> u64 {
    let service = router(Setup::on(store).api());
    let mut body = None;
    let counted = allocation_counter::measure(|| {
        let response = runtime.block_on(service.oneshot(request)).unwrap();
        body = Some(response.into_body());
    });
    let text = runtime.block_on(body.unwrap().collect()).unwrap().to_bytes();
    let text = std::str::from_utf8(&text).unwrap();
    assert!(text.contains(answer), "{text}");
    counted.count_total
}

/// For each of a thousand changes: what stays the same for every request is left out.
fn for_each(of: impl Fn(u64) -> u64) -> u64 {
    let warm = of(1);
    assert!(warm > 0, "nothing is counted");
    (of(1_000) - of(100)) / 900
}

fn upload(changes: u64) -> Request<Body> {
    let change = |n: u64| {
        let pk = Uuid::from_u128(n.into());
        format!(
            r#"{{"source_change_id":{n},"table":"users","op":"INSERT","pk":"{pk}","server_version":0,"payload":{{"name":"{n}"}}}}"#
        )
    };
    let changes: Vec<String> = (1..=changes).map(change).collect();
    let body = format!(r#"{{"changes":[{}]}}"#, changes.join(","));
    let request = Request::post("/sync/upload").header("content-type", "application/json");
    request.header("authorization", "Bearer alice/phone").body(body.into()).unwrap()
}

fn change(n: u64, table: &TableName, source: &SourceId) -> StreamChange {
    StreamChange {
        server_id: ServerSeq(n as i64),
        row: RowKey { table: table.clone(), pk: Uuid::from_u128(n.into()) },
        op: OpKind::Insert,
        payload: Payload::from_text(format!(r#"{{"name":"{n}"}}"#)),
        version: RowVersion(1),
        source: source.clone(),
        source_change_id: SourceChangeId(n as i64),
        at: Timestamp::UNIX_EPOCH,
    }
}

#[test]
fn a_change_that_is_taken_in_asks_for_memory_a_few_times() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let count = for_each(|changes| {
        let mut store = MockSyncStore::new();
        store.expect_assume().returning(|_, _| None);
        store.expect_load().returning(|_, _| Ok(Snapshot::default()));
        store.expect_commit().returning(|_, _| Ok(()));
        let last = format!(r#"{{"source_change_id":{changes},"status":"applied","new_server_version":1}}]"#);
        allocations(&runtime, store, upload(changes), &last)
    });
    assert!(count <= UPLOADED_MAX, "{count} allocations for each change that is uploaded");
}

#[test]
fn a_change_that_is_handed_out_asks_for_no_memory() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (table, source) = (TableName::parse(None, "users").unwrap(), SourceId::parse("tablet").unwrap());
    let count = for_each(|changes| {
        let changes_made: Vec<StreamChange> = (1..=changes).map(|n| change(n, &table, &source)).collect();
        let head = StreamHead { seq: ServerSeq(changes as i64), ..StreamHead::default() };
        let slice = Slice { head, kept: Kept::default(), changes: changes_made, more: false };
        let mut store = MockSyncStore::new();
        let slice = std::sync::Mutex::new(Some(slice));
        store.expect_page().returning(move |_, _| Ok(slice.lock().unwrap().take().unwrap()));
        let request = Request::get("/sync/download?limit=1000").header("authorization", "Bearer alice/phone");
        let last = format!(r#""next_after":{changes},"#);
        allocations(&runtime, store, request.body(Body::empty()).unwrap(), &last)
    });
    assert!(count < DOWNLOADED_MAX, "{count} allocations for each change that is downloaded");
}
