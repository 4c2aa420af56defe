//! Input that is meant to hurt, at the real server on every store: it costs neither a 5xx, nor a hang, nor memory.

use std::fs;
use std::process::{Command, Stdio};

use outrigger_testkit::postgres_database;
use serde_json::{Value, json};

use crate::raw::{Socket, head, host, upload};
use crate::server::Server;

/// Bytes of a request that the servers here take.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a request may cost at its worst, in bytes per byte of the limit: the text, and the payloads that are kept of it.
const MEMORY_PER_BYTE_MAX: usize = 3;
/// What may come on top of that: caches and buffers that grow once, and the five megabytes of rows that some of the
/// requests store, which others ask for as a whole.
const MEMORY_SLACK: usize = 24 * 1024 * 1024;
/// Random inputs of one round.
const CASES: u32 = 75;

const PK: &str = "550e8400-e29b-41d4-a716-446655440000";

async fn start(folder: &tempfile::TempDir, database_url: &str) -> (Server, String) {
    let limit = BODY_BYTES_MAX.to_string();
    let variables = [("DATABASE_URL", database_url), ("OUTRIGGER_LIMITS__BODY_BYTES_MAX", &limit)];
    let server = Server::start(folder.path(), &variables);
    let token = server.sign_in("alice", "phone").await.token().to_owned();
    (server, token)
}

#[tokio::test]
async fn no_input_hurts_a_server_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (server, token) = start(&folder, "memory:").await;
    nothing_hurts(&server, &token).await;
}

#[tokio::test]
async fn no_input_hurts_a_server_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let (server, token) = start(&folder, "sqlite://outrigger.db").await;
    nothing_hurts(&server, &token).await;
}

#[tokio::test]
async fn no_input_hurts_a_server_on_postgres() {
    let folder = tempfile::tempdir().unwrap();
    let database = postgres_database().await;
    let (server, token) = start(&folder, database.url()).await;
    nothing_hurts(&server, &token).await;
}

async fn nothing_hurts(server: &Server, token: &str) {
    comes_back_as_it_came(server).await;
    let before = Memory::begin(server);
    for (what, request) in
        bodies().into_iter().map(|(what, body)| (what, upload(server, token, &body))).chain(requests(server, token))
    {
        costs_nothing(server, &before, &request).unwrap_or_else(|why| panic!("{what}: {why}"));
    }
    outrigger_fuzz::run("upload", CASES, |body| costs_nothing(server, &before, &upload(server, token, body)));
    println!("all of it cost {} KiB", before.cost(server) / 1024);
    comes_back_as_it_came(server).await;
}

/// The request is answered, by no 5xx, and with it the server has never held more than before but for a bounded cost. (What
/// the requests in between have cost counts too: memory that is free again is not always given back.)
fn costs_nothing(server: &Server, before: &Memory, request: &[u8]) -> Result<(), String> {
    let mut socket = Socket::open(server);
    socket.offer(request);
    let (status, text) = socket.answer()?;
    let cost = before.cost(server);
    let start: String = text.chars().take(300).collect();
    if status >= 500 {
        return Err(format!("answered by {start}"));
    }
    let bound = MEMORY_PER_BYTE_MAX * BODY_BYTES_MAX + MEMORY_SLACK;
    if cost > bound { Err(format!("cost {cost} bytes of memory, answered by {start}")) } else { Ok(()) }
}

/// What a process holds, from here on.
struct Memory {
    begin: usize,
}

impl Memory {
    fn begin(server: &Server) -> Self {
        // Forgets the peak: https://docs.kernel.org/filesystems/proc.html
        fs::write(format!("/proc/{}/clear_refs", server.process()), "5").unwrap();
        Self { begin: Self::read(server, "VmRSS:") }
    }

    /// The highest that it was since, over what it was then.
    fn cost(&self, server: &Server) -> usize {
        Self::read(server, "VmHWM:").saturating_sub(self.begin)
    }

    fn read(server: &Server, name: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", server.process())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }
}

/// A change with that instead of one of its members.
fn change(member: &str, value: &str) -> String {
    let members = [
        ("source_change_id", "1"),
        ("table", "\"users\""),
        ("op", "\"INSERT\""),
        ("pk", &format!("\"{PK}\"")),
        ("server_version", "0"),
        ("payload", "{}"),
    ];
    let member = |(name, usual): &(&str, &str)| format!("\"{name}\":{}", if *name == member { value } else { usual });
    format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","))
}

