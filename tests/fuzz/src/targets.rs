//! What must hold of the answer to any input.

use std::cell::RefCell;
use std::ffi::OsString;

use axum::body::Body;
use axum::http::{HeaderValue, Request, StatusCode, Uri};
use outrigger_config::{Flags, Purpose};
use serde::Deserialize;
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::corpus;
use crate::server::{Answer, BODY_BYTES_MAX, Server};

/// Inputs that one server gets, so that what it stores does not fill the memory of a long run.
const INPUTS_MAX: usize = 5_000;

/// The endpoints that take a query.
const QUERIED: [&str; 6] = [
    "/sync/download",
    "/sync/snapshot",
    "/sync/watch",
    "/sync/source",
    "/admin/materialize-failures",
    "/admin/materialize-failures/retry",
];

/// What is read of an answer. The row of a conflict is not: its payload comes back as it came, with lone surrogates.
#[derive(Deserialize)]
struct Uploaded {
    statuses: Vec<Status>,
}

#[derive(Deserialize)]
struct Status {
    status: String,
}

/// The body of an upload: it is answered by one status per change, or refused as a whole, and both times alike.
pub fn upload(input: &[u8]) -> Result<(), String> {
    let changes =
        serde_json::from_slice::<Value>(input).ok().and_then(|body| Some(body.get("changes")?.as_array()?.len()));
    // What is applied the first time is known the second time.
    let twice = with_server(|server| {
        let user = server.new_user();
        Ok::<_, String>([server.upload(&user, input)?, server.upload(&user, input)?])
    })?;
    for answer in twice {
        match answer.status {
            StatusCode::OK => {
                let Uploaded { statuses } =
                    serde_json::from_str(&answer.body).map_err(|error| format!("{error}: {}", answer.body))?;
                // Our own reading gives up at a depth and at lone surrogates, which the server's need not.
                if changes.is_some_and(|changes| changes != statuses.len()) {
                    return Err(format!("{changes:?} changes are answered by {}", statuses.len()));
                }
                let known = |status: &Status| ["applied", "conflict", "invalid"].contains(&&*status.status);
                if !statuses.iter().all(known) {
                    return Err(format!("unknown statuses: {}", answer.body));
                }
            }
            StatusCode::BAD_REQUEST => refused(&answer, "invalid_request")?,
            StatusCode::CONFLICT => refused(&answer, "epoch_changed")?,
            StatusCode::PAYLOAD_TOO_LARGE if input.len() > BODY_BYTES_MAX => refused(&answer, "payload_too_large")?,
            status => return Err(format!("answered by {status}: {}", answer.body)),
        }
    }
    Ok(())
}

/// The query of any endpoint that takes one; the input's first byte chooses which. The user has all that the corpus of
/// uploads leaves.
pub fn query(input: &[u8]) -> Result<(), String> {
    let Some((first, query)) = input.split_first() else { return Ok(()) };
    let path = QUERIED[usize::from(*first) % QUERIED.len()];
    let Ok(uri) = Uri::try_from([path.as_bytes(), b"?", query].concat()) else { return Ok(()) };
    let answer = with_reader(|server, user| {
        let request = if path.ends_with("retry") { Request::post(uri) } else { Request::get(uri) };
        let request = request.header("authorization", format!("Bearer {user}"));
        server.ask(request.body(Body::empty()).map_err(|error| error.to_string())?)
    })?;
    match answer.status {
        StatusCode::OK => Ok(()),
        StatusCode::BAD_REQUEST => refused(&answer, "invalid_request"),
        // Who asks is no administrator.
        StatusCode::FORBIDDEN if path.starts_with("/admin/") => refused(&answer, "forbidden"),
        StatusCode::NOT_FOUND => refused(&answer, "not_found"),
        StatusCode::CONFLICT => refused(&answer, "cursor_ahead").or_else(|_| refused(&answer, "epoch_changed")),
        status => Err(format!("{path} answers {status}: {}", answer.body)),
    }
}

