//! Who is asking, as an argument of a handler.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use outrigger_application::{Caller, Credentials};

use crate::Api;
use crate::admission::{Client, Place};
use crate::error::{ApiError, ErrorKind};
use crate::limits::Slot;

pub(crate) const SOURCE_ID: HeaderName = HeaderName::from_static("outrigger-source-id");

/// The device that the request's credentials speak for.
pub(crate) struct Authenticated(pub(crate) Caller);

impl FromRequestParts<Arc<Api>> for Authenticated {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        let limiter = &api.admission.limiter;
        let caller = match authenticate(parts, api).await {
            Ok(caller) => caller,
            Err(error) => {
                let Ok(Client(address)) = Client::from_request_parts(parts, api).await;
                limiter.address(address)?;
                return Err(error);
            }
        };
        tracing::Span::current().record("user.id", caller.user.as_str());
        limiter.user(&caller.user)?;
        let Ok(place) = Place::from_request_parts(parts, api).await;
        place.of(limiter, &caller.user)?;
        Ok(Self(caller))
    }
}

/// An administrator: a device whose credentials say so besides.
pub(crate) struct Administrator;

impl FromRequestParts<Arc<Api>> for Administrator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        let Authenticated(caller) = Authenticated::from_request_parts(parts, api).await?;
        if caller.is_admin { Ok(Self) } else { Err(not_an_administrator()) }
    }
}

/// That something is for administrators only.
pub(crate) fn not_an_administrator() -> ApiError {
    ApiError::client(ErrorKind::Forbidden, "this is for administrators: the token does not say that it is one's")
}

async fn authenticate(parts: &Parts, api: &Arc<Api>) -> Result<Caller, ApiError> {
    let Some(authorization) = single(&parts.headers, &AUTHORIZATION)? else {
        return Err(refused("send the header Authorization: Bearer <token>"));
    };
    let credentials = Credentials { token: bearer(authorization)?, source_header: single(&parts.headers, &SOURCE_ID)? };
    Ok(api.authenticator.authenticate(credentials).await?)
}

/// A device that uploads: one of the places that its user has for that is its own, before anything of the body is read.
pub(crate) struct Uploading {
    pub(crate) caller: Caller,
    pub(crate) slot: Slot,
}

impl FromRequestParts<Arc<Api>> for Uploading {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, ApiError> {
        let Authenticated(caller) = Authenticated::from_request_parts(parts, api).await?;
        let slot = api.admission.limiter.upload(&caller.user)?;
        Ok(Self { caller, slot })
    }
}

/// The token of `Bearer <token>`; the scheme's name has no case (RFC 9110, 11.1).
fn bearer(authorization: &str) -> Result<&str, ApiError> {
    match authorization.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => Ok(token.trim()),
        _ => Err(refused("the header Authorization must be: Bearer <token>")),
    }
}

/// A header's only value. Of two values nobody could say which one counts.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(refused(format!("the header {name} was sent twice"))),
        (Some(value), None) => match std::str::from_utf8(value.as_bytes()) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(refused(format!("the header {name} is not UTF-8"))),
        },
    }
}

fn refused(message: impl Into<std::borrow::Cow<'static, str>>) -> ApiError {
    ApiError::client(ErrorKind::AuthenticationFailed, message)
}
