//! `GET /`: what this server is and how to talk to it, on one page that needs nothing from the internet.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, HOST, VARY};
use axum::http::uri::Authority;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{Html, IntoResponse, Response};

use crate::Api;
use crate::connection::Peer;

const PAGE: &str = include_str!("docs_page.html");
const DEMO_WALK: &str = include_str!("docs_page_demo.html");
const TOKEN_WALK: &str = include_str!("docs_page_token.html");

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The page; its commands name the address that the reader came by.
pub(crate) async fn docs_page(State(api): State<Arc<Api>>, request: Request) -> Response {
    let walk = if api.demo.is_some() { DEMO_WALK } else { TOKEN_WALK };
    let page = PAGE
        .replace("{{walk}}", walk)
        .replace("{{base}}", &base(&request))
        .replace("{{version}}", env!("CARGO_PKG_VERSION"));
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'");
    let vary = HeaderValue::from_static("host, x-forwarded-proto");
    ([(CONTENT_SECURITY_POLICY, policy), (VARY, vary)], Html(page)).into_response()
}

/// The server's address as the reader has it. The host is the reader's to choose, and the result stands in HTML
/// and in a shell command: anything but a plain host and port is not repeated.
fn base(request: &Request) -> String {
    let plain = |host: &&str| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
    };
    let headers = request.headers();
    // In HTTP/2 the host is part of the address.
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = request.uri().authority().map(Authority::as_str).or(host).filter(plain).unwrap_or("localhost:8080");
    let is_encrypted = request.extensions().get::<Peer>().is_some_and(|peer| peer.is_encrypted);
    let https = is_encrypted || headers.get(X_FORWARDED_PROTO).is_some_and(|scheme| scheme == "https");
    format!("{}://{host}", if https { "https" } else { "http" })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn base_for(host: &'static str) -> String {
        base(&Request::get("/").header(HOST, host).body(Body::empty()).unwrap())
    }

    #[test]
    fn a_plain_host_is_repeated_and_nothing_else() {
        assert_eq!(base_for("sync.example.org:8443"), "http://sync.example.org:8443");
        assert_eq!(base_for("[::1]:8080"), "http://[::1]:8080");
        for bad in ["", "a b", "a$(reboot)", "a;b", "<script>", "a\"b", "a'b", "a/b", "a&b"] {
            assert_eq!(base_for(bad), "http://localhost:8080", "{bad}");
        }
        assert_eq!(base(&Request::new(Body::empty())), "http://localhost:8080");
        let in_http2 = Request::get("https://sync.example.org/").body(Body::empty()).unwrap();
        assert_eq!(base(&in_http2), "http://sync.example.org");
    }

    #[test]
    fn the_scheme_is_the_proxys_or_that_of_the_connection() {
        let request = || Request::get("/").header(HOST, "h");
        assert_eq!(base(&request().header(X_FORWARDED_PROTO, "https").body(Body::empty()).unwrap()), "https://h");
        let peer = Peer { address: [127, 0, 0, 1].into(), is_encrypted: true };
        assert_eq!(base(&request().extension(peer).body(Body::empty()).unwrap()), "https://h");
    }
}
