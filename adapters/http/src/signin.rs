//! `POST /dummy-signin`: tokens for anybody, in demo mode only.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use outrigger_domain::json::FromObject;
use outrigger_domain::{SourceId, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Api;
use crate::admission::Anonymous;
use crate::body::{JsonText, brief, json};
use crate::error::{self, ApiError};
use crate::openapi::SigninErrors;

/// How long a demo token lasts.
const TTL: Duration = Duration::from_secs(300);

/// Whoever one wants to be.
#[derive(Deserialize, ToSchema)]
pub(crate) struct SigninRequest {
    #[schema(example = "alice")]
    user: String,
    /// Not looked at.
    #[serde(default)]
    #[schema(example = "demo")]
    #[expect(dead_code, reason = "part of the shape; a demo has no passwords to compare it with")]
    password: String,
    #[schema(example = "phone")]
    device: String,
}

/// A token for this user and device.
#[derive(Serialize, ToSchema)]
pub(crate) struct SigninResponse<'a> {
    token: &'a str,
    /// Seconds.
    #[schema(example = 300)]
    expires_in: u64,
    #[schema(example = "alice")]
    user: &'a str,
    #[schema(example = "phone")]
    device: &'a str,
}

/// Sign in without an account (demo mode)
///
/// Any user, any password: this endpoint exists only in demo mode.
#[utoipa::path(
    post,
    path = "/dummy-signin",
    tag = "demo",
    request_body = SigninRequest,
    responses((status = 200, description = "A token.", body = SigninResponse), SigninErrors),
)]
pub(crate) async fn dummy_signin(
    State(api): State<Arc<Api>>,
    _: Anonymous,
    JsonText(text): JsonText,
) -> Result<Response, ApiError> {
    let Some(demo) = &api.demo else { return Err(error::not_found().await) };
    let FromObject(request): FromObject<SigninRequest> = serde_json::from_str(&text)
        .map_err(|error| ApiError::invalid_request(format!("the body is no sign-in: {}", brief(&error))))?;
    let user = UserId::parse(&request.user).map_err(|why| ApiError::invalid_request(format!("`user` {why}")))?;
    let device =
        SourceId::parse(&request.device).map_err(|why| ApiError::invalid_request(format!("`device` {why}")))?;
    let token = demo.issuer.issue(&user, &device, TTL);
    let body =
        SigninResponse { token: &token, expires_in: TTL.as_secs(), user: user.as_str(), device: device.as_str() };
    Ok(json(&body, 512))
}
