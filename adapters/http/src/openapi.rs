//! What the OpenAPI document says beyond the endpoints: who may ask, and how a request fails.

use std::collections::BTreeMap;
use std::future::{Ready, ready};

use axum::body::Bytes;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::json;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, OpenApi, Ref, RefOr, Required, Response, ResponseBuilder};
use utoipa::{IntoParams, IntoResponses, Modify};

use crate::error::ErrorKind;
use crate::wire::ErrorBody;

/// The document, without its endpoints.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Outrigger",
        description = "Keeps the devices of a user in step. Devices work offline on their own database, upload what \
                       changed, and download what other devices changed.\n\nEvery answer has the header \
                       `x-request-id`: the request's own, or a new one."
    ),
    tags(
        (name = "sync", description = "What devices call."),
        (name = "admin", description = "What became of the caller's rows in the app's own tables; for administrators \
                                        (`auth.admin_claim`) that of all users, their devices, and removing a user."),
        (name = "operation", description = "What operators call."),
        (name = "demo", description = "There in demo mode only."),
    ),
    components(schemas(ErrorBody)),
    modifiers(&Bearer),
)]
pub(crate) struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut OpenApi) {
        let description = "A JSON Web Token: `sub` names the user, `did` or `source_id` the source, unless the server's \
                           configuration calls these claims something else. Where that allows it \
                           (`auth.source_header`), a token that names no source comes with the header \
                           `Outrigger-Source-Id`.";
        let scheme =
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").description(Some(description));
        let components = document.components.get_or_insert_with(Components::new);
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme.build()));
    }
}

/// The header by which a request names its source where the token does not.
pub(crate) struct SourceHeader;

impl IntoParams for SourceHeader {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let description = "The source, for tokens that name none, where `auth.source_header` is on.";
        let text = ObjectBuilder::new().schema_type(Type::String).build();
        let header = ParameterBuilder::new().name("Outrigger-Source-Id").parameter_in(ParameterIn::Header);
        vec![header.description(Some(description)).required(Required::False).schema(Some(text)).build()]
    }
}

/// How any authenticated request may fail.
pub(crate) struct SyncErrors;
/// How a download fails.
pub(crate) struct DownloadErrors;
/// How reading a snapshot fails.
pub(crate) struct SnapshotErrors;
/// How an upload fails.
pub(crate) struct UploadErrors;
/// How listing something fails that an administrator may see of others.
pub(crate) struct ListErrors;
/// How what is for administrators fails.
pub(crate) struct AdminErrors;
/// How what an administrator does to one user fails.
pub(crate) struct OneUserErrors;
/// How trying a failure again fails.
pub(crate) struct RetryErrors;
/// How the demo's sign-in fails.
pub(crate) struct SigninErrors;
/// How `GET /ready` fails.
pub(crate) struct ReadyErrors;

type Responses = BTreeMap<String, RefOr<Response>>;

impl IntoResponses for SyncErrors {
    fn responses() -> Responses {
        use ErrorKind::{AuthenticationFailed, InternalError, RateLimited, Unavailable};
        [AuthenticationFailed, RateLimited, InternalError, Unavailable].into_iter().map(documented).collect()
    }
}

impl IntoResponses for DownloadErrors {
    fn responses() -> Responses {
        let own = [ErrorKind::CursorAhead, ErrorKind::HistoryPruned].map(documented);
        SnapshotErrors::responses().into_iter().chain(own).collect()
    }
}

impl IntoResponses for SnapshotErrors {
    fn responses() -> Responses {
        let own = [ErrorKind::InvalidRequest, ErrorKind::EpochChanged].map(documented);
        SyncErrors::responses().into_iter().chain(own).collect()
    }
}

impl IntoResponses for UploadErrors {
    fn responses() -> Responses {
        let own = [documented(ErrorKind::EpochChanged)];
        SyncErrors::responses().into_iter().chain(SigninErrors::responses()).chain(own).collect()
    }
}

impl IntoResponses for RetryErrors {
    fn responses() -> Responses {
        let own = [ErrorKind::Forbidden, ErrorKind::NotFound, ErrorKind::RetryInProgress].map(documented);
        SyncErrors::responses().into_iter().chain(SigninErrors::responses()).chain(own).collect()
    }
}

impl IntoResponses for ListErrors {
    fn responses() -> Responses {
        AdminErrors::responses()
    }
}

impl IntoResponses for AdminErrors {
    fn responses() -> Responses {
        let own = [ErrorKind::InvalidRequest, ErrorKind::Forbidden].map(documented);
        SyncErrors::responses().into_iter().chain(own).collect()
    }
}

impl IntoResponses for OneUserErrors {
    fn responses() -> Responses {
        AdminErrors::responses().into_iter().chain([documented(ErrorKind::NotFound)]).collect()
    }
}

impl IntoResponses for SigninErrors {
    fn responses() -> Responses {
        use ErrorKind::{
            InvalidRequest, PayloadTooLarge, RateLimited, RequestTimeout, Unavailable, UnsupportedMediaType,
        };
        let own = [InvalidRequest, RequestTimeout, PayloadTooLarge, UnsupportedMediaType, RateLimited, Unavailable];
        own.into_iter().map(documented).collect()
    }
}

impl IntoResponses for ReadyErrors {
    fn responses() -> Responses {
        [documented(ErrorKind::Unavailable)].into()
    }
}

/// One row of the error table as the document has it.
fn documented(kind: ErrorKind) -> (String, RefOr<Response>) {
    let (status, code) = kind.row();
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("ErrorBody")))
        .example(Some(json!({"error": code, "message": "for a human"})));
    let description = status.canonical_reason().unwrap_or(code);
    let mut response = ResponseBuilder::new().description(description).content("application/json", content.build());
    if let Some((name, value)) = kind.header() {
        let text = ObjectBuilder::new().schema_type(Type::String).build();
        let example = value.to_str().unwrap_or_default().to_owned();
        response = response
            .header(name.as_str(), HeaderBuilder::new().schema(Some(text)).example(Some(example.into())).build());
    }
    (status.as_str().to_owned(), response.build().into())
}

/// A handler that serves the document, written out once.
pub(crate) fn serving(document: &OpenApi) -> impl Fn() -> Ready<Json> + Clone + Send + Sync + 'static {
    let text = Bytes::from(serde_json::to_vec(document).expect("an OpenAPI document has a JSON form"));
    move || ready(Json(text.clone()))
}

/// JSON that is there already.
pub(crate) struct Json(Bytes);

impl IntoResponse for Json {
    fn into_response(self) -> axum::response::Response {
        const HEADERS: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "application/json")];
        (HEADERS, self.0).into_response()
    }
}