/// As many of these, with commas, as the limit lets in between these two.
fn filled(begin: &str, piece: &str, end: &str) -> Vec<u8> {
    let room = BODY_BYTES_MAX - begin.len() - end.len() - piece.len();
    format!("{begin}{}{piece}{end}", format!("{piece},").repeat(room / (piece.len() + 1))).into_bytes()
}

/// Bodies of uploads.
fn bodies() -> Vec<(String, Vec<u8>)> {
    let mut bodies: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |what: &str, body: Vec<u8>| bodies.push((what.to_owned(), body));
    let most = BODY_BYTES_MAX / 2 - 200;
    let deep =
        |open: &str, close: &str| format!("{}0{}", open.repeat(most / open.len()), close.repeat(most / open.len()));
    let upload = |change: &str| format!("{{\"changes\":[{change}]}}").into_bytes();
    add("nothing", Vec::new());
    add("an array that is opened only", "[".repeat(BODY_BYTES_MAX).into_bytes());
    add("an array in an array", deep("[", "]").into_bytes());
    add("objects that are opened only", "{\"a\":".repeat(BODY_BYTES_MAX / 5).into_bytes());
    add("deep changes", upload(&deep("[", "]")));
    add("zeros only", vec![0; BODY_BYTES_MAX]);
    add("no UTF-8", vec![0xff; BODY_BYTES_MAX]);
    add("more than the limit", vec![b' '; BODY_BYTES_MAX + 1]);
    add("white space", vec![b' '; BODY_BYTES_MAX]);
    let [digits, text] = ["9", "x"].map(|piece| piece.repeat(BODY_BYTES_MAX - 300));
    let escapes = "\\ud800\\u0000".repeat(most / 6);
    for member in ["source_change_id", "table", "op", "pk", "server_version", "payload"] {
        for (what, value) in [
            ("a long number", digits.clone()),
            ("an exponent", "1e999999999".into()),
            ("a long text", format!("\"{text}\"")),
            ("lone surrogates and NUL", format!("\"{escapes}\"")),
            ("NUL", "\"users\\u0000\"".into()),
            ("a deep value", deep("{\"a\":", "}")),
            ("a deep array", deep("[", "]")),
        ] {
            add(&format!("{member} is {what}"), upload(&change(member, &value)));
        }
    }
    for (what, value) in [
        ("with a long number", format!("{{\"a\":{}}}", &digits[..1_000_000])),
        ("with an exponent", "{\"a\":1e999999999,\"b\":-0.0e-999999999}".into()),
        ("with lone surrogates and NUL", format!("{{\"a\":\"{}\"}}", &escapes[..960_000])),
        ("with names of NUL", "{\"\\u0000\":\"\\u0000\",\"name\":\"a\\u0000b\"}".into()),
        ("with one name a hundred thousand times", format!("{{{}\"a\":1}}", "\"a\":1,".repeat(100_000))),
        ("that is just deep enough", format!("{{\"a\":{}{}}}", "[".repeat(120), "]".repeat(120))),
    ] {
        // Each is a row of its own, written and projected; then the same change written in another way, and a conflict.
        let pk = uuid::Uuid::new_v4();
        let id = pk.as_u128() as u32;
        let change = change("payload", &value).replace(PK, &pk.to_string());
        let change = change.replace("\"source_change_id\":1", &format!("\"source_change_id\":{id}"));
        let again = change.replace(&id.to_string(), &format!("{}", u64::from(id) + (1 << 40)));
        let rewritten = change.replace("\"payload\":{", "\"payload\":{ ");
        add(&format!("a payload {what}"), upload(&format!("{change},{rewritten},{again}")));
    }
    add("changes twice", format!("{{\"changes\":[],\"changes\":[{}]}}", change("", "")).into_bytes());
    add("a number twice", upload(&change("op", "\"INSERT\",\"op\":\"DELETE\",\"source_change_id\":2")));
    for (what, piece) in
        [("zeros", "0"), ("objects", "{}"), ("arrays", "[]"), ("texts", "\"\""), ("changes", &change("", ""))]
    {
        add(&format!("as many {what} as there can be"), filled("{\"changes\":[", piece, "]}"));
    }
    // A conflict is answered with the row, once per change.
    let stale: Vec<String> = (1..=1_000)
        .map(|id| change("server_version", "77").replace("_id\":1", &format!("_id\":{}", id + 5_000)))
        .collect();
    add("a thousand conflicts", upload(&stale.join(",")));
    add("unknown members", filled("{\"changes\":[],\"x\":[", "{\"y\":[]}", "]}"));
    bodies
}