/// The token, and behind a line feed the header for a source: only a token that was signed is taken.
pub fn token(input: &[u8]) -> Result<(), String> {
    let mut parts = input.splitn(2, |byte| *byte == b'\n');
    let (token, source) = (parts.next().unwrap_or_default(), parts.next());
    let Some(answer) = answer_to(token, source)? else { return Ok(()) };
    match answer.status {
        StatusCode::OK if is_signed(token) => Ok(()),
        StatusCode::OK => Err("a token is taken that nobody has signed".into()),
        StatusCode::UNAUTHORIZED if !answer.headers.contains_key("www-authenticate") => Err("no challenge".into()),
        // Shorter ones are in every text; and what any other one is told as well does not come from this one.
        StatusCode::UNAUTHORIZED
            if token.len() > 12
                && contains(answer.body.as_bytes(), token)
                && answer_to(b"another", source)?.is_none_or(|other| other.body != answer.body) =>
        {
            Err("the answer echoes the token".into())
        }
        StatusCode::UNAUTHORIZED => refused(&answer, "authentication_failed"),
        status => Err(format!("answered by {status}: {}", answer.body)),
    }
}

/// What that token is told, unless no request can have such headers.
fn answer_to(token: &[u8], source: Option<&[u8]>) -> Result<Option<Answer>, String> {
    let authorization = [b"Bearer ", token].concat();
    let mut request = Request::get("/sync/schema-version");
    for (name, value) in [("authorization", Some(&*authorization)), ("outrigger-source-id", source)] {
        let Some(value) = value else { continue };
        let Ok(value) = HeaderValue::from_bytes(value) else { return Ok(None) };
        request = request.header(name, value);
    }
    let request = request.body(Body::empty()).map_err(|error| error.to_string())?;
    with_server(|server| server.ask(request)).map(Some)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// The configuration file: it can be started with, or one sentence says why not, and does not show the secret.
pub fn configuration(input: &[u8]) -> Result<(), String> {
    const SECRET: &str = "01234567890123456789012345678901";
    thread_local! {
        static FILE: NamedTempFile = NamedTempFile::new().expect("a file can be made");
    }
    FILE.with(|file| {
        std::fs::write(file.path(), input).map_err(|error| error.to_string())?;
        let flags = Flags { config: Some(file.path().into()), ..Flags::default() };
        let environment = [(OsString::from("JWT_SECRET"), OsString::from(SECRET))];
        let Err(error) = outrigger_config::load(&flags, environment, Purpose::Serve) else { return Ok(()) };
        match error.to_string() {
            sentence if sentence.contains('\n') => Err(format!("more than a sentence: {sentence}")),
            // The file's own words may be quoted.
            sentence if sentence.contains(SECRET) && !contains(input, SECRET.as_bytes()) => {
                Err(format!("it shows the secret: {sentence}"))
            }
            _ => Ok(()),
        }
    })
}

fn is_signed(token: &[u8]) -> bool {
    let signed = |(path, input): (std::path::PathBuf, Vec<u8>)| {
        let is_good = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("good"));
        is_good && input.split(|byte| *byte == b'\n').next() == Some(token.trim_ascii())
    };
    corpus("token").into_iter().any(signed)
}

/// It is an error of the one shape that errors have.
fn refused(answer: &Answer, code: &str) -> Result<(), String> {
    let body: Value = serde_json::from_str(&answer.body).map_err(|error| format!("{error}: {}", answer.body))?;
    if body["error"] == code && body["message"].is_string() { Ok(()) } else { Err(format!("it is no {code}: {body}")) }
}

fn with_server<T>(ask: impl FnOnce(&mut Server) -> T) -> T {
    thread_local! {
        static SERVER: RefCell<(usize, Server)> = RefCell::new((0, Server::new()));
    }
    SERVER.with_borrow_mut(|(inputs, server)| {
        *inputs += 1;
        if *inputs % INPUTS_MAX == 0 {
            *server = Server::new();
        }
        ask(server)
    })
}

/// A server that is only read from, and a user with something to read.
fn with_reader<T>(ask: impl FnOnce(&Server, &str) -> T) -> T {
    thread_local! {
        static SERVER: (Server, String) = {
            let mut server = Server::new();
            let user = server.new_user();
            let is_stored = |body: &[u8]| server.upload(&user, body).is_ok_and(|answer| answer.status == StatusCode::OK);
            let stored = corpus("upload").iter().filter(|(_, body)| is_stored(body)).count();
            assert!(stored > 0, "nothing could be uploaded");
            (server, user)
        };
    }
    SERVER.with(|(server, user)| ask(server, user))
}
