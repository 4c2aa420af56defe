//! Answers that no Outrigger gives: each is an error, and leaves everything as it was.

use outrigger_client::transport::Response;
use outrigger_client::{Conflicts, Error};
use serde_json::{Value, json};

use crate::world::{Device, Server, conflicts, pk, settle};

/// A sync that is to come to an end.
async fn sync(device: &Device) -> Result<outrigger_client::Report, Error> {
    let sync = device.client.sync_once();
    tokio::time::timeout(std::time::Duration::from_secs(60), sync).await.expect("it comes to an end")
}

/// What is wrong with an answer.
type Spoil = fn(&mut Value);

fn spoiled(body: &str, spoil: Spoil) -> String {
    let mut body = serde_json::from_str(body).unwrap();
    spoil(&mut body);
    body.to_string()
}

/// A phone that has an edit to upload and changes to download.
async fn waiting(server: &Server) -> (Device, Device) {
    let phone = server.device_with("phone", |config| config.conflicts(Conflicts::ServerWins));
    let laptop = server.device("laptop");
    phone.execute(&format!("INSERT INTO users (id, name) VALUES ('{}', 'a'), ('{}', 'b')", pk(1), pk(2)));
    settle(&[&phone, &laptop]).await;
    laptop.execute(&format!("UPDATE users SET age = 1 WHERE name = 'b'; INSERT INTO users (id) VALUES ('{}')", pk(3)));
    laptop.sync().await;
    phone.execute("UPDATE users SET name = 'mine' WHERE name = 'a'");
    (phone, laptop)
}

fn state(phone: &Device) -> (Vec<String>, Vec<String>, usize) {
    let cursor = phone.rows("SELECT key || value FROM _outrigger_state WHERE key IN ('cursor', 'epoch', 'until')");
    (phone.contents(), cursor, phone.client.unsent().unwrap())
}

/// That path is answered with that; a sync fails for it, and one with the real answer comes to the right end.
async fn refuses(path: &'static str, what: &str, answer: impl Fn(Response) -> Response + Send + 'static) {
    let server = Server::memory().await;
    let (phone, laptop) = waiting(&server).await;
    let mut before = state(&phone);
    phone.link.tamper(move |request, real| if request.path.starts_with(path) { answer(real) } else { real });
    let done = sync(&phone).await;
    assert!(matches!(done, Err(Error::Protocol(_))), "{path}, {what}: {done:?}");
    if path == "/sync/download" {
        // Its edit went up before.
        before.2 = 0;
    }
    assert_eq!(state(&phone), before, "{path}, {what}");
    phone.link.leave_alone();
    let rows = settle(&[&phone, &laptop]).await;
    assert!(rows.len() == 3 && rows.iter().any(|row| row.contains("'mine'")), "{path}, {what}: {rows:?}");
}

const PORTAL: &str = "<html><body>Welcome to the airport. Please sign in.</body></html>";

#[tokio::test]
async fn what_is_no_json_of_the_protocol_is_refused() {
    for path in ["/sync/upload", "/sync/download"] {
        for body in [PORTAL, "", "null", "[]", "{}", "{\"changes\":[],\"statuses\":[]", "\u{0}", "{\"changes\":5}"] {
            refuses(path, body, |real| Response { body: body.to_owned(), ..real }).await;
        }
        refuses(path, "cut in the middle", |mut real| {
            real.body.truncate(real.body.len() / 2);
            real
        })
        .await;
        refuses(path, "moved", |real| Response { status: 302, ..real }).await;
        refuses(path, "nothing", |real| Response { status: 204, body: String::new(), ..real }).await;
    }
}

