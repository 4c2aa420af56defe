//! The one table of errors: what a failure is called and which status it has.

use std::any::Any;
use std::borrow::Cow;

use axum::http::header::{CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use outrigger_application::{AuthError, StoreError, SyncError};
use outrigger_domain::Reset;

use crate::admission::Anonymous;
use crate::body::json;
use crate::wire::ErrorBody;

/// Seconds after which a device may try again what failed with a 503.
const RETRY_AFTER_S: &str = "2";

/// What went wrong, as far as a client can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    InvalidRequest,
    AuthenticationFailed,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    RetryInProgress,
    CursorAhead,
    EpochChanged,
    HistoryPruned,
    PayloadTooLarge,
    UnsupportedMediaType,
    RequestTimeout,
    RateLimited,
    InternalError,
    Unavailable,
}

impl ErrorKind {
    /// The status and the code of the body.
    pub(crate) fn row(self) -> (StatusCode, &'static str) {
        match self {
            Self::InvalidRequest => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::AuthenticationFailed => (StatusCode::UNAUTHORIZED, "authentication_failed"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::RetryInProgress => (StatusCode::CONFLICT, "retry_in_progress"),
            Self::CursorAhead => (StatusCode::CONFLICT, "cursor_ahead"),
            Self::EpochChanged => (StatusCode::CONFLICT, "epoch_changed"),
            Self::HistoryPruned => (StatusCode::GONE, "history_pruned"),
            Self::PayloadTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large"),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "request_timeout"),
            Self::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::InternalError => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        }
    }

    /// The header that goes with the status.
    pub(crate) fn header(self) -> Option<(axum::http::HeaderName, HeaderValue)> {
        match self {
            Self::AuthenticationFailed => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            Self::RateLimited | Self::Unavailable => Some((RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S))),
            // What is left of the body is not waited for.
            Self::RequestTimeout => Some((CONNECTION, HeaderValue::from_static("close"))),
            Self::InvalidRequest
            | Self::Forbidden
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::RetryInProgress
            | Self::CursorAhead
            | Self::EpochChanged
            | Self::HistoryPruned
            | Self::PayloadTooLarge
            | Self::UnsupportedMediaType
            | Self::InternalError => None,
        }
    }
}

/// A request that failed as a whole.
#[derive(Debug)]
pub(crate) struct ApiError {
    kind: ErrorKind,
    /// For the client.
    message: Cow<'static, str>,
    /// For the log only.
    cause: Option<String>,
    /// What the device has to start again with.
    reset: Option<Reset>,
    /// Seconds after which the device may try again, if that is not as usual.
    retry_after_s: Option<u64>,
}

impl ApiError {
    /// An error that the client can do something about: the message says what.
    pub(crate) fn client(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), cause: None, reset: None, retry_after_s: None }
    }

    /// A request that is not as the protocol has it.
    pub(crate) fn invalid_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::client(ErrorKind::InvalidRequest, message)
    }

    /// A request that may succeed later.
    pub(crate) fn unavailable(message: &'static str, cause: impl ToString) -> Self {
        Self {
            kind: ErrorKind::Unavailable,
            message: message.into(),
            cause: Some(cause.to_string()),
            reset: None,
            retry_after_s: None,
        }
    }

    /// The same, to be tried again after so many seconds.
    pub(crate) fn after(self, retry_after_s: u64) -> Self {
        Self { retry_after_s: Some(retry_after_s), ..self }
    }

    /// A failure of the server itself.
    pub(crate) fn internal(cause: impl ToString) -> Self {
        let message = "the server failed; its log says more under this answer's x-request-id";
        Self {
            kind: ErrorKind::InternalError,
            message: message.into(),
            cause: Some(cause.to_string()),
            reset: None,
            retry_after_s: None,
        }
    }
}

/// The failure is logged here, once; the request's span says which request it was.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = self.kind.row();
        match (self.kind, &self.cause) {
            (_, None) => {}
            (ErrorKind::Unavailable, Some(cause)) => tracing::warn!(cause, "unavailable"),
            (_, Some(cause)) => tracing::error!(cause, "internal error"),
        }
        let mut response = json(&ErrorBody::new(code, &self.message, self.reset), 256);
        *response.status_mut() = status;
        response.headers_mut().extend(self.kind.header());
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<&StoreError> for ApiError {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Contention => Self::unavailable("too many uploads of this user at once; try again", error),
            StoreError::Unavailable(_) => Self::unavailable("the storage does not answer; try again", error),
            StoreError::Corrupt { .. } | StoreError::Backend(_) => Self::internal(error),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::from(&error)
    }
}

impl From<Reset> for ApiError {
    fn from(reset: Reset) -> Self {
        let kind = match reset {
            Reset::EpochChanged { .. } => ErrorKind::EpochChanged,
            Reset::CursorAhead { .. } => ErrorKind::CursorAhead,
            Reset::HistoryPruned { .. } => ErrorKind::HistoryPruned,
        };
        let message = format!("{reset}; start again from GET /sync/snapshot and keep what is not uploaded yet");
        Self { kind, message: message.into(), cause: None, reset: Some(reset), retry_after_s: None }
    }
}

impl From<SyncError> for ApiError {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Reset(reset) => reset.into(),
            SyncError::Store(error) => Self::from(&*error),
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Rejected(message) => Self::client(ErrorKind::AuthenticationFailed, message),
            AuthError::Unavailable(cause) => Self::unavailable("credentials cannot be checked now; try again", cause),
        }
    }
}

/// Answers for paths that do not exist.
pub(crate) async fn nowhere(_: Anonymous) -> ApiError {
    not_found().await
}

/// The same, for one who was let in already.
pub(crate) async fn not_found() -> ApiError {
    ApiError::client(ErrorKind::NotFound, "there is nothing at this path; GET / lists what there is")
}

/// Answers for methods that a path does not have.
pub(crate) async fn method_not_allowed(_: Anonymous) -> ApiError {
    ApiError::client(ErrorKind::MethodNotAllowed, "this path does not have that method; the header `allow` lists them")
}

/// Answers for a handler that panicked.
#[expect(clippy::needless_pass_by_value, reason = "the signature is the catch-panic layer's")]
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    ApiError::internal(format!("panicked: {}", text.unwrap_or("with something that is no text"))).into_response()
}
