//! `GET /docs/`: the API explorer, from files inside the binary.

use std::sync::{Arc, LazyLock};

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Redirect, Response};
use utoipa_swagger_ui::{Config, serve};

use crate::error::{self, ApiError};

/// The validator is switched off: it would send the address of the document to a service in the internet.
static CONFIG: LazyLock<Arc<Config<'static>>> =
    LazyLock::new(|| Arc::new(Config::from("../openapi.json").validator_url("none").try_it_out_enabled(true)));

/// The page is scripts and styles of this server alone; it draws with styles and pictures that it makes itself.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
);

/// To the address from which the page's relative links work.
pub(crate) async fn redirect() -> Redirect {
    Redirect::permanent("docs/")
}

/// The page itself.
pub(crate) async fn index() -> Result<Response, ApiError> {
    respond("index.html").await
}

/// What the page loads.
pub(crate) async fn file(path: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    match path {
        Ok(Path(file)) => respond(&file).await,
        Err(_) => Err(error::not_found().await),
    }
}

async fn respond(path: &str) -> Result<Response, ApiError> {
    // The cause is no error that may be sent between threads, so it must not live across an await.
    let found = serve(path, Arc::clone(&CONFIG)).map_err(ApiError::internal)?;
    let Some(file) = found else { return Err(error::not_found().await) };
    let mut response = ([(CONTENT_TYPE, file.content_type)], file.bytes.into_owned()).into_response();
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, POLICY);
    if file.gzpipped {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}