#[tokio::test]
async fn pages_that_cannot_be_are_refused() {
    let pages: [(&str, Spoil); 18] = [
        ("it does not advance", |page| (page["has_more"], page["next_after"]) = (json!(true), json!(0))),
        ("it goes back", |page| page["next_after"] = json!(-7)),
        ("it ends before its changes", |page| {
            page["next_after"] = json!(page["changes"][0]["server_id"].as_i64().unwrap() - 1)
        }),
        ("it is not in order", |page| page["changes"].as_array_mut().unwrap().reverse()),
        ("a change of before", |page| page["changes"][0]["server_id"] = json!(0)),
        ("a change twice", |page| page["changes"][1] = page["changes"][0].clone()),
        ("a giant number", |page| page["next_after"] = serde_json::from_str("123456789012345678901234567890").unwrap()),
        ("a number that is none", |page| page["next_after"] = json!("12")),
        ("a broken number", |page| page["next_after"] = json!(12.5)),
        ("a version of nothing", |page| page["changes"][0]["server_version"] = json!(0)),
        ("a negative version", |page| page["changes"][0]["server_version"] = json!(-1)),
        ("a payload that is a number", |page| page["changes"][0]["payload"] = json!(5)),
        ("a payload that is a list", |page| page["changes"][0]["payload"] = json!([1])),
        ("a payload that is text", |page| page["changes"][0]["payload"] = json!("{}")),
        ("a row without a payload", |page| page["changes"][0]["payload"] = json!(null)),
        ("a deleted row with a payload", |page| page["changes"][0]["deleted"] = json!(true)),
        ("a key that is none", |page| page["changes"][1]["pk"] = json!("robert'); DROP TABLE users; --")),
        ("a table that is none", |page| page["changes"][0]["table"] = json!(null)),
    ];
    for (what, spoil) in pages {
        refuses("/sync/download", what, move |real| Response { body: spoiled(&real.body, spoil), ..real }).await;
    }
}

#[tokio::test]
async fn statuses_that_cannot_be_are_refused() {
    let statuses: [(&str, Spoil); 9] = [
        ("none", |answer| answer["statuses"] = json!([])),
        ("too many", |answer| {
            let more = answer["statuses"][0].clone();
            answer["statuses"].as_array_mut().unwrap().push(more);
        }),
        ("of another change", |answer| answer["statuses"][0]["source_change_id"] = json!(999)),
        ("an unknown one", |answer| answer["statuses"][0]["status"] = json!("perhaps")),
        ("applied without a version", |answer| answer["statuses"][0]["new_server_version"] = json!(null)),
        ("applied at a version of nothing", |answer| answer["statuses"][0]["new_server_version"] = json!(0)),
        ("a conflict with nothing", |answer| answer["statuses"][0]["status"] = json!("conflict")),
        ("invalid without a reason", |answer| answer["statuses"][0]["status"] = json!("invalid")),
        ("a conflict with what is no row", |answer| {
            answer["statuses"][0] = json!({"source_change_id": answer["statuses"][0]["source_change_id"],
                "status": "conflict", "server_row": {"server_version": 9, "deleted": false, "payload": []}});
        }),
    ];
    for (what, spoil) in statuses {
        refuses("/sync/upload", what, move |real| Response { body: spoiled(&real.body, spoil), ..real }).await;
    }
}

