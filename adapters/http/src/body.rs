//! Bodies: JSON in, within the limit, and JSON out.

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::Serialize;

use crate::Api;
use crate::error::{ApiError, ErrorKind};

/// The text of a request's body that calls itself JSON.
pub(crate) struct JsonText(pub(crate) String);

impl FromRequest<Api> for JsonText {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            let message = "the body must be JSON: send the header Content-Type: application/json";
            return Err(ApiError::client(ErrorKind::UnsupportedMediaType, message));
        }
        let bytes = read(request.into_body(), api.body_bytes_max).await?;
        let text = String::from_utf8(bytes).map_err(|_| ApiError::invalid_request("the body is not UTF-8"))?;
        Ok(Self(text))
    }
}

/// Answers 200 with that JSON, which takes about `bytes` bytes. Nothing here may be kept by a cache.
pub(crate) fn json(body: &impl Serialize, bytes: usize) -> Response {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
    let mut text = Vec::with_capacity(bytes);
    match serde_json::to_writer(&mut text, body) {
        Ok(()) => ([(CONTENT_TYPE, JSON), (CACHE_CONTROL, NO_STORE)], text).into_response(),
        Err(error) => ApiError::internal(error).into_response(),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

async fn read(body: Body, max: usize) -> Result<Vec<u8>, ApiError> {
    let too_large = || ApiError::client(ErrorKind::PayloadTooLarge, format!("the body has more than {max} bytes"));
    // A body that announces its size is refused, or given its room, before any of it has been read.
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > max {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(announced);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk: Bytes = chunk.map_err(|_| ApiError::invalid_request("the body ended before it was complete"))?;
        if chunk.len() > max - bytes.len() {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
