//! `GET /sync/schema-version`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::Api;
use crate::body::json;
use crate::extract::Authenticated;
use crate::openapi::{SourceHeader, SyncErrors};

/// The version of the app's own schema.
#[derive(Serialize, ToSchema)]
pub(crate) struct SchemaVersion {
    /// From the server's configuration.
    #[schema(example = 1)]
    schema_version: u32,
}

/// The app's schema version
///
/// Lets an app find out that it is too old for the data before it syncs.
#[utoipa::path(
    get,
    path = "/sync/schema-version",
    tag = "sync",
    security(("bearer" = [])),
    params(SourceHeader),
    responses((status = 200, description = "The configured version.", body = SchemaVersion), SyncErrors),
)]
pub(crate) async fn schema_version(State(api): State<Arc<Api>>, _: Authenticated) -> Response {
    json(&SchemaVersion { schema_version: api.schema_version }, 32)
}