/// What the server says without end comes to an end here, and the edit is still there.
#[tokio::test]
async fn a_server_that_goes_round_in_circles_is_left() {
    let server = Server::memory().await;
    let circles: [(&str, Spoil); 2] = [
        ("every change conflicts", |answer| {
            answer["statuses"][0] = json!({"source_change_id": answer["statuses"][0]["source_change_id"],
                "status": "conflict", "server_row": {"server_version": 9, "deleted": false, "payload": {"name": "x"}}});
        }),
        ("every number was used", |answer| {
            answer["statuses"][0] = json!({"source_change_id": answer["statuses"][0]["source_change_id"],
                "status": "invalid", "invalid": {"reason": "source_change_id_reused", "details": {}}});
        }),
    ];
    for (what, spoil) in circles {
        let phone = server.device_with(what, |config| config.conflicts(Conflicts::ClientWins));
        phone.execute(&format!("INSERT INTO users (id, name) VALUES ('{}', '{what}')", pk(50)));
        phone.link.tamper(move |request, real| match &*request.path {
            "/sync/upload" => Response { body: spoiled(&real.body, spoil), ..real },
            _ => real,
        });
        let done = sync(&phone).await;
        assert!(matches!(done, Err(Error::Protocol(_))), "{what}: {done:?}");
        assert_eq!(phone.client.unsent().unwrap(), 1);
        phone.link.leave_alone();
        phone.sync().await;
        assert!(phone.contents()[0].contains(what));
    }
    let reset = Response { status: 410, body: r#"{"error":"history_pruned","message":""}"#.into(), retry_after: None };
    for path in ["/sync/download", "/sync/snapshot"] {
        let server = Server::memory().await;
        let (phone, laptop) = waiting(&server).await;
        let reset = reset.clone();
        phone.link.tamper(move |request, real| {
            let is_first = path != "/sync/snapshot" && request.path.starts_with(path);
            let is_both = path == "/sync/snapshot" && !request.path.starts_with("/sync/source");
            if is_first || is_both { reset.clone() } else { real }
        });
        let done = sync(&phone).await;
        assert!(matches!(done, Err(Error::Protocol(_))), "{path}: {done:?}");
        phone.link.leave_alone();
        let rows = settle(&[&phone, &laptop]).await;
        assert!(rows.iter().any(|row| row.contains("'mine'")), "{path}: {rows:?}");
    }
}

#[tokio::test]
async fn snapshots_that_cannot_be_are_refused() {
    let server = Server::memory().await;
    let phone = server.device("phone");
    let many: Vec<String> = (0..1_500).map(|n| format!("('{}', 'user {n}')", pk(n))).collect();
    phone.execute(&format!("INSERT INTO users (id, name) VALUES {}", many.join(", ")));
    phone.sync().await;
    let snapshots: [(&str, Spoil); 6] = [
        ("the same page again", |page| {
            page["next_page"] = json!("2~a5309c4538b34606af473731e22e5860~171ae462d081dace~public.posts");
        }),
        ("of another time", |page| {
            if page["next_page"].is_null() {
                page["as_of"] = json!(1_000_000);
            }
        }),
        ("of no time", |page| page["as_of"] = json!(-1)),
        ("a row that is none", |page| page["rows"][0]["payload"] = json!(true)),
        ("a row without a payload", |page| page["rows"][0]["payload"] = json!(null)),
        ("rows that are none", |page| page["rows"] = json!({"a": 1})),
    ];
    for (n, (what, spoil)) in snapshots.into_iter().enumerate() {
        let new = server.device(&format!("new-{n}"));
        let key = pk(90_000 + u32::try_from(n).unwrap());
        new.execute(&format!("INSERT INTO users (id, name) VALUES ('{key}', 'mine {n}')"));
        let first = std::sync::Mutex::new(None);
        new.link.tamper(move |request, real| {
            if !request.path.starts_with("/sync/snapshot") {
                return real;
            }
            // Whatever page it asks for: the first one.
            let body = first.lock().unwrap().get_or_insert(real.body.clone()).clone();
            let body = if what == "the same page again" { body } else { real.body };
            Response { status: 200, body: spoiled(&body, spoil), retry_after: None }
        });
        let done = sync(&new).await;
        assert!(matches!(done, Err(Error::Protocol(_))), "{what}: {done:?}");
        assert_eq!(new.rows("SELECT 1 || '' FROM _outrigger_state WHERE key = 'cursor'").len(), 0, "{what}");
        assert_eq!(new.client.unsent().unwrap(), 1, "{what}");
        new.link.leave_alone();
        assert!(settle(&[&new, &phone]).await.iter().any(|row| row.contains(&key)), "{what}");
    }
}

#[tokio::test]
async fn numbers_without_end_and_tables_that_nobody_knows_do_no_harm() {
    let server = Server::memory().await;
    let highest = server.device("phone");
    highest.link.tamper(|request, real| match &*request.path {
        "/sync/source" => Response {
            body: spoiled(&real.body, |source| source["highest_source_change_id"] = json!(i64::MAX)),
            ..real
        },
        _ => real,
    });
    assert!(matches!(sync(&highest).await, Err(Error::Protocol(_))));
    highest.link.leave_alone();
    highest.sync().await;

    let (phone, _laptop) = waiting(&server).await;
    let mut events = phone.client.events();
    phone.link.tamper(|request, real| match request.path.starts_with("/sync/download") {
        true => Response {
            body: spoiled(&real.body, |page| {
                page["changes"][0]["table"] = json!("sqlite_schema");
                page["changes"][1]["payload"] = json!({"age": "GIANT", "name": "never"});
            })
            .replace("\"GIANT\"", "1e999"),
            ..real
        },
        false => real,
    });
    phone.sync().await;
    // What does not fit the table waits, and is told of; an unknown table is passed over.
    assert_eq!(phone.rows("SELECT pk FROM _outrigger_unapplied").len(), 1);
    assert_eq!(conflicts(&mut events), 0);
}
