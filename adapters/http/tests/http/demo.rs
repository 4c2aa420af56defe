//! Demo mode, the documentation page, the API explorer and the OpenAPI document.

use serde_json::{Value, json};

use crate::world::{Answer, Server, Setup, send};

async fn demo() -> Server {
    Setup { demo: true, ..Setup::default() }.start().await
}

async fn sign_in(server: &Server, body: impl Into<String>) -> Answer {
    send(server.post("/dummy-signin").header("content-type", "application/json").body(body.into())).await
}

#[tokio::test]
async fn anybody_may_sign_in_to_a_demo() {
    let server = demo().await;
    let answer = sign_in(&server, r#"{"user":"alice","password":"x","device":"phone"}"#).await;
    assert_eq!(answer.text, r#"{"token":"alice/phone","expires_in":300,"user":"alice","device":"phone"}"#);
    assert_eq!(answer.header("cache-control"), "no-store");
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(server.download(&token, "").await.status, 200);
    assert_eq!(sign_in(&server, r#"{"user":"alice","device":"phone"}"#).await.status, 200);
}

#[tokio::test]
async fn a_sign_in_is_checked() {
    let server = demo().await;
    for (body, word) in [
        (json!({"user": "", "password": "", "device": "phone"}), "`user`"),
        (json!({"user": "a\nb", "password": "", "device": "phone"}), "`user`"),
        (json!({"user": "alice", "password": "", "device": ""}), "`device`"),
        (json!({"user": "alice", "password": "", "device": "x".repeat(256)}), "`device`"),
        (json!({"user": "alice", "password": ""}), "`device`"),
        (json!({"user": 7, "password": "", "device": "phone"}), "sign-in"),
        (json!([]), "sign-in"),
    ] {
        let (status, code, message) = sign_in(&server, body.to_string()).await.error();
        assert_eq!((status, code.as_str()), (400, "invalid_request"), "{body}");
        assert!(message.contains(word), "{body}: {message}");
    }
    assert_eq!(send(server.post("/dummy-signin").body("{}")).await.error().0, 415);
}

#[tokio::test]
async fn outside_demo_mode_there_is_no_sign_in() {
    let server = Setup::default().start().await;
    let answer = sign_in(&server, r#"{"user":"alice","password":"x","device":"phone"}"#).await;
    assert_eq!(answer.error().1, "not_found");
    let document = send(server.get("/openapi.json")).await.json();
    assert_eq!(document["paths"]["/dummy-signin"], Value::Null);
    let page = send(server.get("/")).await.text;
    assert!(!page.contains("dummy-signin"), "{page}");
    assert!(page.contains("Outrigger-Source-Id"), "{page}");
}

#[tokio::test]
async fn the_page_loads_nothing_and_its_commands_name_the_readers_address() {
    let server = demo().await;
    let answer = send(server.get("/")).await;
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    let page = &answer.text;
    assert!(!page.contains("{{"), "{page}");
    assert!(page.contains(&format!("curl -s http://{}/dummy-signin", server.address)), "{page}");
    for loading in ["<script", "<link", "<img", "src=", "@import", "url("] {
        assert!(!page.contains(loading), "{loading}");
    }
    for link in ["docs/", "openapi.json"] {
        assert!(page.contains(&format!("href=\"{link}\"")), "{link}");
        assert_eq!(send(server.get(&format!("/{link}"))).await.status, 200, "{link}");
    }
    let evil = send(server.get("/").header("host", "<script>alert(1)</script>")).await;
    assert!(!evil.text.contains("<script"), "{}", evil.text);
}

/// What stands between `<pre>` and `</pre>`: the commands of the page.
fn commands(page: &str) -> Vec<String> {
    page.split("<pre>").skip(1).map(|part| part.split("</pre>").next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_commands_of_the_page_work_as_pasted() {
    let server = demo().await;
    let commands = commands(&send(server.get("/")).await.text);
    assert_eq!(commands.len(), 3);
    assert!(!commands.concat().contains('&'), "an entity would be pasted as a character");
    let script = commands.join("\necho\n");
    let output = tokio::process::Command::new("sh").arg("-c").arg(script).output().await.unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let (uploaded, downloaded) = output.trim().split_once('\n').unwrap();
    let uploaded: Value = serde_json::from_str(uploaded).unwrap();
    assert_eq!(uploaded["statuses"][0]["status"], "applied", "{uploaded}");
    let downloaded: Value = serde_json::from_str(downloaded).unwrap();
    assert_eq!(downloaded["changes"][0]["payload"]["name"], "Alice", "{downloaded}");
}

#[tokio::test]
async fn the_explorer_is_served_from_the_binary() {
    let server = Setup::default().start().await;
    let page = send(server.get("/docs")).await;
    assert_eq!(page.status, 200, "after a redirect");
    for file in ["", "swagger-initializer.js", "swagger-ui-bundle.js", "swagger-ui.css"] {
        assert_eq!(send(server.get(&format!("/docs/{file}"))).await.status, 200, "{file}");
    }
    assert!(!page.text.contains("=\"http"), "loads from elsewhere: {}", page.text);
    let settings = send(server.get("/docs/swagger-initializer.js")).await.text;
    assert!(settings.contains("../openapi.json"), "{settings}");
    assert!(settings.contains(r#""validatorUrl": "none""#), "{settings}");
    assert_eq!(send(server.get("/docs/../secret")).await.error().0, 404);
    assert_eq!(send(server.get("/docs/%ff")).await.error().0, 404);
}

/// The document is the protocol's other copy: a change of it is to be seen in a review.
#[tokio::test]
async fn the_openapi_document_is_what_it_was() {
    let server = demo().await;
    let mut document = send(server.get("/openapi.json")).await.json();
    document["info"].as_object_mut().unwrap().remove("version");
    insta::assert_json_snapshot!("openapi", document);
}

#[tokio::test]
async fn the_openapi_document_can_be_had_without_a_server() {
    let server = Setup::default().start().await;
    let served = send(server.get("/openapi.json")).await.json();
    assert_eq!(serde_json::to_value(outrigger_http::openapi()).unwrap(), served);
}

/// Whoever reads the document can follow every reference in it.
#[tokio::test]
async fn every_reference_in_the_document_leads_somewhere() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(elements) => elements.iter().for_each(|element| references(element, found)),
            _ => {}
        }
    }
    let document = send(demo().await.get("/openapi.json")).await.json();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 10);
    for reference in found {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
    }
}
