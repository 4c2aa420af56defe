//! Bodies: JSON in, within the limit, and JSON out.

use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::Serialize;
use tokio::io::AsyncReadExt;

use crate::Api;
use crate::error::{ApiError, ErrorKind};
use crate::inflate::Coding;
use crate::pace::TooSlow;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// The text of a request's body that calls itself JSON.
pub(crate) struct JsonText(pub(crate) String);

impl FromRequest<Arc<Api>> for JsonText {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            let message = "the body must be JSON: send the header Content-Type: application/json";
            return Err(ApiError::client(ErrorKind::UnsupportedMediaType, message));
        }
        let (parts, body) = request.into_parts();
        let bytes = read(&parts.headers, body, api.body_bytes_max).await?;
        let text = String::from_utf8(bytes).map_err(|_| ApiError::invalid_request("the body is not UTF-8"))?;
        Ok(Self(text))
    }
}

/// The text of a request's body that calls itself JSON, or no body at all.
pub(crate) struct OptionalJson(pub(crate) Option<String>);

impl FromRequest<Arc<Api>> for OptionalJson {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let bytes = read(&parts.headers, body, api.body_bytes_max).await?;
        if bytes.is_empty() {
            return Ok(Self(None));
        }
        parts.headers.remove(CONTENT_ENCODING);
        let JsonText(text) = JsonText::from_request(Request::from_parts(parts, bytes.into()), api).await?;
        Ok(Self(Some(text)))
    }
}

/// Answers 200 with that JSON, which takes about `bytes` bytes. Nothing here may be kept by a cache.
pub(crate) fn json(body: &impl Serialize, bytes: usize) -> Response {
    let mut text = Vec::with_capacity(bytes);
    match serde_json::to_writer(&mut text, body) {
        Ok(()) => json_text(text),
        Err(error) => ApiError::internal(error).into_response(),
    }
}

/// Answers 200 with JSON that is written already.
pub(crate) fn json_text(text: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, JSON), (CACHE_CONTROL, NO_STORE)], text).into_response()
}

/// Answers 200 with JSON that is sent piece by piece, as it is made.
pub(crate) fn json_stream(
    pieces: impl Iterator<Item = Result<Vec<u8>, serde_json::Error>> + Send + 'static,
) -> Response {
    let body = Body::from_stream(futures::stream::iter(pieces));
    ([(CONTENT_TYPE, JSON), (CACHE_CONTROL, NO_STORE)], body).into_response()
}

/// What is wrong with a text that is no JSON of the right shape, in few words: it may quote the text, which is
/// the client's and may be long.
pub(crate) fn brief(error: &serde_json::Error) -> String {
    const CHARS_MAX: usize = 200;
    error.to_string().chars().take(CHARS_MAX).collect()
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

async fn read(headers: &HeaderMap, body: Body, max: usize) -> Result<Vec<u8>, ApiError> {
    // A body that announces its size is refused, or given its room, before any of it has been read.
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > max {
        return Err(too_large(max));
    }
    if let Some(coding) = Coding::of(headers)? {
        return inflate(coding, body, max).await;
    }
    let mut bytes = Vec::with_capacity(announced);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk: Bytes = chunk.map_err(|error| if TooSlow::is_cause_of(&error) { too_slow() } else { cut() })?;
        if chunk.len() > max - bytes.len() {
            return Err(too_large(max));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn inflate(coding: Coding, body: Body, max: usize) -> Result<Vec<u8>, ApiError> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::TimedOut => too_slow(),
        std::io::ErrorKind::ConnectionAborted => cut(),
        std::io::ErrorKind::FileTooLarge => too_large(max),
        _ => ApiError::invalid_request("the body is not compressed as its header Content-Encoding says"),
    };
    let mut reader = coding.inflate(body, max);
    let mut bytes = Vec::new();
    while reader.read_buf(&mut bytes).await.map_err(failed)? > 0 {
        if bytes.len() > max {
            return Err(too_large(max));
        }
        // Little can become much without anything to wait for.
        tokio::task::consume_budget().await;
    }
    Ok(bytes)
}

fn too_large(max: usize) -> ApiError {
    ApiError::client(ErrorKind::PayloadTooLarge, format!("the body has more than {max} bytes"))
}

fn too_slow() -> ApiError {
    ApiError::client(ErrorKind::RequestTimeout, "the body came too slowly")
}

fn cut() -> ApiError {
    ApiError::invalid_request("the body ended before it was complete")
}