/// Requests that are strange as such.
fn requests(server: &Server, token: &str) -> Vec<(String, Vec<u8>)> {
    let mut requests: Vec<(String, Vec<u8>)> = Vec::new();
    let post = head(server, "POST /sync/upload", token) + "Content-Type: application/json\r\n";
    let mut add = |what: &str, parts: &[&[u8]]| requests.push((what.to_owned(), parts.concat()));
    let bomb = bomb();
    for coding in ["gzip", "deflate", "br", "zstd", "gzip, gzip", "identity", "nonsense"] {
        let head = format!("{post}Content-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n", bomb.len());
        add(&format!("128 MiB of white space by {coding}"), &[head.as_bytes(), &bomb]);
    }
    add("a length beyond all numbers", &[format!("{post}Content-Length: 99999999999999999999\r\n\r\n").as_bytes()]);
    add("a length beyond all memory", &[format!("{post}Content-Length: 9000000000000000000\r\n\r\n").as_bytes()]);
    let chunks =
        format!("{post}Transfer-Encoding: chunked\r\n\r\n{}", format!("1000\r\n{}\r\n", " ".repeat(4096)).repeat(600));
    add("chunks without an end", &[chunks.as_bytes(), b"0\r\n\r\n"]);
    add("a long header", &[post.as_bytes(), b"X: ", &vec![b'x'; 600_000], b"\r\n\r\n"]);
    add("many headers", &[post.as_bytes(), "X: y\r\n".repeat(500).as_bytes(), b"\r\n"]);
    add(
        "a long path",
        &[format!("GET /{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", "a".repeat(100_000), host(server))
            .as_bytes()],
    );
    add("no HTTP", &[&[0x16, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3], &[0xff; 500], b"\r\n\r\n"]);
    let long = "x".repeat(8_000);
    for path in ["/sync/download", "/sync/snapshot", "/sync/watch", "/sync/source", "/admin/materialize-failures"] {
        for query in [
            "after=%00&schema=%00",
            "limit=%ff&page=%00",
            "schema=public%00&table=%00",
            "after=-1",
            &long,
            "limit=1e9",
            "page=AAAA%00",
        ] {
            let get = head(server, &format!("GET {path}?{query}"), token);
            // A watch that is accepted has no end.
            if path != "/sync/watch" || query.starts_with("after=") {
                add(&format!("{path}?{query:.20}"), &[get.as_bytes(), b"\r\n"]);
            }
        }
    }
    for token in [&long, "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "%00", "\u{feff}"] {
        add(&format!("the token {token:.20}"), &[head(server, "GET /sync/download", token).as_bytes(), b"\r\n"]);
    }
    requests
}

/// White space that is 32 times the limit once it is inflated, behind the beginning of an upload.
fn bomb() -> Vec<u8> {
    let script = "{ printf '{\"changes\":['; head -c 134217728 /dev/zero | tr '\\0' ' '; printf ']}'; } | gzip -1";
    let made = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).output().unwrap();
    assert!(made.status.success() && made.stdout.len() < BODY_BYTES_MAX, "gzip makes it small");
    made.stdout
}

/// Text that databases are particular about is stored and handed out as it was sent.
async fn comes_back_as_it_came(server: &Server) {
    let phone = server.sign_in(&uuid::Uuid::new_v4().to_string(), "phone").await;
    let payload = r#"{"z":"\u0000","\u0000":1,"name":"a\u0000b","lone":"\ud800","n":1.50e+400,"z":"\u007f\ufffe"}"#;
    let body: Value = json!({"changes": []});
    assert_eq!(phone.post("/sync/upload", &body).await.status(), 200);
    let body = format!("{{\"changes\":[{}]}}", change("payload", payload));
    let mut socket = Socket::open(server);
    socket.send(&upload(server, phone.token(), body.as_bytes()));
    let (status, text) = socket.answer().unwrap();
    assert!(status == 200 && text.contains("\"applied\""), "{text}");
    for path in ["/sync/download?include_self=true", "/sync/snapshot?limit=10"] {
        let text = phone.send(path).await.text().await.unwrap();
        assert!(text.contains(payload), "{path}: {text}");
    }
    let body = body.replace("\"source_change_id\":1", "\"source_change_id\":2");
    let mut socket = Socket::open(server);
    socket.send(&upload(server, phone.token(), body.as_bytes()));
    let (_, text) = socket.answer().unwrap();
    assert!(text.contains("\"conflict\"") && text.contains(payload), "{text}");
}
