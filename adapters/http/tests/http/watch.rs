//! `GET /sync/watch`, and `wait` of `GET /sync/download`

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use futures::StreamExt;
use outrigger_http::{Stopped, router};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::world::{NOW, Server, Setup, send};

fn insert(id: u8) -> String {
    format!(
        r#"{{"source_change_id":{id},"table":"users","op":"INSERT","pk":"00000000-0000-0000-0000-{id:012}","server_version":0,"payload":{{}}}}"#
    )
}

/// A watch, read event by event.
struct Events {
    response: reqwest::Response,
    text: String,
}

impl Events {
    async fn open(server: &Server, token: &str, query: &str) -> Self {
        let request = server.get(&format!("/sync/watch{query}")).bearer_auth(token);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let mut events = Self { response, text: String::new() };
        let retry = events.next().await.unwrap();
        let after: u64 = retry.strip_prefix("retry: ").unwrap().parse().unwrap();
        assert!((1_000..=6_000).contains(&after), "{after}");
        events
    }

    /// The next event; none if the stream has ended.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(event);
            }
            let chunk = tokio::time::timeout(Duration::from_secs(20), self.response.chunk()).await;
            self.text += std::str::from_utf8(&chunk.expect("an event in time").unwrap()?).unwrap();
        }
    }
}

fn changes(head: i64) -> Option<String> {
    Some(format!("event: changes\nid: {head}\ndata: {{\"highest_server_seq\":{head}}}"))
}

#[tokio::test]
async fn a_watcher_hears_at_once_and_of_the_changes_of_others() {
    let server = Setup::default().start().await;
    let mut phone = Events::open(&server, "alice/phone", "").await;
    assert_eq!(phone.next().await, changes(0));
    let mut all = Events::open(&server, "alice/phone", "?include_self=true").await;
    assert_eq!(all.next().await, changes(0));
    server.changes("alice/phone", &[&insert(1)]).await;
    assert_eq!(all.next().await, changes(1));
    server.changes("bob/tablet", &[&insert(1)]).await;
    server.changes("alice/tablet", &[&insert(2), &insert(3)]).await;
    assert_eq!(phone.next().await, changes(3));
    assert_eq!(all.next().await, changes(3));
    // Another connection goes on from the last event.
    let request = server.get("/sync/watch?after=9").bearer_auth("alice/phone").header("last-event-id", "3");
    let response = request.send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    assert_eq!(response.headers()["cache-control"], "no-store, no-transform");
}

#[tokio::test]
async fn what_a_device_was_told_of_is_not_what_it_has() {
    let server = Setup::default().start().await;
    server.changes("alice/tablet", &[&insert(1)]).await;
    let cursor = async || send(server.get("/sync/source").bearer_auth("alice/phone")).await.json()["cursor"].clone();
    let watch = async |query: &str| {
        let request = server.get(&format!("/sync/watch{query}")).bearer_auth("alice/phone");
        request.header("last-event-id", "1").send().await.unwrap().status()
    };
    assert_eq!((watch("").await.as_u16(), cursor().await), (200, Value::Null));
    assert_eq!((watch("?after=0").await.as_u16(), cursor().await), (200, json!(0)));
}

#[tokio::test]
async fn a_watcher_that_cannot_go_on_is_refused() {
    let server = Setup::default().start().await;
    for (query, status, code) in [
        ("?after=1", 409, "cursor_ahead"),
        ("?epoch=00000000-0000-0000-0000-000000000001", 409, "epoch_changed"),
        ("?after=x", 400, "invalid_request"),
        ("?include_self=2", 400, "invalid_request"),
        ("?epoch=2", 400, "invalid_request"),
    ] {
        let answer = send(server.get(&format!("/sync/watch{query}")).bearer_auth("alice/phone")).await;
        assert_eq!((answer.status, answer.error().1.as_str()), (status, code), "{query}");
    }
    let bad = server.get("/sync/watch").bearer_auth("alice/phone").header("last-event-id", "x");
    assert!(send(bad).await.error().2.contains("Last-Event-ID"));
    assert_eq!(send(server.get("/sync/watch")).await.status, 401);
}

#[tokio::test]
async fn a_watch_ends_with_its_token() {
    let server = Setup::default().start().await;
    let mut events = Events::open(&server, &format!("alice/phone@{NOW}"), "").await;
    assert_eq!((events.next().await, events.next().await), (changes(0), None));
}

#[tokio::test]
async fn a_server_that_stops_ends_its_watches_and_held_downloads() {
    let mut server = Setup::default().start().await;
    let mut events = Events::open(&server, "alice/phone", "").await;
    assert_eq!(events.next().await, changes(0));
    let held = tokio::spawn(send(server.get("/sync/download?wait=60").bearer_auth("alice/tablet")));
    // The held request has begun when another of its connection's age was answered.
    server.download("alice/laptop", "").await;
    server.stop();
    assert_eq!(events.next().await, None);
    let answer = held.await.unwrap();
    assert_eq!((answer.status, &answer.json()["changes"]), (200, &json!([])));
    assert_eq!(server.stopped().await, Stopped::Drained);
}

#[tokio::test]
async fn a_watch_that_begins_while_the_server_drains_lasts_until_it_stops() {
    let setup = Setup::default();
    let drain = setup.drain.clone();
    let mut server = setup.start().await;
    let mut early = Events::open(&server, "alice/phone", "").await;
    assert_eq!(early.next().await, changes(0));
    drain.begin();
    assert_eq!(early.next().await, None, "it has told when to come back");
    // Who comes back is not sent away at once, again and again.
    let mut late = Events::open(&server, "alice/phone", "").await;
    assert_eq!(late.next().await, changes(0));
    server.changes("alice/tablet", &[&insert(1)]).await;
    assert_eq!(late.next().await, changes(1));
    server.stop();
    assert_eq!(late.next().await, None);
    assert_eq!(server.stopped().await, Stopped::Drained);
}

/// The clock stands still but for what is waited for.
#[tokio::test(start_paused = true)]
async fn a_quiet_watch_has_a_heartbeat() {
    let began = tokio::time::Instant::now();
    let request =
        Request::get("/sync/watch").header("authorization", "Bearer alice/phone").body(Body::empty()).unwrap();
    let response = router(Setup::default().api()).oneshot(request).await.unwrap();
    let mut body = response.into_body().into_data_stream();
    let mut texts = Vec::new();
    for _ in 0..4 {
        texts.push(String::from_utf8(body.next().await.unwrap().unwrap().to_vec()).unwrap());
    }
    assert!(texts[0].starts_with("retry: ") && texts[1].starts_with("event: changes"), "{texts:?}");
    assert_eq!((&*texts[2], &*texts[3]), (":\n\n", ":\n\n"));
    assert_eq!(began.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn a_download_is_held_until_another_device_has_changed_something() {
    let server = Setup::default().start().await;
    let held = tokio::spawn(send(server.get("/sync/download?wait=60").bearer_auth("alice/phone")));
    server.changes("alice/phone", &[&insert(1)]).await;
    server.changes("alice/tablet", &[&insert(2)]).await;
    let page: Value = held.await.unwrap().json();
    assert_eq!((&page["changes"][0]["server_id"], &page["next_after"]), (&json!(2), &json!(2)));
}

/// The clock stands still but for what is waited for.
#[tokio::test(start_paused = true)]
async fn a_download_is_held_no_longer_than_asked_for() {
    let began = tokio::time::Instant::now();
    let request = Request::get("/sync/download?wait=7").header("authorization", "Bearer alice/phone");
    let response = router(Setup::default().api()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!((response.status().as_u16(), began.elapsed().as_secs()), (200, 7));
}
